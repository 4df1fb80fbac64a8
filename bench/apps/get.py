"""One GET for each request. The contestants differ only in the pool that the GET uses.

``BENCH_POOL`` is ``poolmgr``, or a number: redis-py's blocking pool with that many connections in each worker.
Each worker makes its pool on first use. The answer is the worker's pid, always of the same length, so that the
measuring client knows which worker a connection leads to.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import redis

_clients: dict[int, redis.Redis] = {}


def _client() -> redis.Redis:
    kind = os.environ["BENCH_POOL"]
    if kind == "poolmgr":
        import poolmgr

        return poolmgr.get_client()
    pool = redis.BlockingConnectionPool.from_url(os.environ["REDIS_URL"], max_connections=int(kind), timeout=60)
    return redis.Redis(connection_pool=pool)


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    pid = os.getpid()
    client = _clients.get(pid)
    if client is None:
        client = _clients.setdefault(pid, _client())
    status = "200 OK" if client.get("bench") == b"value" else "500 Wrong"
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", "10")])
    return [b"%10d" % pid]
