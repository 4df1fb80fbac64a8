"""The process that shares the budget: one for each socket path, on one host, for one user.

``python -m poolmgr.supervisor`` runs it; :mod:`poolmgr.launch` starts it on demand. All decisions are the ledger's
(:mod:`poolmgr.budget.ledger`); this package carries events to the ledger, and its messages to members and servers. It
never imports :mod:`poolmgr.pool` or :mod:`poolmgr.member`.
"""
