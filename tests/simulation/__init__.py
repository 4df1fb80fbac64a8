"""The real ledger and the real member core, in a world of virtual time that fails in every way it can.

``python -m tests.simulation --seeds 1000`` runs; :mod:`tests.simulation.world` explains.
"""
