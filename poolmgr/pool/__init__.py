"""What pools of every flavour share. The pool for threads and greenlets is in :mod:`poolmgr.pool.sync`.

- Who gets the next connection: ``queue``. How a caller waits for it: ``waiting``; why it is refused: ``refusal``.
- Whether a connection is taken in, lent again, closed: ``admission``; when it falls due: ``housekeeping``.
- What the member asks, what a user changes while the pool is in use, what a fork does to it: ``base``, ``fork``.
- Which server's permit it is, and which of its addresses': ``permit_source``, ``endpoints``, ``names``; from whom:
  ``membership``.
- What a connection owes, how it is named and greeted: ``owed``, ``naming``, ``handshake``.
- Which options there are: ``options``; those of ``get_pool()``: ``default``.
"""
