"""What Linux says about processes, sockets, locks and limits. A leaf: of our modules it imports only
:mod:`poolmgr.native` and :mod:`poolmgr.lazy`."""
