"""What pools of every flavour share. The pool for threads and greenlets is in :mod:`poolmgr.pool.sync`."""
