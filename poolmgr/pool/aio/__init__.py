"""The pool for tasks of an event loop: a drop-in for ``redis.asyncio``'s. What every flavour shares is a floor above.

- The pool as users have it: ``pool``, ``lease``, ``default``, ``lifespan``, ``sentinel``; redis-py's interface on top
  of it: ``redis_interface``.
- Its part in one event loop: ``shard``; the parts together: ``shards``; what one loop gets of another: ``errand``.
- How a task waits: ``waiting``, ``claims``, ``parker``.
- How connections are opened, looked at and taken back: ``connector``, ``retries``.
- A connection: ``connection``; its socket, its bytes, its replies: ``sockets``, ``stream``, ``replies``, ``parser``,
  ``handshake``; of a class that sends or reads in its own way: ``counted``.
- Which class a pooled connection has: ``derivation``, ``overrides``; of one through Sentinel: ``managed``.
- Calls that block, off the loop: ``aside``, ``credentials``; coroutines that never suspend, without one: ``finish``.
"""
