"""Connections through Sentinel: a refused permit is not "no replica" (:mod:`poolmgr.pool.sentinels`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.sentinel import SlaveNotFoundError

from poolmgr.pool import sentinels
from poolmgr.pool.entry import PoolEntry

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = PoolEntry


class ThroughSentinel(_Base):  # type: ignore[misc]
    """In front of classes that derive from redis-py's :class:`redis.sentinel.SentinelManagedConnection`."""

    def connect_to(self, address: Any) -> Any:
        with sentinels.trying(self):
            return super().connect_to(address)

    def _connect_retry(self) -> Any:
        with sentinels.choosing(self, SlaveNotFoundError):
            return super()._connect_retry()
