"""Hosts that share one server's connections, in virtual time: the real script, leases, gate and duty, and every fault.

- ``table``: the script, run over a dictionary; ``server``: a server process with its clients, its clock and its end
- ``host``: a host around the real lease; ``fencer``: a host with the duty
- ``world``: who does what when, and what must hold after every step; ``mutants``: every rule switched off
"""
