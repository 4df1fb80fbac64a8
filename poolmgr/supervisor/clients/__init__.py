"""Who is connected to the supervisor, and which processes are registered.

- ``listener``: accepts clients; ``link``: one of them, bytes in and messages out
- ``roster``: which members are registered, and sending to them; ``watch``: when a process ends
- ``totals``: the counters of all pools, added up; ``footprint``: what each member costs the host
"""
