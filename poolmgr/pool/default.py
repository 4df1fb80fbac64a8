"""This process's default pool and client, made from the environment when they are first asked for.

They are made once in a process and stay the same objects over a fork: the pool itself starts empty in
the child. Nothing is connected here; the pool connects when it is used.

There is no lock. A lock made before gevent has patched the process, or held by another thread at the
moment of a fork, would stop the process for ever; two threads that are here at once both make an
object that holds nothing yet, and ``dict.setdefault``, which is atomic, decides which one is used.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from poolmgr import settings
from poolmgr.lazy import load
from poolmgr.pool.sync.pool import ConnectionPool

_pools: dict[tuple[int | None, int, type | None], ConnectionPool] = {}
"""By the arguments of :func:`get_pool`."""

RETRIES = 3
"""How often redis-py repeats a command of the default client whose connection broke. ``redis.Redis()`` made
without a pool also repeats (ten times); few and quick, so that callers learn of an outage and do not wait it out."""

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
        values = settings.load()
        url, options = values.redis_url or _embedded(values), options_of(values)
        if protocol is not None:
            url = _without_protocol(url)
            prefix = "" if values.pool_name == "default" else f"{values.pool_name}-"
            options |= {"protocol": protocol, "name": f"{prefix}resp{protocol}"}
        if max_reply:
            options["max_reply"] = max_reply
        if parser_class is not None:
            options["parser_class"] = parser_class
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


def options_of(values: settings.Settings) -> dict[str, Any]:
    """The arguments of a pool that the environment sets; the URL's query overrides them."""
    return {
        "name": values.pool_name,
        "max_connections": values.pool_max_connections,
        "timeout": values.pool_timeout,
        "min_idle": values.pool_min_idle,
        "max_waiting": values.pool_max_waiting,
        "idle_timeout": values.pool_idle_timeout,
        "max_lifetime": values.pool_max_lifetime,
        "order": values.pool_order,
        "leak_after": values.pool_leak_after,
        "max_connecting": values.pool_max_connecting,
        "max_reply": values.pool_max_reply,
        "socket_timeout": values.socket_timeout,
        "socket_connect_timeout": values.socket_connect_timeout,
        "retry": Retry(ExponentialWithJitterBackoff(base=0.01, cap=0.1), RETRIES),
    }


def _without_protocol(url: str) -> str:
    """In redis-py the URL's query overrides keyword arguments."""
    place, question, query = url.partition("?")
    kept = [pair for pair in query.split("&") if pair.partition("=")[0] != "protocol"]
    return place + question + "&".join(kept)


def _embedded(values: settings.Settings) -> str:
    embedded = load("poolmgr.embedded")  # its dependencies are an extra, which other users need not load
    url: str = embedded.ensure(values)
    return url
