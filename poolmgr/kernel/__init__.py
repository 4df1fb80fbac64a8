"""What Linux tells about processes, sockets, locks and limits. A leaf: it imports nothing of ours but the interpreter's
own (:mod:`poolmgr.native`, :mod:`poolmgr.lazy`)."""
