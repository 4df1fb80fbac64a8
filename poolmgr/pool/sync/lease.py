"""``with pool.connection() as c:``: a connection that comes back at the end of the block."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from poolmgr.pool.sync.redis_interface import RedisInterface


class Lease:
    """A connection for a ``with`` block."""

    __slots__ = ("_connection", "_pool", "_timeout")

    def __init__(self, pool: RedisInterface, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._connection: Any = None

    def __enter__(self) -> Any:
        pool = self._pool
        self._connection = connection = (
            pool.get_connection() if self._timeout == pool.timeout else pool._checkout(self._timeout)
        )
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)
