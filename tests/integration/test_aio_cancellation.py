"""A task that is cancelled anywhere loses nothing, crosses nothing, and is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest
import redis
import redis.asyncio

from poolmgr.asyncio import ConnectionPool, SentinelConnectionPool
from tests.aio_pools import eventually
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.walker import HOWS, LOOPS, How, run, walk, walk_to_the_end

DATABASE = 5
"""Not redis-py's default: a connection whose handshake was cut short is on 0."""


async def settled(there: Callable[[], bool]) -> None:
    """Wait for it. The caller looks at what came of it."""
    with contextlib.suppress(AssertionError):
        await eventually(there, 2)


class World:
    """A pool, and its user."""

    def __init__(self, **arguments: Any) -> None:
        self.member = FakeMember(prompt=True)
        self.pool = ConnectionPool(db=DATABASE, member=self.member, timeout=5, **arguments)
        self.client = redis.asyncio.Redis(connection_pool=self.pool)

    async def close(self) -> None:
        await self.pool.aclose()

    async def check(self) -> list[str]:
        """What is wrong, and the end of it."""
        await asyncio.sleep(0.01)  # what comes late comes now
        if self.pool.stats().in_use:
            gc.collect()  # a traceback may refer to it
        await settled(lambda: not self.busy())
        self.pool.resize(max_connections=100)
        wrong = self.busy()
        try:
            found = await asyncio.wait_for(asyncio.gather(*(self.client.get(key) for key in ("a", "b", "a", "b"))), 5)
            if found != [b"A", b"B", b"A", b"B"]:
                wrong.append(f"crossed: {found}")
        except Exception as error:
            wrong.append(repr(error))
        await self.close()
        await settled(self.all_back)
        if left := self.out():
            wrong.append(f"permits never given back: {left}")
        return wrong

    def busy(self) -> list[str]:
        """What the pool does, or has out."""
        stats = self.pool.stats()
        figures = ("lent", stats.in_use), ("opening", stats.opening), ("waiting", stats.waiting)
        return [f"{name} {value}" for name, value in figures if value]

    def all_back(self) -> bool:
        """Whether each permit was given back. A circle may hold what holds one."""
        if self.out():
            gc.collect(1)  # the young ones take a twentieth of all
        if self.out():
            gc.collect()
        return not self.out()

    def out(self) -> list[dict[int, bool]]:
        """Permits that have not been given back."""
        return [permits.out for permits in self.member.all.values() if permits.out]


async def get(client: redis.asyncio.Redis) -> Any:
    return await client.get("a")


async def set_(client: redis.asyncio.Redis) -> Any:
    return await client.set("c", "C")


async def pipeline(client: redis.asyncio.Redis) -> Any:
    async with client.pipeline(transaction=True) as pipe:
        pipe.get("a")
        pipe.get("b")
        return await pipe.execute()


async def watch(client: redis.asyncio.Redis) -> Any:
    async with client.pipeline() as pipe:
        await pipe.watch("a")
        value: Any = await pipe.get("a")
        pipe.multi()
        pipe.set("a", value)
        return await pipe.execute()


async def lock(client: redis.asyncio.Redis) -> Any:
    async with client.lock("lock", timeout=0.05, blocking_timeout=1):
        pass


async def pubsub(client: redis.asyncio.Redis) -> Any:
    async with client.pubsub() as subscriber:
        await subscriber.subscribe("channel")
        await subscriber.get_message(timeout=0.02)
        await subscriber.get_message(timeout=0.02)


async def blpop(client: redis.asyncio.Redis) -> Any:
    return await client.blpop("nothing", timeout=0.05)


async def lease(client: redis.asyncio.Redis) -> Any:
    pool: Any = client.connection_pool
    async with pool.connection(timeout=3) as connection:
        await connection.send_command("GET", "a")
        assert await connection.read_response() == b"A"


OPERATIONS: dict[str, Callable[[redis.asyncio.Redis], Coroutine[Any, Any, Any]]] = {
    "get": get, "set": set_, "pipeline": pipeline, "watch": watch, "lock": lock, "pubsub": pubsub, "blpop": blpop,
    "lease": lease,
}  # fmt: skip


@pytest.fixture
def filled(server: RedisServer) -> RedisServer:
    with redis.Redis(port=server.port, db=DATABASE) as client:
        client.flushall()
        client.mset({"a": "A", "b": "B"})
    with redis.Redis(port=server.port, db=0) as client:
        client.mset({"a": "of another database", "b": "of another database"})
    return server


class Provider(redis.CredentialProvider):
    """Whose credentials take a moment."""

    def get_credentials(self) -> tuple[str]:
        return ("",)

    async def get_credentials_async(self) -> tuple[str, str]:
        await asyncio.sleep(0)
        return ("default", "")


def in_world(operation: Callable[[redis.asyncio.Redis], Coroutine[Any, Any, Any]]) -> Any:
    return lambda world: operation(world.client)


def address(way: str, server: RedisServer) -> dict[str, Any]:
    if way == "unix":
        return {"connection_class": redis.asyncio.UnixDomainSocketConnection, "path": server.path}
    return {"host": "127.0.0.1" if way == "tcp" else "localhost", "port": server.port}


def maker(where: dict[str, Any], state: str) -> Callable[[], Coroutine[Any, Any, World]]:
    """Makes a world in which the pool has an idle connection, none, or one that comes back soon."""

    async def make() -> World:
        world = World(**where)
        if state != "cold":
            await world.client.get("a")
        if state == "queued":
            world.pool.resize(max_connections=1)
            held = await world.pool.get_connection()

            def give_back() -> None:
                asyncio.ensure_future(world.pool.release(held))  # noqa: RUF006

            asyncio.get_running_loop().call_later(0.005, give_back)
        return world

    return make


@pytest.mark.parametrize("state", ["warm", "cold", "queued"])
@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("way", ["tcp", "name", "unix"])
@pytest.mark.parametrize("loop", LOOPS)
def test_at_every_suspension(filled: RedisServer, loop: str, way: str, how: How, state: str):
    if way != "tcp" and state != "cold":
        pytest.skip("what is connected does not matter any more")
    make = maker(address(way, filled), state)

    async def walk_all() -> dict[str, Any]:
        found = {}
        for name, operation in OPERATIONS.items():
            count, wrong = await walk(make, in_world(operation), World.check, how)
            assert count >= 1, name
            if wrong:
                found[name] = wrong
        return found

    assert run(loop, walk_all()) == {}


class ThroughSentinel(World):
    """The same, with a master that a Sentinel names."""

    def __init__(self, port: int) -> None:
        self.member = FakeMember(prompt=True)
        self.manager = redis.asyncio.Sentinel([("127.0.0.1", port)])
        client = self.manager.master_for(
            "main", connection_pool_class=SentinelConnectionPool, db=DATABASE, member=self.member, timeout=5
        )
        client.auto_close_connection_pool = False
        self.client, self.pool = client, client.connection_pool

    async def close(self) -> None:
        await super().close()
        await self.manager.aclose()

    async def check(self) -> list[str]:
        asking: Any = self.manager.sentinels[0].connection_pool
        stats = asking.stats()
        wrong = [f"{stats} of the pool for questions"] if stats.in_use or stats.opening or stats.waiting else []
        return [*wrong, *await super().check()]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("loop", LOOPS)
def test_while_a_sentinel_is_asked(filled: RedisServer, sentinel: int, loop: str, how: How):
    async def make() -> World:
        return ThroughSentinel(sentinel)

    count, wrong = run(loop, walk(make, in_world(get), World.check, how))
    assert count >= 8 and wrong == []


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("loop", LOOPS)
def test_while_credentials_are_awaited(filled: RedisServer, loop: str, how: How):
    """No connection is left without a user, or on another database than its pool's."""
    make = maker({**address("tcp", filled), "credential_provider": Provider()}, "cold")
    count, wrong = run(loop, walk(make, in_world(get), World.check, how))
    assert count >= 5 and wrong == []


@pytest.mark.parametrize("state", ["warm", "cold", "queued"])
@pytest.mark.parametrize("name", ["get", "blpop", "lease"])
@pytest.mark.parametrize("loop", LOOPS)
def test_when_the_loop_ends_at_any_suspension(filled: RedisServer, loop: str, name: str, state: str):
    make = maker(address("tcp", filled), state)
    count, wrong = walk_to_the_end(loop, make, in_world(OPERATIONS[name]), World.check)
    assert count >= 1 and wrong == []


# ---- as applications cancel --------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["anyio", "wait_for", "timeout"])
@pytest.mark.parametrize("loop", LOOPS)
def test_scopes_that_end_at_any_moment(filled: RedisServer, loop: str, scope: str):
    """anyio cancels again at each further suspension; wait_for of Python 3.11 makes a task of its own."""

    async def main() -> list[str]:
        world = World(host="127.0.0.1", port=filled.port, max_connections=4)
        outcomes: Counter[str] = Counter()

        async def one(number: int) -> None:
            for turn in range(25):
                seconds = 5.0 if turn % 4 == 0 else 0.0007 * ((number * 7 + turn) % 11)
                word = f"{number}-{turn}"
                found: Any = b""
                try:
                    if scope == "anyio":
                        with anyio.move_on_after(seconds):
                            found = await world.client.echo(word)
                    elif scope == "timeout":
                        async with asyncio.timeout(seconds):
                            found = await world.client.echo(word)
                    else:
                        found = await asyncio.wait_for(world.client.echo(word), seconds)
                except TimeoutError:
                    pass
                outcomes["crossed" if found not in (b"", word.encode()) else "answered" if found else "late"] += 1

        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(one, number)
        assert not outcomes["crossed"] and outcomes["late"] and outcomes["answered"], outcomes
        return await world.check()

    assert run(loop, main()) == []


def test_the_walker_finds_what_redis_py_does_wrong(filled: RedisServer):
    """The check that it can fail: on Python 3.11 ``asyncio.wait_for`` swallows a cancellation at each send, and a
    cancelled handshake leaves a connection on database 0."""

    async def make() -> redis.asyncio.Redis:
        return redis.asyncio.Redis(port=filled.port, db=DATABASE, max_connections=2, credential_provider=Provider())

    async def check(client: redis.asyncio.Redis) -> list[str]:
        wrong = []
        if client.connection_pool._in_use_connections:
            wrong.append("lent")
        try:
            found = await client.get("a")
            if found != b"A":
                wrong.append(f"crossed: {found!r}")
        except Exception as error:
            wrong.append(repr(error))
        await client.aclose()
        return wrong

    count, wrong = run("asyncio", walk(make, get, check))
    assert count > 3
    if sys.version_info < (3, 12):
        assert any("swallowed" in one for one in wrong), wrong
    assert any("another database" in one for one in wrong), wrong
