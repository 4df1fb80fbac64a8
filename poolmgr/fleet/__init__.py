"""One budget for the hosts that share a server: each host's budget is a lease of it, kept in that very server.

Two sentences carry the protocol. *The end of a lease frees nothing; it only permits others to fence it.* And: *every
new connection asks the server whether its lease still stands.* No host's clock is used for safety. ARCHITECTURE.md has
the rules, F1 to F9, with what breaks without each.

- ``lease``: one host's lease at one server; ``gate``: what a new connection reads of it
- ``duty``: what one host at a time does for all: proof, census, audit
- ``script``: the questions that the table answers; ``source``: its script, ``table.lua``
- ``records``: the table as people see it; ``rights``: what a user must be allowed
"""
