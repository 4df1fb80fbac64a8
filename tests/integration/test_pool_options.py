"""How the pool's options are set: in a URL, and from the environment."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import poolmgr
import poolmgr.asyncio
from poolmgr.pool.aio import default as for_tasks
from poolmgr.pool.queue import PoolCore
from poolmgr.pool.sync import connector, default as for_threads
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember


def in_a_loop(pool: poolmgr.asyncio.ConnectionPool) -> PoolCore:
    """The core that the pool has in an event loop."""

    async def core() -> PoolCore:
        return pool._here()._core

    return asyncio.run(core())


def test_every_option_in_a_url(server: RedisServer):
    pool = ConnectionPool.from_url(
        f"redis://127.0.0.1:{server.port}/2?max_connections=7&timeout=1.5&min_idle=2&max_waiting=9&idle_timeout=30"
        "&max_lifetime=600&order=lifo&leak_after=4&name=cache&max_connecting=3&max_reply=9&socket_timeout=3&client_name=a%20b",
        member=FakeMember(),
        timeout=99,
    )
    assert (pool.max_connections, pool.timeout, pool._core.min_idle, pool.max_waiting) == (7, 1.5, 2, 9)
    assert (pool.idle_timeout, pool.max_lifetime, pool.order, pool.leak_after) == (30, 600, "lifo", 4)
    assert (pool.name, pool._core.max_opening, pool.max_reply) == ("cache", 3, 9)
    assert pool.connection_kwargs["socket_timeout"] == 3
    assert pool.connection_kwargs["client_name"] == "a b"
    assert pool.connection_kwargs["db"] == 2
    assert ConnectionPool.from_url("redis://h?timeout=none", member=FakeMember()).timeout is None


@pytest.mark.parametrize(
    "option", ["order=random", "timeout=-1", "min_idle=x", "max_waiting=-2", "max_lifetime=nan", "max_connecting=0"]
)
def test_an_option_with_a_wrong_value(option: str):
    with pytest.raises(ValueError, match=option.partition("=")[0]):
        ConnectionPool.from_url(f"redis://localhost?{option}")


@pytest.mark.parametrize(("face", "default"), [(poolmgr, for_threads), (poolmgr.asyncio, for_tasks)])
def test_every_option_from_the_environment(
    face: Any, default: Any, server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    values = {
        "REDIS_URL": f"redis://127.0.0.1:{server.port}/0?order=fifo", "REDIS_POOL_MAX_CONNECTIONS": "7",
        "REDIS_POOL_TIMEOUT": "1.5", "REDIS_POOL_MIN_IDLE": "2", "REDIS_POOL_MAX_WAITING": "9",
        "REDIS_POOL_IDLE_TIMEOUT": "30", "REDIS_POOL_MAX_LIFETIME": "600", "REDIS_POOL_ORDER": "lifo",
        "REDIS_POOL_LEAK_AFTER": "4", "REDIS_POOL_NAME": "cache", "REDIS_POOL_MAX_CONNECTING": "3",
        "REDIS_POOL_MAX_REPLY": "1K",
        "REDIS_SOCKET_TIMEOUT": "3", "REDIS_SOCKET_CONNECT_TIMEOUT": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(default, "_pools", {})
    monkeypatch.setattr(default, "_clients", {})
    pool = face.get_pool()
    core = pool._core if face is poolmgr else in_a_loop(pool)
    assert (pool.max_connections, pool.timeout, core.min_idle, pool.max_waiting) == (7, 1.5, 2, 9)
    assert (pool.idle_timeout, pool.max_lifetime, pool.leak_after) == (30, 600, 4)
    assert (pool.name, core.max_opening, pool.max_reply) == ("cache", 3, 1024)
    if face is poolmgr:
        assert default.get_pool(max_reply=99).max_reply == 99
        assert default.get_pool(protocol=2).name == "cache-resp2"
    assert pool.order == "fifo", "the URL goes before"
    assert pool.connection_kwargs["socket_timeout"] == 3
    assert pool.connection_kwargs["socket_connect_timeout"] == 1
    assert face.get_pool() is pool
    assert face.get_client().connection_pool is pool


def test_a_release_is_looked_at_closely_only_where_somebody_has_asked_for_it(server: RedisServer, monkeypatch):
    """The other way costs seven times as much."""

    class Theirs(ConnectionPool):
        def owns_connection(self, connection: object) -> bool:
            return True

    closely: list[object] = []
    monkeypatch.setattr(connector, "take_back", lambda pool, connection, listened: closely.append(pool))
    for kind, expected in ((ConnectionPool, 0), (Theirs, 1)):
        pool = kind(host="127.0.0.1", port=server.port, member=FakeMember())
        pool.release(pool.get_connection())
        assert len(closely) == expected
