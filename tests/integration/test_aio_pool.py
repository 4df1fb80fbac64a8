"""The pool for tasks, with redis.asyncio's unmodified client: order, limits, what it refuses to pass on."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from typing import Any

import pytest
import redis
import redis.asyncio

import poolmgr
from poolmgr.asyncio import ConnectionPool
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.pool.aio.finish import finish
from tests.aio_pools import eventually, with_pool
from tests.helpers import RedisServer, kill
from tests.permits import FakeMember
from tests.walker import LOOPS, run

pytestmark = pytest.mark.parametrize("loop", LOOPS)


# ---- as redis.asyncio's ------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("options", [{}, {"decode_responses": True}, {"encoding": "latin-1"}])
def test_replies_are_those_of_redis_py(server: RedisServer, loop: str, protocol: int, options: dict[str, Any]):
    async def talk(client: redis.asyncio.Redis) -> list[Any]:
        found: list[Any] = [await client.flushall(), await client.set("k", "v"), await client.get("k")]
        found.append(await client.set("n", 17) and await client.incrbyfloat("n", 0.5))
        found.append(await client.set("bytes", bytearray(b"\x00\xff")) and await client.strlen("bytes"))
        found.append(await client.execute_command("CONFIG GET", "maxclients"))
        found.append(await client.hset("h", mapping={"a": 1, "b": 2.5}) and await client.hgetall("h"))
        found.append(await client.set("big", "x" * 3_000_000) and await client.get("big"))
        async with client.pipeline(transaction=True) as pipe:
            pipe.set("p", 1)
            pipe.get("p")
            pipe.lpush("p", 1)
            found.append(str(await pipe.execute(raise_on_error=False)))
        for wrong in (True, None, [1]):
            with pytest.raises(redis.DataError):
                await client.set("k", wrong)  # type: ignore[arg-type]
        with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
            await client.lpush("k", 1)
        if not options:
            found.append(await client.set("ä", "ü") and await client.get("ä"))
        return found

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> Any:
        theirs = redis.asyncio.Redis(port=server.port, protocol=protocol, **options)
        expected = await talk(theirs)
        await theirs.aclose()
        assert await talk(client) == expected
        assert pool.stats().created == 1

    with_pool(loop, server, work, protocol=protocol, **options)


def test_pubsub_and_monitor(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        async with client.pubsub(ignore_subscribe_messages=True) as subscriber:
            await subscriber.subscribe("channel")
            began = time.monotonic()
            assert await subscriber.get_message(timeout=0.05) is None  # the confirmation
            assert await subscriber.get_message(timeout=0.05) is None
            assert time.monotonic() - began < 3
            await client.publish("channel", "hello")
            found = None
            while found is None:
                found = await subscriber.get_message(timeout=1)
            assert found["data"] == b"hello"
        async with client.monitor() as monitor:
            await client.get("k")
            while (await monitor.next_command())["command"] != "GET k":
                pass
        await client.get("k")
        assert pool.stats().closed in ({"broken": 2}, {"dirty": 2}, {"broken": 1, "dirty": 1})

    with_pool(loop, server, work)


def test_a_command_that_takes_too_long(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        with pytest.raises(redis.TimeoutError, match="Timeout reading from 127.0.0.1"):
            await client.blpop("nothing", timeout=0)
        assert pool.stats().in_use == 0
        assert await client.get("none") is None

    with_pool(loop, server, work, socket_timeout=0.05)


def test_a_server_that_reads_nothing_more(server: RedisServer, loop: str):
    """The transport is full, and the timeout is that of the write."""

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.get("k")
        kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(redis.TimeoutError, match="Timeout writing to socket"):
                await client.set("k", b"x" * 50_000_000)
        finally:
            kill(server.pid, signal.SIGCONT)
        assert pool.stats().in_use == 0

    with_pool(loop, server, work, socket_timeout=0.2)


def test_a_connection_class_of_a_users_own(server: RedisServer, loop: str):
    class Mine(redis.asyncio.Connection):
        seen: Counter[str] = Counter()

        async def send_command(self, *args: Any, **kwargs: Any) -> None:
            self.seen["sent"] += 1
            await super().send_command(*args, **kwargs)

        async def read_response(self, *args: Any, **kwargs: Any) -> Any:
            self.seen["read"] += 1
            return await super().read_response(*args, **kwargs)

        async def disconnect(self, *args: Any, **kwargs: Any) -> None:
            self.seen["ended"] += 1
            await super().disconnect(*args, **kwargs)

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        for _ in range(3):
            await client.set("k", "v")
        task = asyncio.ensure_future(client.blpop("nothing", timeout=0))
        await eventually(lambda: pool.stats().in_use == 1)
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait({task})
        assert await client.get("k") == b"v"
        assert Mine.seen["sent"] >= 4 and Mine.seen["read"] >= 3 and Mine.seen["ended"] >= 1
        assert pool.stats().created == 2

    with_pool(loop, server, work, connection_class=Mine)


def test_a_tunnel_of_a_users_own_gets_its_permit_first(server: RedisServer, loop: str):
    class Tunnel(redis.asyncio.Connection):
        async def _connect(self) -> None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", server.port)

    member = FakeMember(limit=2, prompt=True)

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        assert await client.set("k", "v")
        await asyncio.gather(*(client.get("k") for _ in range(20)))
        assert pool.stats().created <= 2
        assert next(iter(member.all.values())).most == pool.stats().created
        tags = [one["name"] for one in await client.client_list()]
        assert any(name.startswith("tag-") for name in tags), tags

    member.tag = "tag"
    with_pool(loop, server, work, connection_class=Tunnel, member=member)


def test_a_parser_in_python(server: RedisServer, loop: str):
    from redis._parsers import _AsyncRESP3Parser

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.set("k", "v" * 200_000)
        assert await client.get("k") == b"v" * 200_000
        assert await asyncio.gather(*(client.get("k") for _ in range(5))) == [b"v" * 200_000] * 5
        assert pool.stats().closed == {}

    with_pool(loop, server, work, parser_class=_AsyncRESP3Parser)


def test_a_push_to_an_idle_connection_is_no_reason_to_close_it(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.set("k", "v")
        async with pool.connection() as connection:
            await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST")
            await connection.read_response()
        with redis.Redis(port=server.port) as other:
            other.set("k", "w")
        await asyncio.sleep(0.05)
        assert await client.get("k") == b"w"
        assert pool.stats().closed == {} and pool.stats().created == 1

    with_pool(loop, server, work)


# ---- which flavour -----------------------------------------------------------------------------------


def test_a_client_for_threads_is_told(server: RedisServer, loop: str):
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=FakeMember())
    with pytest.raises(TypeError, match="for tasks.*redis.asyncio.Redis.*poolmgr.ConnectionPool"):
        redis.Redis(connection_pool=pool).get("k")

    async def inside() -> None:
        redis.Redis(connection_pool=pool).get("k")

    with pytest.raises(TypeError, match="for tasks.*redis.asyncio.Redis.*poolmgr.ConnectionPool"):
        run(loop, inside())
    with pytest.raises(TypeError, match="for tasks.*redis.asyncio.Redis.*poolmgr.ConnectionPool"):
        pool.get_connection().send(None)  # without an event loop
    with pytest.raises(TypeError, match="derived from redis.asyncio's, not redis.connection.Connection"):
        with_pool(loop, server, lambda pool, _: pool._checkout(1), connection_class=redis.Connection)


def test_a_client_for_tasks_is_told(server: RedisServer, loop: str):
    pool = poolmgr.ConnectionPool(host="127.0.0.1", port=server.port, member=FakeMember())

    async def use() -> None:
        await redis.asyncio.Redis(connection_pool=pool).get("k")  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="for threads.*poolmgr.asyncio.ConnectionPool"):
        run(loop, use())
    assert pool.stats().in_use == 0
    pool.close()


# ---- order and limits --------------------------------------------------------------------------------


def test_tasks_are_served_in_the_order_of_their_coming(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        turns: Counter[int] = Counter()
        until = time.monotonic() + 1.0

        async def one(number: int) -> None:
            while time.monotonic() < until:
                await client.get("k")
                turns[number] += 1

        await asyncio.gather(*(one(number) for number in range(32)))
        assert max(turns.values()) - min(turns.values()) <= max(2, 0.05 * max(turns.values())), turns
        assert pool.stats().created <= 4

    with_pool(loop, server, work, max_connections=4)


def test_a_task_that_waits_too_long(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        async with pool.connection():
            with pytest.raises(
                ConnectionPoolTimeoutError, match="all 1 connections that max_connections allows"
            ) as found:
                await client.get("k")
            assert found.value.reason == "pool"
            with pytest.raises(ConnectionPoolTimeoutError):
                async with pool.connection(timeout=0):
                    pass
            waiting = [asyncio.ensure_future(client.get("none")) for _ in range(2)]
            await eventually(lambda: pool.stats().waiting == 2)
            with pytest.raises(ConnectionPoolTimeoutError, match="2 callers wait already"):
                await client.get("k")
        assert await asyncio.gather(*waiting) == [None, None]
        stats = pool.stats()
        assert stats.timeouts == {"pool": 2, "queue": 1} and stats.in_use == stats.waiting == 0

    with_pool(loop, server, work, max_connections=1, timeout=0.2, max_waiting=2)


def test_permits_bound_the_pool(server: RedisServer, loop: str):
    member = FakeMember(limit=3, prompt=True)

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.set("k", "v")
        assert await asyncio.gather(*(client.get("k") for _ in range(50))) == [b"v"] * 50
        assert next(iter(member.all.values())).most <= 3

    with_pool(loop, server, work, member=member)


def test_a_reconnect_waits_for_a_permit(server: RedisServer, loop: str):
    member = FakeMember(limit=1, prompt=True)

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        async with pool.connection() as connection:
            await connection.disconnect()
            permits = next(iter(member.all.values()))
            other = permits.take()
            assert other is not None
            task = asyncio.ensure_future(connection.connect())
            await asyncio.sleep(0.05)
            assert not task.done()
            other.gone()
            await task
            await connection.send_command("PING")
            assert await connection.read_response() == b"PONG"

    with_pool(loop, server, work, member=member)


def test_nothing_that_cleans_up_suspends(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        connection = await pool.get_connection()
        finish(pool.release(connection))
        finish(pool.release(connection))
        assert pool.stats().idle == 1
        connection = await pool.get_connection()
        await connection.send_command("GET", "k")
        finish(pool.release(connection))
        assert pool.stats().idle == 0 and pool.stats().closed == {"dirty": 1}
        connection = await pool.get_connection()
        finish(connection.disconnect())
        finish(pool.release(connection))
        connection = await pool.get_connection()
        finish(pool.release(connection))
        finish(pool.disconnect())
        assert pool.stats().idle == pool.stats().in_use == 0

    with_pool(loop, server, work)
