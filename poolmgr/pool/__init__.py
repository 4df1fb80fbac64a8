"""What pools of every flavour share. The pool for threads and greenlets is in ``sync``, the one for asyncio in ``aio``;
a further flavour derives from ``base.BasePool``.

- Who gets the next connection: ``queue``; which part of a pool, if event loops share it: ``parts``. How a caller waits:
  ``waiting``; why it is refused: ``refusal``; how long a request has waited: ``request_wait``.
- Whether a connection is taken in, lent again, closed: ``admission``; when it falls due: ``housekeeping``; what the
  pool keeps on it: ``entry``; which releases are looked at closely: ``releases``.
- What the member asks, what a user changes while the pool is in use, what a fork does to it: ``base``, ``fork``; what
  these parts know of each other: ``host``. The figures: ``stats``.
- Which server's permit it is, and which of its addresses': ``permit_source``, ``endpoints``, ``names``; from whom:
  ``membership``.
- What commands do to a connection's session (PubSub, WATCH, MULTI): ``session_state``; which replies it still owes:
  ``owed``; which errors prove that nothing was sent: ``unsent``; how long a reply may be: ``metering``; errors that
  say it leads to the wrong server: ``misdirected``.
- How a Sentinel is asked where the servers are: ``sentinels``.
- How it is named and greeted: ``naming``, ``handshake``; tried again: ``retries``; told of maintenance: ``handlers``.
- Classes derived from a user's, and connections that become theirs: ``derived``; which methods are redis-py's own:
  ``unchanged``; redis-py's private lists of connections: ``views``.
- Which options there are: ``options``; those of ``get_pool()``: ``default``.
"""
