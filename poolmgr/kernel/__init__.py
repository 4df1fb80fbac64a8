"""What Linux says about processes, sockets, locks and limits. A leaf: of our modules it imports only
:mod:`poolmgr.native` and :mod:`poolmgr.lazy`.

- ``processes``: when one began, what it runs, whether it has ended; ``peer``: which one is at the end of a socket
- ``lockfile``: a lock that is a file; ``nofile``: the limit of open files
- ``tcp``: a process's connections, with ``diag``, which asks the kernel for them
- ``cleaners``: files of ours in ``/tmp`` that no cleaner takes
"""
