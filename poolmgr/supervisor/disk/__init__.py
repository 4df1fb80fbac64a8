"""What the supervisor keeps on disk beside its socket.

- ``snapshot``: the ledger, for the next supervisor
- ``singleton``: the lock and the socket, of which there is one; ``scope``: the ledger's random name
"""
