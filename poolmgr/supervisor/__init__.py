"""The process that shares the budget: one for each socket path, on one host, for one user.

``python -m poolmgr.supervisor`` runs it; :mod:`poolmgr.launch` starts it on demand. All decisions are the ledger's
(:mod:`poolmgr.budget.ledger`); this package carries events to the ledger, and its messages to members and servers. It
never imports :mod:`poolmgr.pool` or :mod:`poolmgr.member`.

- ``supervisor``: its parts put together; ``context``: what they have in common
- ``committer``: settles the ledger, saves it, tells the members, in this order
- ``registrar``: acts on what members say; ``pictures``: what they hear of others while their callers wait
- ``clients``: who is connected; ``upstreams``: the Redis servers; ``fleet``: this host's part of one
- ``disk``; ``views``: seen from outside
- ``executor``: a thread for what blocks; ``logs``; ``notify``: messages to systemd
"""
