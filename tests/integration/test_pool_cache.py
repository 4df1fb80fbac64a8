"""redis-py's client-side cache on our pool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from redis.cache import CacheConfig

from poolmgr.pool.sync.adapters import Cached
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, wait_for
from tests.pools import client_of, direct_pool, nothing_is_missing
from tests.servers import let_redis_py_cache


@pytest.fixture
def pool(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[ConnectionPool]:
    let_redis_py_cache(server.kind, Cached, monkeypatch)
    pool = direct_pool(server, protocol=3, cache_config=CacheConfig(), max_connections=2, timeout=5)
    yield pool
    pool.disconnect()


def set_elsewhere(server: RedisServer, key: str, value: str) -> None:
    with server.observer() as observer:
        observer.set(key, value)


def test_values_come_from_the_cache_until_they_change(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    set_elsewhere(server, "k", "one")
    assert client.get("k") == b"one"
    calls = server.info("commandstats")["cmdstat_get"]["calls"]
    for _ in range(5):
        assert client.get("k") == b"one"
    assert server.info("commandstats")["cmdstat_get"]["calls"] == calls
    set_elsewhere(server, "k", "two")
    wait_for(lambda: client.get("k") == b"two")
    assert pool.stats().closed == {}
    nothing_is_missing(pool)


def test_an_invalidation_for_an_idle_connection_is_read_by_whoever_asks(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    set_elsewhere(server, "k", "one")
    first, second = pool.get_connection(), pool.get_connection()
    pool.release(first)
    assert client.get("k") == b"one"  # by the first
    held = pool.get_connection()
    assert held is first
    pool.release(second)
    pool.release(held)
    set_elsewhere(server, "k", "two")
    wait_for(lambda: client.get("k") == b"two")  # by the second, which has to ask the first
    nothing_is_missing(pool)


def test_the_reply_of_a_connection_that_another_thread_uses_is_not_taken_away(
    pool: ConnectionPool, server: RedisServer
):
    client = client_of(pool)
    set_elsewhere(server, "k", "one")
    assert client.get("k") == b"one"
    filled = pool.get_connection()  # the connection that filled the entry
    filled.send_command("PING")
    wait_for(filled.can_read)  # its reply is there, and its holder has not read it yet
    assert client.get("k") == b"one"
    assert filled.read_response() in (b"PONG", "PONG")
    pool.release(filled)
    nothing_is_missing(pool)
