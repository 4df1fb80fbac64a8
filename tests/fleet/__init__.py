"""One budget over several hosts, with real servers and processes.

- ``hosts``: a host with a supervisor and workers of its own; ``worker``: what runs in those
- ``oracle``: hosts in namespaces under faults; ``weakened``: a supervisor with a rule switched off
"""
