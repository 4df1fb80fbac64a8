"""A world of addresses and servers: where an address leads changes, and members go by addresses.

The real :class:`poolmgr.supervisor.upstreams.registry.Registry`,
:class:`poolmgr.supervisor.upstreams.sameness.Sameness`, ledger and member core; around them, in virtual time, what asks
addresses who they are, and members that open and close connections. Addresses move, swap, lead to several servers in
turn; servers are restarted, and hang; members come to addresses and leave them, lose their links and are killed;
supervisors are killed.

Checked after every step: no member has more open by the addresses of one upstream than it is charged with there, and
what is charged there has not grown beyond the budget. A second after the last move each *true* server counts no more
than its budget. In the end: addresses that lead to the same server are one upstream, and no others; whoever wants can
have the whole budget of each; nobody waits for a server that hangs.
"""
