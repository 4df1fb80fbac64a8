"""The errors a user of the library can meet. Their bases are redis-py's, so that code written for
redis-py catches them unchanged."""

from __future__ import annotations

from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    MaxConnectionsError,
    TimeoutError as RedisTimeoutError,
)


class PoolmgrError(Exception):
    """Base of all errors of this library."""


class SettingsError(PoolmgrError, ValueError):
    """An environment variable or argument has a value that is not allowed. The message is one line:
    the name, the value, what is allowed. Secrets are masked."""


class SupervisorError(PoolmgrError):
    """The supervisor cannot be reached or started, or refuses this process. One line, with the remedy."""


class ConnectionPoolTimeoutError(PoolmgrError, MaxConnectionsError, RedisTimeoutError):
    """No connection came within the pool's ``timeout``.

    Derives from :class:`redis.exceptions.MaxConnectionsError`, so that ``RedisCluster`` does not take
    a full pool for a dead node, and from :class:`redis.exceptions.TimeoutError`.

    Attributes:
        reason: ``pool`` (the pool's own ``max_connections``), ``budget`` (the shared budget is
            exhausted), ``descriptors`` (the process may open no more files), ``server`` (the server does
            not answer), ``supervisor`` (no supervisor, so the process cannot grow) or ``queue``
            (``max_waiting`` callers wait already).
    """

    def __init__(self, message: str = "", *, reason: str = "pool") -> None:
        super().__init__(message)
        self.reason = reason


class ServerDownError(PoolmgrError, RedisConnectionError):
    """The server is known to be down; the call failed at once instead of waiting. Says since when."""


class PoolClosedError(PoolmgrError, RedisConnectionError):
    """The pool was closed by :meth:`poolmgr.ConnectionPool.close`."""
