"""The Redis servers behind the budget: how each is reached, asked, and what it proves.

Which there are:

- ``registry``: all of them: when one is met, merged, parted, forgotten
- ``addresses``: which address leads to which server
- ``twins``: which servers are one, among all; ``sameness``: by what its addresses say; ``likeness``, ``comparison``: by
  a connection that both show, and the steps of that
- ``resolution``: which server a new address is; ``loan``: the permits for that look; ``lender``: what it gets of others
- ``upstream``: all that is known of one server; ``ways``: how to reach it; ``ports``: what parts know of each other

How one is asked:

- ``probe``: its task; ``schedule`` and ``throttle``: when it is asked, and what that may cost
- ``inspection``: which questions are asked (INFO, maxclients); ``lists``: CLIENT LIST; ``session``: the connection;
  ``admin``: its connecting and its end; ``resp``: its bytes
- ``findings``, ``summary``: the answers; ``reconcile``: what follows from them
- ``outages``, ``verdict``: whether it is down
- ``allowance``: the budget that it leaves (why so large: ``budget.ceilings``); ``own_permits``: those of our own
  connections

Where a dead process's permits are freed:

- ``belonging``: whose a connection is; ``census``: those that were there before us
- ``latecomers``: after a lost snapshot, members that have yet to register
- ``proof``: whether connections are gone; ``reclaim``: what needs a proof, and what it frees;
  ``unproven``: waits instead
"""
