"""What redis.asyncio lets its users do: any maker of connections, any class of their own, a pool derived from its own.

Whatever makes the connections they have permits; whatever redis-py calls for every checkout is called."""

from __future__ import annotations

import asyncio
import functools
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.asyncio.connection import Connection

from poolmgr.asyncio import ConnectionPool
from poolmgr.exceptions import ConnectionPoolTimeoutError
from tests.helpers import RedisServer
from tests.permits import FakeMember

Work = Callable[[ConnectionPool, redis.asyncio.Redis], Coroutine[Any, Any, Any]]


def with_pool(pool: Callable[..., ConnectionPool], work: Work, **options: Any) -> FakeMember:
    """Have the work done; nothing is left of it afterwards. The member that gave the permits."""
    member = FakeMember(limit=2, prompt=True, tag="tag")

    async def main() -> None:
        made = pool(member=member, timeout=0.2, **options)
        try:
            await work(made, redis.asyncio.Redis(connection_pool=made))
        finally:
            assert made.stats().in_use == 0
            await made.aclose()
            assert made.stats().idle == 0
            await asyncio.sleep(0.01)

    with asyncio.Runner(debug=True) as runner:
        runner.run(main())
    gc.collect()
    assert [permits.out for permits in member.all.values() if permits.out] == []
    return member


class Maker:
    def __call__(self, **kwargs: Any) -> Connection:
        return Connection(**kwargs)

    def method(self, **kwargs: Any) -> Connection:
        return Connection(**kwargs)


class Another(Connection):
    pass


class Choosing(Connection):
    """A class whose instances are another one's."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        made = Another.__new__(Another)
        made.__init__(*args, **kwargs)  # type: ignore[misc]
        return made


def function(**kwargs: Any) -> Connection:
    made = Connection(**kwargs)
    made.client_name = "me"
    return made


class AsRedisPy(ConnectionPool):
    """Makes its connections as redis-py's pool does."""

    def make_connection(self) -> Any:
        return self.connection_class(**self.connection_kwargs)


async def two_at_most(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
    """All work, all have permits, and both say whose they are."""
    assert await client.set("k", "v")
    async with pool.connection() as one, pool.connection() as other:
        for held in (one, other):
            assert isinstance(held, Connection)
            await held.send_command("CLIENT", "GETNAME")
            assert (await held.read_response()).endswith((b"tag-1", b"tag-2"))
        with pytest.raises(ConnectionPoolTimeoutError):
            await pool.get_connection()
    assert await asyncio.gather(*(client.get("k") for _ in range(5))) == [b"v"] * 5
    assert pool.stats().created == 2


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize(
    "factory",
    [
        function, lambda **kwargs: Connection(client_name="me", **kwargs),
        functools.partial(Connection, client_name="me"), Maker(), Maker().method, Choosing,
    ],
)  # fmt: skip
def test_whatever_makes_the_connections_they_have_permits(server: RedisServer, factory: Any, protocol: int):
    member = with_pool(
        ConnectionPool, two_at_most, connection_class=factory, host="127.0.0.1", port=server.port, protocol=protocol
    )
    assert member.only.most == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_pools_own_make_connection(server: RedisServer, protocol: int):
    member = with_pool(AsRedisPy, two_at_most, host="127.0.0.1", port=server.port, protocol=protocol)
    assert member.only.most == 2


@pytest.mark.parametrize(
    ("factory", "says"), [(lambda **kwargs: None, "is not a redis-py connection"), (object, "derived from")]
)
def test_what_is_no_connection_is_refused_and_costs_no_place(factory: Any, says: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        for _ in range(3):
            with pytest.raises(TypeError, match=says):
                await client.get("k")
        assert pool.stats().in_use == 0

    with_pool(ConnectionPool, work, connection_class=factory, max_connections=1)


def test_a_connection_that_is_connected_already_is_refused(server: RedisServer):
    """It has no permit, and could not have waited for one."""

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        made = Connection(host="127.0.0.1", port=server.port)
        await made.connect()
        pool.connection_class = lambda **kwargs: made
        with pytest.raises(TypeError, match="connected already, without a permit"):
            await client.get("k")
        await made.disconnect()

    with_pool(ConnectionPool, work, host="127.0.0.1", port=server.port)


# ---- what is called for every checkout ---------------------------------------------------------------


class Careful(Connection):
    """Has its say before every checkout."""

    calls: list[str] = []
    fails = False

    async def connect(self) -> None:
        self.calls.append("connect")
        if self.fails:
            raise redis.ConnectionError("not today")
        await super().connect()


class Asked(Careful):
    async def can_read(self) -> bool:
        self.calls.append("can_read")
        return await super().can_read()


class Ensuring(ConnectionPool):
    calls: list[str] = []

    async def ensure_connection(self, connection: Any) -> None:
        self.calls.append("ensure")
        await super().ensure_connection(connection)


@pytest.mark.parametrize("kind", [Careful, Asked, Ensuring])
def test_what_redis_py_calls_for_every_checkout_is_called(
    server: RedisServer, kind: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kind, "calls", [])
    options: dict[str, Any] = {} if kind is Ensuring else {"connection_class": kind}

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        for _ in range(4):
            await client.set("k", "v")
        assert kind.calls.count("ensure" if kind is Ensuring else "connect") == 4
        assert kind.calls.count("can_read") == (4 if kind is Asked else 0)
        assert pool.stats().created == 1

    with_pool(Ensuring if kind is Ensuring else ConnectionPool, work, host="127.0.0.1", port=server.port, **options)


def test_a_checkout_that_a_class_refuses(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    """It is renewed as one that the server has closed, and if that fails too its place is free."""

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.set("k", "v")
        monkeypatch.setattr(Careful, "fails", True)
        for _ in range(3):
            with pytest.raises(redis.ConnectionError, match="not today"):
                await client.get("k")
        monkeypatch.setattr(Careful, "fails", False)
        assert await client.get("k") == b"v"

    with_pool(ConnectionPool, work, connection_class=Careful, host="127.0.0.1", port=server.port, max_connections=1)


def test_a_checkout_cancelled_while_a_class_is_asked(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    class Slow(Connection):
        slow = False

        async def connect(self) -> None:
            if self.slow:
                await asyncio.sleep(60)
            await super().connect()

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.set("k", "v")
        monkeypatch.setattr(Slow, "slow", True)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.get("k"), 0.02)
        monkeypatch.setattr(Slow, "slow", False)
        assert await client.get("k") == b"v"

    with_pool(ConnectionPool, work, connection_class=Slow, host="127.0.0.1", port=server.port, max_connections=1)


# ---- classes that connect, or do not, in their own way -----------------------------------------------


class Nothing(Connection):
    """Opens nothing, and does not call redis-py's constructor."""

    def __init__(self, **kwargs: Any) -> None:
        self.up = False

    async def connect(self) -> None:
        self.up = True

    async def disconnect(self) -> None:  # type: ignore[override]
        self.up = False

    @property
    def is_connected(self) -> bool:
        return self.up

    async def can_read(self) -> bool:
        return False

    def should_reconnect(self) -> bool:
        return False

    def repr_pieces(self) -> list[Any]:
        return []


def test_a_class_that_opens_nothing():
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        one = await pool.get_connection()
        other = await pool.get_connection()
        assert one is not other
        await pool.release(one)
        assert await pool.get_connection() is one
        await one.disconnect()
        await pool.release(one)
        await pool.release(other)
        assert pool.stats().closed == {"broken": 1}
        assert await pool.get_connection() is other
        await pool.release(other)

    with_pool(ConnectionPool, work, connection_class=Nothing)


class Own(Connection):
    """Connects in its own way, without redis-py's ``_connect``."""

    async def connect(self) -> None:
        if not self.is_connected:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
            self._parser.on_connect(self)


def test_a_class_that_connects_in_a_way_of_its_own(server: RedisServer):
    """It is known to be dead every time that it is, and not only the first time."""

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        assert await client.set("k", "v")
        other = redis.asyncio.Redis(host="127.0.0.1", port=server.port)
        for count in range(1, 4):
            await other.client_kill_filter(_type="normal", skipme=True)
            await asyncio.sleep(0.02)
            assert await client.get("k") == b"v"
            assert await client.get("k") == b"v"
            assert pool.stats().closed == {"stale": count}
        await other.aclose()

    member = with_pool(
        ConnectionPool, work, connection_class=Own, host="127.0.0.1", port=server.port, retry=None, max_connections=1
    )
    assert member.only.most == 1


# ---- fakeredis -----------------------------------------------------------------------------------------


def fake_function(member: FakeMember, **options: Any) -> redis.asyncio.Redis:
    kind = fakeredis.aioredis.FakeAsyncConnection
    return redis.asyncio.Redis(connection_pool=ConnectionPool(connection_class=kind, member=member, **options))


def fake_class(member: FakeMember, **options: Any) -> redis.asyncio.Redis:
    kind = fakeredis.aioredis.FakeAsyncRedisConnection
    return redis.asyncio.Redis(connection_pool=ConnectionPool(connection_class=kind, member=member, **options))


def fake_client(member: FakeMember, **options: Any) -> redis.asyncio.Redis:
    class Unlimited(ConnectionPool):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{"member": member, **options})

    return fakeredis.FakeAsyncRedis(connection_pool_class=Unlimited, **options)


@pytest.mark.filterwarnings("ignore:FakeAsyncConnection is deprecated")
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("make", [fake_function, fake_class, fake_client])
def test_fakeredis_works_and_asks_for_no_permit(make: Any, protocol: int):
    member = FakeMember()

    async def main() -> None:
        fake = fakeredis.FakeServer()
        client = make(member, server=fake, protocol=protocol)
        pool = client.connection_pool
        assert isinstance(pool, ConnectionPool)
        assert await client.set("k", "v")
        assert await client.get("k") == b"v"
        async with client.pipeline() as pipe:
            pipe.incr("n")
            pipe.incr("n")
            assert await pipe.execute() == [1, 2]
        with pytest.raises(redis.ResponseError):
            await client.lpush("k", "x")
        subscriber = client.pubsub()
        await subscriber.subscribe("c")
        assert (await subscriber.get_message(timeout=1))["type"] == "subscribe"
        await client.publish("c", "hello")
        assert (await subscriber.get_message(timeout=1))["data"] == b"hello"
        await subscriber.aclose()
        assert await client.blpop(["empty"], timeout=0.01) is None
        assert pool.stats().created <= 3, pool.stats().closed
        assert pool.stats().in_use == 0
        fake.connected = False
        with pytest.raises(redis.ConnectionError):
            await client.get("k")
        fake.connected = True
        assert await client.get("k") == b"v"
        await pool.aclose()

    with asyncio.Runner() as runner:
        runner.run(main())
    assert member.endpoints == []


@pytest.mark.parametrize("before", [True, False])
def test_a_parser_that_an_agent_has_wrapped_is_called(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, before: bool
):
    """By all connections, also by those that are there already."""
    parser: Any = redis._parsers._AsyncHiredisParser
    read = parser.read_response
    replies: list[Any] = []

    async def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        replies.append(await read(self, *args, **kwargs))
        return replies[-1]

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        if not before:
            await client.echo("first")
        monkeypatch.setattr(parser, "read_response", wrapped)
        assert await client.echo("hello") == b"hello"
        assert b"hello" in replies

    with_pool(ConnectionPool, work, host="127.0.0.1", port=server.port)


def test_a_parser_put_in_place_of_a_connections_own(server: RedisServer):
    class Broken:
        async def read_response(self, **how: Any) -> Any:
            raise OSError("broken")

        def on_disconnect(self) -> None: ...

        def on_connect(self, connection: Any) -> None: ...

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        connection = await pool.get_connection()
        whole = connection._parser
        connection._parser = Broken()
        await connection.send_command("PING")
        with pytest.raises(redis.ConnectionError, match="broken"):
            await connection.read_response()
        assert not connection.is_connected
        connection._parser = whole
        await pool.release(connection)
        assert await client.ping()

    with_pool(ConnectionPool, work, host="127.0.0.1", port=server.port, retry=None)


def test_what_is_put_into_redis_pys_private_lists_is_shown_there_and_never_lent(server: RedisServer):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        assert await client.ping()
        ours = pool._available_connections[0]
        stranger = Connection(host="127.0.0.1", port=server.port)
        pool._available_connections.extend([stranger])
        pool._in_use_connections.update({stranger})
        assert pool._available_connections == [ours, stranger]
        assert pool._in_use_connections == {stranger}
        async with pool.connection() as one, pool.connection() as other:
            assert stranger not in (one, other)
        pool._available_connections.remove(stranger)
        pool._in_use_connections.discard(stranger)
        taken = pool._available_connections.pop()
        assert taken in pool._in_use_connections
        await pool.release(taken)
        assert taken in pool._available_connections

    with_pool(ConnectionPool, work, host="127.0.0.1", port=server.port)
