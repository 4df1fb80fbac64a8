"""The pool for tasks in virtual time: the real shell, :mod:`poolmgr.pool.aio`, in event loops that nothing but a seed
drives. Its tasks are cancelled between any two steps, connects fail, loops are closed without a goodbye.

- ``loop``: an event loop of virtual time that does one step when it is told to.
- ``server``: a server, connections to it, and the permits for them.
- ``world``: the course of a seed, and its faults; ``checks``: what must hold.
- ``mutants``: the shell's rules switched off; ``between``: those by which loops share a pool.

``python -m tests.simulation.tasks --seeds 1000`` runs it.
"""
