"""What redis.asyncio lets its users do: any maker of connections, any class of their own, a pool derived from its own.

Whatever makes the connections they have permits; whatever redis-py calls for every checkout is called."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.connection import Connection

from poolmgr.asyncio import ConnectionPool
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core import bounds
from tests.aio_pools import with_kind
from tests.helpers import RedisServer
from tests.makers import makers

FACTORIES = makers(Connection)


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
@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
def test_whatever_makes_the_connections_they_have_permits(
    server: RedisServer, factory: Any, protocol: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(bounds.LONGEST, bounds.CONNECTING, 0.3)  # the third one waits for its permit there
    member = with_kind(
        ConnectionPool, two_at_most, connection_class=factory, host="127.0.0.1", port=server.port, protocol=protocol
    )
    assert member.only.most == 2


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_pools_own_make_connection(server: RedisServer, protocol: int):
    member = with_kind(AsRedisPy, two_at_most, host="127.0.0.1", port=server.port, protocol=protocol)
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

    with_kind(ConnectionPool, work, connection_class=factory, max_connections=1)


def test_a_connection_that_is_connected_already_is_refused(server: RedisServer):
    """It has no permit, and could not have waited for one."""

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        made = Connection(host="127.0.0.1", port=server.port)
        await made.connect()
        pool.connection_class = lambda **kwargs: made
        with pytest.raises(TypeError, match="connected already, without a permit"):
            await client.get("k")
        await made.disconnect()

    with_kind(ConnectionPool, work, host="127.0.0.1", port=server.port)


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

    with_kind(Ensuring if kind is Ensuring else ConnectionPool, work, host="127.0.0.1", port=server.port, **options)


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

    with_kind(ConnectionPool, work, connection_class=Careful, host="127.0.0.1", port=server.port, max_connections=1)


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

    with_kind(ConnectionPool, work, connection_class=Slow, host="127.0.0.1", port=server.port, max_connections=1)


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

    with_kind(ConnectionPool, work, connection_class=Nothing)


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

    member = with_kind(
        ConnectionPool, work, connection_class=Own, host="127.0.0.1", port=server.port, retry=None, max_connections=1
    )
    assert member.only.most == 1
