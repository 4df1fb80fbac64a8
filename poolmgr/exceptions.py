"""The errors a user of the library can meet. Their bases are redis-py's, so that code written for
redis-py catches them unchanged."""

from __future__ import annotations

from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    InvalidResponse,
    MaxConnectionsError,
    NoPermissionError,
    TimeoutError as RedisTimeoutError,
)

from poolmgr.errors import PoolmgrError, SettingsError, SupervisorError

__all__ = [
    "ConnectionPoolTimeoutError",
    "FleetRightsError",
    "GateShutError",
    "PoolClosedError",
    "PoolmgrError",
    "ReplyTooLargeError",
    "ServerDownError",
    "SettingsError",
    "SupervisorError",
]


class ConnectionPoolTimeoutError(PoolmgrError, MaxConnectionsError, RedisTimeoutError):
    """No connection came in time: others held all allowed connections for longer than ``timeout``, or another
    bound of ``docs/times.md`` was over.

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


class GateShutError(PoolmgrError, RedisConnectionError):
    """In a fleet: the server's table does not let this host open connections now. Says why. The caller has waited for
    another answer several times."""


class FleetRightsError(PoolmgrError, NoPermissionError):
    """In a fleet: the user may not give the commands that every new connection has to give. Says what to allow."""


class ReplyTooLargeError(PoolmgrError, InvalidResponse):
    """A reply, or those of a pipeline together, takes more than the pool's ``max_reply``. Its connection is closed, and
    the command may have been run. redis-py does not repeat it: the reply would be as long again."""


class PoolClosedError(PoolmgrError, RedisConnectionError):
    """The pool was closed by :meth:`poolmgr.ConnectionPool.close`."""
