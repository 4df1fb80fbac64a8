"""A pytest plugin: puts our pools in place of redis-py's before its tests are imported.

``POOLMGR_UPSTREAM=ours`` switches it on. Permits are unlimited and nameless here: what names and budgets
do has tests of its own, and the tests of redis-py ask for the client name they have set.
"""

from __future__ import annotations

import os
from typing import Any

import redis
import redis.client
import redis.cluster
import redis.connection
import redis.sentinel

if os.environ.get("POOLMGR_UPSTREAM") == "ours":
    from tests_of_poolmgr.permits import FakeMember  # type: ignore[import-not-found]

    from poolmgr.pool.sentinel import SentinelConnectionPool as OurSentinelConnectionPool
    from poolmgr.pool.sync import ConnectionPool as OurConnectionPool

    class ConnectionPool(OurConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    class BlockingConnectionPool(ConnectionPool):
        """With redis-py's own defaults for a pool that waits."""

        def __init__(self, max_connections: int = 50, timeout: float | None = 20, **kwargs: Any) -> None:
            kwargs.pop("queue_class", None)
            super().__init__(max_connections=max_connections, timeout=timeout, **kwargs)

    class SentinelConnectionPool(OurSentinelConnectionPool):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.setdefault("member", FakeMember(prompt=True))
            super().__init__(*args, **kwargs)

    for module in (redis, redis.connection, redis.client, redis.cluster, redis.sentinel):
        for kind in (ConnectionPool, BlockingConnectionPool, SentinelConnectionPool):
            if hasattr(module, kind.__name__):
                setattr(module, kind.__name__, kind)
