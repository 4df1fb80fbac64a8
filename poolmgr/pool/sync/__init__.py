"""The pool for threads and greenlets: a drop-in for redis-py's. What every flavour shares is a floor above.

- The pool as users have it: ``pool``, ``lease``, ``sentinel``, ``default``; redis-py's interface on top of it:
  ``redis_interface``.
- How a thread waits for a connection: ``waiting``; how one is opened: ``connector``, ``retries``.
- A connection: ``connection``; a look at it before it is lent: ``look``; its socket, its greeting, its replies:
  ``sockets``, ``handshake``, ``replies``.
- Which class a pooled connection has: ``derivation``, ``overrides``; for a user's own class: ``overridden``,
  ``adapters``; for one through Sentinel: ``managed``.
"""
