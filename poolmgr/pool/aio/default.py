"""This process's default pool and client, made from the environment when they are first asked for.

They are made once in a process and stay the same objects over a fork: the pool itself starts empty in
the child. Nothing is connected here; the pool connects when it is used.

There is no lock. A lock made before gevent has patched the process, or held by another thread at the
moment of a fork, would stop the process for ever; two threads that are here at once both make an
object that holds nothing yet, and ``dict.setdefault``, which is atomic, decides which one is used.
"""

from __future__ import annotations

import redis.asyncio
from redis.asyncio.retry import Retry

from poolmgr.pool import default
from poolmgr.pool.aio.pool import ConnectionPool

_pools: dict[str, ConnectionPool] = {}
_clients: dict[str, redis.asyncio.Redis] = {}
_THIS = "default"


def get_pool() -> ConnectionPool:
    """The pool of this process's tasks for the server of ``REDIS_URL``; if that is unset, the embedded one.

    Raises:
        SettingsError: an environment variable has a value that is not allowed.
        SupervisorError: the embedded server cannot be started.
    """
    pool = _pools.get(_THIS)
    if pool is None:
        url, options = default.arguments(Retry, protocol=None, max_reply=0, parser_class=None)
        pool = _pools.setdefault(_THIS, ConnectionPool.from_url(url, **options))
    return pool


def get_client() -> redis.asyncio.Redis:
    """A client on :func:`get_pool`; one for all tasks, as redis-py intends.

    Raises: as :func:`get_pool`.
    """
    client = _clients.get(_THIS)
    if client is None:
        client = _clients.setdefault(_THIS, redis.asyncio.Redis(connection_pool=get_pool()))
    return client
