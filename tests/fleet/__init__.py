"""One budget over several hosts, with real servers and processes.

- ``hosts``: a host with a supervisor and workers of its own; ``worker``: what runs in those
- ``namespaces``: hosts and their server in namespaces; ``oracle``: those under faults;
  ``weakened``: a supervisor with a rule switched off
"""
