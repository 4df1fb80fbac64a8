"""This process's default pool and client, made from the environment when they are first asked for.

They are made once in a process and stay the same objects over a fork: the pool itself starts empty in
the child. Nothing is connected here; the pool connects when it is used.

There is no lock. A lock made before gevent has patched the process, or held by another thread at the
moment of a fork, would stop the process forever; two threads that are here at once both make an
object that holds nothing yet, and ``dict.setdefault``, which is atomic, decides which one is used.
"""

from __future__ import annotations

import redis
from redis.retry import Retry

from poolmgr.pool import default
from poolmgr.pool.sync.pool import ConnectionPool

_pools: dict[tuple[int | None, int, type | None], ConnectionPool] = {}
"""By the arguments of :func:`get_pool`."""

_clients: dict[str, redis.Redis] = {}
_THIS = "default"


def get_pool(*, protocol: int | None = None, max_reply: int = 0, parser_class: type | None = None) -> ConnectionPool:
    """The pool of this process for the server of ``REDIS_URL``; if that is unset, the embedded one.

    Args:
        protocol: 2 or 3 for a pool of this process whose connections speak that version of RESP
            whatever the URL says; None for the default pool. They share the process's permits.
        max_reply: for a pool of this process with this bound; 0: the environment's.
        parser_class: for a pool of this process whose connections have this parser (redis-py's argument).

    Raises:
        SettingsError: an environment variable has a value that is not allowed.
        SupervisorError: the embedded server cannot be started.
    """
    wanted = protocol, max_reply, parser_class
    pool = _pools.get(wanted)
    if pool is None:
        url, options = default.arguments(Retry, protocol=protocol, max_reply=max_reply, parser_class=parser_class)
        pool = _pools.setdefault(wanted, ConnectionPool.from_url(url, **options))
    return pool


def get_client() -> redis.Redis:
    """A client on :func:`get_pool`; one for all threads, as redis-py intends.

    Raises: as :func:`get_pool`.
    """
    client = _clients.get(_THIS)
    if client is None:
        client = _clients.setdefault(_THIS, redis.Redis(connection_pool=get_pool()))
    return client
