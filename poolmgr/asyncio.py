"""poolmgr for asyncio: a pool for ``redis.asyncio.Redis`` under the same budget, and this process's default one."""

from __future__ import annotations

from poolmgr.pool.aio.default import get_client, get_pool
from poolmgr.pool.aio.lifespan import lifespan
from poolmgr.pool.aio.pool import ConnectionPool
from poolmgr.pool.aio.sentinel import SentinelConnectionPool

__all__ = ["ConnectionPool", "SentinelConnectionPool", "get_client", "get_pool", "lifespan"]
