"""``async with pool.connection() as c:``: a connection that comes back at the end of the block."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from poolmgr.pool.aio.redis_interface import RedisInterface


class Lease:
    """A connection for an ``async with`` block."""

    __slots__ = ("_connection", "_pool", "_timeout")

    def __init__(self, pool: RedisInterface, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._connection: Any = None

    async def __aenter__(self) -> Any:
        pool = self._pool
        self._connection = connection = await (
            pool.get_connection() if self._timeout == pool.timeout else pool._checkout(self._timeout)
        )
        return connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await self._pool.release(connection)
