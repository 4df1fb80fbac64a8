"""The pool for tasks beside code of others: fakeredis, a parser that an agent has wrapped, redis-py's private lists."""

from __future__ import annotations

import asyncio
from typing import Any

import fakeredis
import pytest
import redis
import redis.asyncio
from redis.asyncio.connection import Connection

from poolmgr.asyncio import ConnectionPool
from tests.aio_pools import with_kind
from tests.helpers import RedisServer
from tests.permits import FakeMember

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

    with_kind(ConnectionPool, work, host="127.0.0.1", port=server.port)


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

    with_kind(ConnectionPool, work, host="127.0.0.1", port=server.port, retry=None)


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

    with_kind(ConnectionPool, work, host="127.0.0.1", port=server.port)
