"""The errors that do not derive from redis-py's.

The supervisor and the command line raise only these, because redis takes longer to load than all their other modules.
Users also find these in :mod:`poolmgr.exceptions`, beside those that a call to Redis can raise.
"""

from __future__ import annotations


class PoolmgrError(Exception):
    """Base of all errors of this library."""


class SettingsError(PoolmgrError, ValueError):
    """An environment variable or argument has a value that is not allowed. The message is one line:
    the name, the value, what to set. Secrets are masked."""


class SupervisorError(PoolmgrError):
    """The supervisor cannot be reached or started, or refuses this process. One line, with the remedy."""


class BodyTooLongError(PoolmgrError):
    """Raised by the ``wsgi.input`` of a request whose body was given up because it is longer than
    ``WORKER_MAX_BODY``."""
