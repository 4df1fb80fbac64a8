"""The worker service on a bare pool of redis-py: what the comparison of requests per second is beside.

Each process has a pool as large as a static division of the budget leaves it (``BARE_POOL``).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import redis

import poolmgr
from worker import app as worker_app


class BarePool(redis.BlockingConnectionPool):
    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        connection = self.get_connection()
        try:
            yield connection
        finally:
            self.release(connection)


_pool = BarePool.from_url(os.environ["REDIS_URL"], protocol=2, max_connections=int(os.environ["BARE_POOL"]), timeout=5)
poolmgr.get_pool = lambda **_: _pool  # type: ignore[assignment]
app = worker_app.app
