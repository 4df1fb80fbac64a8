"""What a user's class overrides of redis.asyncio's connections is called, and what is owed stays right: a connection
that is clean is used again, one that is not is never lent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.connection import Connection

from poolmgr.asyncio import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.walker import LOOPS, run


class Both(Connection):
    """The usual mixin: a word before and after."""

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        await super().send_command(*args, **kwargs)

    async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
        await super().send_packed_command(*args, **kwargs)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return await super().read_response(*args, **kwargs)


class Asks(Connection):
    """Another command before each one, read by the class's own methods."""

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        if args[0] == "GET":
            await super().send_command("PING")
            assert await super().read_response() == b"PONG"
        await super().send_command(*args, **kwargs)


class AsksItself(Connection):
    """The same through the front."""

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        if args[0] == "GET":
            await self.send_packed_command(self.pack_command("PING"))
            assert await self.read_response() == b"PONG"
        await super().send_command(*args, **kwargs)


class Twice(Connection):
    """Each GET is sent twice, and its first reply thrown away."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        await super().send_packed_command(command, check_health)
        if b"GET" in b"".join(command):
            await super().send_packed_command(command, check_health)
            await super().read_response()


class Answers(Connection):
    """Some commands never leave."""

    kept = False

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        self.kept = args[0] == "GET"
        if not self.kept:
            await super().send_command(*args, **kwargs)

    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        if self.kept:
            self.kept = False
            return b"v"
        return await super().read_response(*args, **kwargs)


class Writes(Connection):
    """It writes to the transport itself."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if not self.is_connected:
            await self.connect()
        writer: Any = self._writer
        writer.writelines(command)
        await writer.drain()


CLASSES: dict[str, type] = {kind.__name__: kind for kind in (Both, Asks, AsksItself, Twice, Answers, Writes)}


async def work(pool: ConnectionPool) -> None:
    client = redis.asyncio.Redis(connection_pool=pool)
    await client.set("k", "v")
    for _ in range(5):
        assert await client.get("k") == b"v"
    async with client.pipeline(transaction=True) as pipe:
        pipe.incr("n")
        pipe.delete("n")
        assert (await pipe.execute())[1] == 1
    with pytest.raises(redis.ResponseError):
        await client.lpush("k", "x")
    assert await asyncio.gather(*(client.echo(str(number)) for number in range(9))) == [
        str(number).encode() for number in range(9)
    ]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("loop", LOOPS)
def test_what_a_class_sends_and_reads_is_counted_once(server: RedisServer, loop: str, name: str, protocol: int):
    member = FakeMember(prompt=True)

    async def main() -> None:
        pool = ConnectionPool(
            connection_class=CLASSES[name], host="127.0.0.1", port=server.port, protocol=protocol, member=member,
            max_connections=1,
        )  # fmt: skip
        await work(pool)
        if name != "Answers":
            assert (pool.stats().created, pool.stats().closed) == (1, {}), "a clean connection was closed"
        await pool.aclose()
        await asyncio.sleep(0.01)

    run(loop, main())
    assert [permits.out for permits in member.all.values() if permits.out] == []


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("loop", LOOPS)
def test_a_reply_that_was_not_read_reaches_nobody(server: RedisServer, loop: str, name: str):
    async def main() -> None:
        pool = ConnectionPool(
            connection_class=CLASSES[name], host="127.0.0.1", port=server.port, member=FakeMember(prompt=True)
        )
        client = redis.asyncio.Redis(connection_pool=pool)
        async with pool.connection() as connection:
            await connection.send_command("ECHO", "another's")
        assert await client.echo("mine") == b"mine"
        task = asyncio.ensure_future(client.blpop(["nothing"], timeout=0))
        while pool.stats().in_use != 1:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)
        task.cancel()
        await asyncio.wait({task})
        assert await client.echo("mine") == b"mine"
        await pool.aclose()

    run(loop, main())
