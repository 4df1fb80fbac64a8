"""``connection_class`` may be anything that makes connections; and classes whose connections open no socket."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection, Connection, UnixDomainSocketConnection

from poolmgr.member.core import bounds
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.pool.sync.sentinel import SentinelConnectionPool
from tests.helpers import ROOT, RedisServer
from tests.makers import makers
from tests.permits import FakeMember
from tests.pools import answers_are_its_own, client_of, nothing_is_missing, permits


def connected(**kwargs: Any) -> Connection:
    """As some do, to be sure."""
    made = Connection(**kwargs)
    made.connect()
    return made


FACTORIES: dict[str, Any] = {**makers(Connection), "connected": connected}


def pool_from(factory: Any, **options: Any) -> ConnectionPool:
    options.setdefault("member", FakeMember(tag="tag"))
    return ConnectionPool(connection_class=factory, **options)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", FACTORIES)
def test_whatever_makes_the_connections_they_have_permits(
    server: RedisServer, name: str, protocol: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(bounds.LONGEST, bounds.CONNECTING, 0.3)  # the second one waits for its permit there
    pool = pool_from(
        FACTORIES[name], host="127.0.0.1", port=server.port, protocol=protocol, max_connections=2,
        member=FakeMember(limit=1, tag="tag"), timeout=0.2,
    )  # fmt: skip
    answers_are_its_own(pool)
    with pool.connection() as held:
        assert isinstance(held, Connection)
        assert held.pid == os.getpid()
        held.send_command("CLIENT", "GETNAME")
        bears = held.read_response()
        assert bears.endswith((b"tag-1", b"tag-2"))
        with pytest.raises(redis.RedisError):
            pool.get_connection()
        held.disconnect()
        assert permits(pool).closing, "its end is proven"
    assert permits(pool).most == 1
    assert "127.0.0.1" in repr(pool)
    nothing_is_missing(pool)
    pool.close()


def test_the_address_and_the_login_are_the_connections_own(server: RedisServer, tmp_path: Any):
    """A factory may know what the pool does not."""
    with server.observer() as observer:
        observer.execute_command("ACL", "SETUSER", "bob", "on", ">pw", "allcommands", "allkeys")
    tcp = functools.partial(Connection, host="127.0.0.1", port=server.port, username="bob", password="pw")
    pool = pool_from(tcp)
    assert client_of(pool).acl_whoami() in ("bob", b"bob")
    (endpoint,) = pool._origin._member.endpoints  # type: ignore[union-attr]
    assert (endpoint.key, endpoint.username, endpoint.password) == (f"tcp://127.0.0.1:{server.port}", "bob", "pw")
    pool.close()

    path = str(tmp_path / "listener")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        unix: Any = UnixDomainSocketConnection
        pool = pool_from(functools.partial(unix, path=path), timeout=0.1, socket_timeout=0.1)
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        (endpoint,) = pool._origin._member.endpoints  # type: ignore[union-attr]
        assert endpoint.key == f"unix://{path}"
        nothing_is_missing(pool)


class Slotted:
    """No connection, and of a layout of its own."""

    __slots__ = ("connect",)

    def __init__(self, **kwargs: Any) -> None:
        self.connect = lambda: None


@pytest.mark.parametrize(
    ("factory", "says"),
    [(lambda **kwargs: None, "is not a redis-py connection"), (lambda **kwargs: Slotted(), "cannot be pooled")],
)
def test_what_is_no_connection_is_refused_and_costs_no_place(factory: Any, says: str):
    pool = pool_from(factory, max_connections=1)
    for _ in range(3):
        with pytest.raises(TypeError, match=says):
            pool.get_connection()
    nothing_is_missing(pool)


def test_the_class_may_be_set_on_the_pool(server: RedisServer):
    pool = pool_from(Connection, host="127.0.0.1", port=server.port, max_connections=1)
    client = client_of(pool)
    client.set("k", "v")
    for factory in (
        FACTORIES["class that makes another"],
        FACTORIES["function"],
        fakeredis.FakeRedisConnection,
        Connection,
    ):
        pool.connection_class = factory
        pool.drain()
        assert client.get("k") == (None if factory is fakeredis.FakeRedisConnection else b"v")
        nothing_is_missing_but(pool, factory)
    pool.close()


def nothing_is_missing_but(pool: ConnectionPool, factory: Any) -> None:
    found = permits(pool)
    gc.collect()
    found.sweep()
    assert len(found.out) == (0 if factory is fakeredis.FakeRedisConnection else 1)


class AsRedisPy(ConnectionPool):
    """Makes its connections as redis-py's pool does."""

    def make_connection(self) -> Any:
        self._created_connections += 1
        made = self.connection_class(**self.connection_kwargs)
        proxy: Any = CacheProxyConnection
        return made if self.cache is None else proxy(made, self.cache, self._lock)


class Marking(ConnectionPool):
    def make_connection(self) -> Any:
        made = super().make_connection()
        made.marked = True
        return made


@pytest.mark.parametrize("kind", [AsRedisPy, Marking])
@pytest.mark.parametrize("cached", [False, True])
def test_a_pools_own_make_connection(
    server: RedisServer, kind: type[ConnectionPool], cached: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(CacheProxyConnection, "DEFAULT_SERVER_NAME", "valkey")
    more: dict[str, Any] = {"cache_config": CacheConfig()} if cached else {}
    pool = kind(
        host="127.0.0.1", port=server.port, protocol=3, member=FakeMember(limit=1, tag="tag"), timeout=0.2, **more
    )
    client = client_of(pool)
    client.set("k", "v")
    assert [client.get("k") for _ in range(3)] == [b"v"] * 3
    answers_are_its_own(pool)
    with pool.connection() as held:
        assert getattr(held, "marked", False) is (kind is Marking)
        with pytest.raises(redis.RedisError):
            pool.get_connection()
    assert pool.stats().created == 1
    nothing_is_missing(pool)
    pool.close()


def test_through_sentinel(server: RedisServer, sentinel: int):
    class Own(redis.sentinel.SentinelManagedConnection):
        def send_command(self, *args: Any, **kwargs: Any) -> Any:
            said.append(args[0])
            return super().send_command(*args, **kwargs)

    said: list[Any] = []
    manager = redis.sentinel.Sentinel([("127.0.0.1", sentinel)], socket_timeout=5)
    pool: Any = SentinelConnectionPool("main", manager, connection_class=Own, member=FakeMember())
    answers_are_its_own(pool)
    assert "ECHO" in said
    pool.connection_class = functools.partial(Own)
    pool.drain()
    answers_are_its_own(pool)
    nothing_is_missing(pool)
    pool.close()


# ---- fakeredis -------------------------------------------------------------------------------------------------------


def fake_function(**options: Any) -> redis.Redis:
    return client_of(pool_from(fakeredis.FakeConnection, **options))


def fake_class(**options: Any) -> redis.Redis:
    return client_of(pool_from(fakeredis.FakeRedisConnection, **options))


class Unlimited(ConnectionPool):
    def __init__(self, **options: Any) -> None:
        super().__init__(**{"member": FakeMember(), **options})


def fake_client(**options: Any) -> redis.Redis:
    return fakeredis.FakeRedis(connection_pool_class=Unlimited, **options)


def fake_url(**options: Any) -> redis.Redis:
    return fakeredis.FakeRedis.from_url("redis://nowhere.invalid:6379/0", connection_pool_class=Unlimited, **options)


class Derived(fakeredis.FakeRedisConnection):
    """A user's own, derived from it."""


def fake_derived(**options: Any) -> redis.Redis:
    return client_of(pool_from(Derived, **options))


def fake_partial(**options: Any) -> redis.Redis:
    return client_of(pool_from(functools.partial(fakeredis.FakeRedisConnection), **options))


@pytest.mark.filterwarnings("ignore:FakeConnection is deprecated")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("make", [fake_function, fake_class, fake_client, fake_url, fake_derived, fake_partial])
def test_fakeredis_works_and_asks_for_no_permit(make: Any, protocol: int):
    fake = fakeredis.FakeServer()
    client: Any = make(server=fake, protocol=protocol)
    pool = client.connection_pool
    assert isinstance(pool, ConnectionPool)
    assert client.set("k", "v")
    assert client.get("k") == b"v"
    with client.pipeline() as pipe:
        pipe.incr("n")
        pipe.incr("n")
        assert pipe.execute() == [1, 2]
    with pytest.raises(redis.ResponseError):
        client.lpush("k", "x")
    subscriber = client.pubsub()
    subscriber.subscribe("c")
    assert subscriber.get_message(timeout=1)["type"] == "subscribe"
    client.publish("c", "hello")
    assert subscriber.get_message(timeout=1)["data"] == b"hello"
    subscriber.close()
    assert client.blpop(["empty"], timeout=0.01) is None
    assert pool.stats().created <= 3, pool.stats().closed
    assert pool._origin._member.endpoints == []  # type: ignore[union-attr]
    fake.connected = False
    with pytest.raises(redis.ConnectionError):
        client.get("k")
    fake.connected = True
    assert client.get("k") == b"v"
    pool.close()


def test_fakeredis_starts_no_supervisor(isolated: Path):
    program = """
        import fakeredis, poolmgr
        client = fakeredis.FakeRedis(connection_pool_class=poolmgr.ConnectionPool)
        assert client.incr("n") == 1
        pool = poolmgr.ConnectionPool(connection_class=fakeredis.FakeRedisConnection, timeout=0.5)
        with pool.connection() as connection:
            connection.send_command("PING")
            assert connection.read_response() == b"PONG"
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "POOLMGR_SOCKET": str(isolated)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert not isolated.exists()


def test_a_class_of_ones_own_may_say_that_it_opens_no_socket():
    class Answers:
        """Stands for a socket."""

        def sendall(self, data: bytes) -> None: ...

        def close(self) -> None: ...

    class InMemory(Connection):
        opens_no_socket = True

        def _connect(self) -> Any:
            return Answers()

        def on_connect_check_health(self, check_health: bool = True) -> None: ...

        def can_read(self, timeout: float = 0) -> bool:
            return False

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            return b"PONG"

    pool: Any = pool_from(InMemory)
    assert client_of(pool).ping()
    assert client_of(pool).ping()
    assert pool._origin._member.endpoints == []
    assert pool.stats().created == 1


def test_redis_asyncio_on_a_pool_of_threads_is_told_what_is_wrong(server: RedisServer):
    """Python says: object Connection can't be used in 'await' expression. And the connection would be lost."""
    pool = pool_from(UnixDomainSocketConnection, path=server.path)

    async def call() -> None:
        client = redis.asyncio.Redis(connection_pool=pool)  # type: ignore[arg-type]
        await client.ping()

    for _ in range(3):
        with pytest.raises(TypeError, match=r"this pool is for threads: .* use poolmgr\.asyncio\.ConnectionPool"):
            asyncio.run(call())
    assert pool.stats().in_use == 0
    assert client_of(pool).ping()
