"""A process's part of the budget: its permits, and the one thread that talks to the supervisor.

- ``member``: each process has one; ``core``: its decisions; ``locked``: the lock around them
- ``loop``: what runs in the thread, with ``discovery`` (finds the supervisor), ``session`` and ``link`` (talk to it),
  ``pools`` (serves the process's pools), ``closer`` (closes sockets) and ``waker`` (wakes it)
- ``ports``: what pools and member know of each other; ``permits``: permits, as pools see them;
  ``waiting``: a caller that waits for one itself
- ``unshared``: the member of a process in which no budget is enforced
"""
