"""This host's part of a fleet, at each server: :mod:`poolmgr.fleet` has the rules; here are the shell and the calls.

- ``leaseholder``: the lease of one server in the event loop: what is asked when, and what follows for the ledger.
- ``remarks``: what people read of it.
- ``renewals``: when a server's probe asks the table, and with which permit.
- ``table``: the calls to the fleet's table, in a probe's thread.
- ``fencing``: what one host at a time does for all: prove, audit, count; in the same thread.
"""
