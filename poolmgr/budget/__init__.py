"""Pure rules: how many connections each process may hold. No sockets, clock or threads; time is an argument.

- ``ledger``: every method that moves a permit; ``accounts``: its rows; ``effects``: what a turn of it decided
- ``sharing``: which members get more, which give back; ``entitlement``, ``allocation``: fair shares, their arithmetic
- ``recalls``: from which living member permits are taken back, and in which order
- ``merging``: what becomes of permits when two servers turn out to be one, or one to be two
- ``recovery``: what a new supervisor makes of the old one's snapshot
- ``ceilings``: how large a server's budget is, and why; ``foreign_clients``: how many of its clients are not ours
- ``views``: the numbers for people
"""
