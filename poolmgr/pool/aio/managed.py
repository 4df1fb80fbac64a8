"""Connections through Sentinel: a refused permit is not "no replica" (:mod:`poolmgr.pool.sentinels`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.asyncio.sentinel import SlaveNotFoundError
from redis.exceptions import ConnectionError as RedisConnectionError, ReadOnlyError

from poolmgr.pool import sentinels
from poolmgr.pool.entry import PoolEntry

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = PoolEntry


class ThroughSentinel(_Base):  # type: ignore[misc]
    """In front of classes that derive from redis-py's :class:`redis.asyncio.sentinel.SentinelManagedConnection`."""

    async def connect_to(self, address: Any) -> Any:
        with sentinels.trying(self):
            return await super().connect_to(address)

    async def _connect_retry(self) -> Any:
        with sentinels.choosing(self, SlaveNotFoundError):
            return await super()._connect_retry()


class ReadsThroughSentinel(ThroughSentinel):
    """The same, and what redis-py's class does about replies, which our quick way to read leaves out."""

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """As redis-py's: a server that refuses writes is not the primary any more."""
        try:
            return await super().read_response(*args, **kwargs)
        except ReadOnlyError:
            if not self.connection_pool.is_master:
                raise
            await self.disconnect()
            raise RedisConnectionError("The previous master is now a slave") from None
