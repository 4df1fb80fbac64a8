"""The pool for tasks: which of its connections are closed, and when; and with which credentials they are made."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from typing import Any

import pytest
import redis
import redis.asyncio

import poolmgr
from poolmgr.asyncio import ConnectionPool
from poolmgr.exceptions import ConnectionPoolTimeoutError, PoolClosedError
from tests.aio_pools import eventually, with_pool
from tests.helpers import RedisServer, free_port
from tests.permits import FakeMember
from tests.walker import LOOPS

pytestmark = pytest.mark.parametrize("loop", LOOPS)


# ---- lifetimes ---------------------------------------------------------------------------------------


def test_a_connection_that_the_server_has_closed_is_replaced(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        before = await client.client_id()
        with redis.Redis(port=server.port) as other:
            other.client_kill_filter(_id=before)
        await eventually(lambda: next(iter(pool._shards[0]._idle))._stream.stirred)
        assert await client.client_id() != before
        assert pool.stats().closed == {"stale": 1}

    with_pool(loop, server, work, retry=None)


def test_drain_resize_and_the_member_s_wishes(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        held = [await pool.get_connection() for _ in range(3)]
        for connection in held:
            await pool.release(connection)
        assert pool.stats().idle == 3
        pool.drain()
        assert pool.stats().idle == 0 and pool.stats().closed == {"drained": 3}
        pool.resize(max_connections=2, min_idle=2)
        await eventually(lambda: pool.stats().idle == 2)
        pool.resize(max_connections=1, min_idle=0)
        assert pool.stats().idle == 1 and pool.stats().closed["resized"] == 1
        assert await asyncio.get_running_loop().run_in_executor(None, pool.shed, 5) == 1
        assert pool.stats().closed["recalled"] == 1
        assert await client.get("none") is None
        usage = pool.usage(reset=True)
        assert (usage.idle, usage.lent, usage.ceiling) == (1, 0, 1)

    with_pool(loop, server, work, max_connections=3)  # else a fourth one may be on its way


def test_old_idle_and_leaked_connections(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        first = await client.client_id()
        await eventually(lambda: pool.tick(0) and pool.stats().closed.get("expired"))
        assert await client.client_id() != first
        pool.max_lifetime, pool.idle_timeout = 0.0, 0.05
        pool.drain()
        await client.get("k")
        await eventually(lambda: pool.tick(0) and pool.stats().closed.get("idle"))
        connection = await pool.get_connection()
        await eventually(lambda: pool.tick(0) and pool.stats().leaks == 1)
        await pool.release(connection)
        del connection

    with_pool(loop, server, work, max_lifetime=0.1, idle_timeout=0, leak_after=0.05)


def test_a_holder_that_vanishes(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        connection = await pool.get_connection()
        del connection
        gc.collect()
        assert pool.stats().in_use == 0 and pool.stats().closed == {"lost": 1}
        assert await client.get("none") is None

    with_pool(loop, server, work, max_connections=1)


def test_hooks(server: RedisServer, loop: str):
    seen: Counter[str] = Counter()
    hooks = poolmgr.Hooks(
        created=lambda connection: seen.update(["created"]),
        closed=lambda connection, reason: seen.update([reason]),
        checked_out=lambda connection: seen.update(["checked_out"]),
        timed_out=lambda error: seen.update([type(error).__name__]),
    )

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        await client.get("k")
        async with pool.connection():
            with pytest.raises(ConnectionPoolTimeoutError):
                await client.get("k")
        pool.drain()
        assert seen == {"created": 1, "checked_out": 2, "ConnectionPoolTimeoutError": 1, "drained": 1}

    with_pool(loop, server, work, hooks=hooks, timeout=0.05, max_connections=1)


def test_the_end_waits_for_holders(server: RedisServer, loop: str):
    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        connection = await pool.get_connection()
        ending = asyncio.ensure_future(pool.aclose(5))
        await asyncio.sleep(0.02)
        with pytest.raises(PoolClosedError):
            await client.get("k")
        assert not ending.done()
        await pool.release(connection)
        await ending
        assert pool.stats().closed == {"pool": 1}
        assert "closed" in repr(pool)

    with_pool(loop, server, work)


# ---- credentials -------------------------------------------------------------------------------------


def test_credentials_that_take_a_while(loop: str, redis_server: Any):
    class Provider(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            time.sleep(0.2)
            return ("default", "secret")

        async def get_credentials_async(self) -> tuple[str, str]:
            await asyncio.sleep(0.2)
            return ("default", "secret")

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.01)

        heart = asyncio.ensure_future(beat())
        assert await client.set("k", "v")
        assert beats >= 5, "the loop stood still while credentials were asked for"
        heart.cancel()

    with_pool(loop, redis_server(port=free_port(), requirepass="secret"), work, credential_provider=Provider())


def test_credentials_that_only_a_task_can_ask_for(loop: str, redis_server: Any):
    """They are awaited in the loop in which the pool is used, for the supervisor's endpoint too, at first and later."""
    server = redis_server(port=free_port(), requirepass="secret")
    asked: Counter[object] = Counter()

    class Provider(redis.CredentialProvider):
        password = "secret"

        async def get_credentials_async(self) -> tuple[str, str]:
            asked[asyncio.get_running_loop()] += 1
            await asyncio.sleep(0.01)
            return ("default", self.password)

    member = FakeMember(prompt=True)
    provider = Provider()

    async def work(pool: ConnectionPool, client: redis.asyncio.Redis) -> None:
        assert await client.set("k", "v")
        assert set(asked) == {asyncio.get_running_loop()}
        assert [(one.username, one.password) for one in member.endpoints] == [("default", "secret")]
        permits, renewed = member.only, list[Any]()
        permits.renew = renewed.append  # type: ignore[method-assign,assignment]
        provider.password = "another"
        await asyncio.get_running_loop().run_in_executor(None, pool.tell_login, permits.endpoint.key)
        await eventually(lambda: renewed)
        assert renewed[0].password == "another" and set(asked) == {asyncio.get_running_loop()}

    with_pool(loop, server, work, credential_provider=provider, member=member)
