"""A task is woken by the call that brings its reply, and not at its loop's next turn. What else happens then."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
import redis.asyncio

from poolmgr.asyncio import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.walker import LOOPS, run


def pool_of(server: RedisServer, **options: Any) -> ConnectionPool:
    return ConnectionPool(host="127.0.0.1", port=server.port, member=FakeMember(prompt=True), **options)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_task_that_exits_ends_the_loop_and_not_the_connection(server: RedisServer, loop: str):
    async def main() -> None:
        pool = pool_of(server)
        async with pool.connection() as connection:

            async def leave() -> None:
                await connection.send_command("PING")
                await connection.read_response()
                sys.exit(7)

            task = asyncio.ensure_future(leave())
            try:
                await asyncio.sleep(5)
            finally:
                found.append((repr(task.exception()), connection.is_connected))

    found: list[tuple[str, bool]] = []
    with pytest.raises(SystemExit, match="7"):
        run(loop, main())
    assert found == [("SystemExit(7)", True)]


async def _brought(pool: ConnectionPool, *, cancelled: bool) -> Any:
    """A task waits for a reply, and another task gives it to the stream."""
    async with pool.connection() as connection:
        reading = asyncio.ensure_future(connection.read_response())
        await asyncio.sleep(0)
        connection._owed += 1
        connection._stream.data_received(b"+from another task\r\n")
        if cancelled:
            reading.cancel()
        return await reading


@pytest.mark.parametrize("loop", LOOPS)
def test_a_reply_may_come_within_another_task(server: RedisServer, loop: str):
    async def main() -> None:
        pool = pool_of(server)
        assert await _brought(pool, cancelled=False) == b"from another task"
        client = redis.asyncio.Redis(connection_pool=pool)
        assert await client.ping()
        with pytest.raises(asyncio.CancelledError):
            await _brought(pool, cancelled=True)
        assert await client.ping()
        await pool.aclose()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_the_same_wait_serves_one_task_after_another(server: RedisServer, loop: str):
    """And none that has been cancelled or was too late."""

    async def main() -> None:
        pool = pool_of(server, max_connections=1, timeout=5)
        client = redis.asyncio.Redis(connection_pool=pool)
        for number in range(50):
            text = str(number).encode()
            assert await asyncio.gather(*(client.echo(text) for _ in range(3))) == [text] * 3
            if number % 5 == 0:
                late = asyncio.ensure_future(client.blpop(["nothing"], timeout=0))
                while pool.stats().in_use != 1:
                    await asyncio.sleep(0)
                late.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await late
            if number % 5 == 1:
                async with pool.connection() as connection:
                    assert await connection.read_response(timeout=0.001, disconnect_on_error=False) is None
        await pool.aclose()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_writes_in_its_own_encoding(server: RedisServer, loop: str):
    """As redis.asyncio's do."""

    async def main() -> None:
        for encoding, expected in (("latin-1", b"\xe9"), ("utf-8", b"\xc3\xa9"), ("UTF8", b"\xc3\xa9")):
            pool = pool_of(server, encoding=encoding)
            client = redis.asyncio.Redis(connection_pool=pool)
            await client.set("word", "é")
            assert await client.get("word") == expected
            async with client.pipeline(transaction=False) as pipe:
                pipe.set("word", "é")
                pipe.get("word")
                assert (await pipe.execute())[1] == expected
            assert await client.config_get("maxclients")  # a name of two words
            await pool.aclose()

    run(loop, main())


@pytest.mark.parametrize("loop", LOOPS)
def test_futures_that_hide_who_waits_wake_tasks_as_usual(
    server: RedisServer, loop: str, monkeypatch: pytest.MonkeyPatch
):
    """An interpreter may have others: what is used of them is not documented."""

    class Hidden(asyncio.Future[bool]):
        @property
        def _callbacks(self) -> Any:
            asked.append(self)
            raise AttributeError("_callbacks")

    asked: list[Any] = []
    monkeypatch.setattr(asyncio, "Future", Hidden)

    async def main() -> None:
        pool = pool_of(server, max_connections=2)
        client = redis.asyncio.Redis(connection_pool=pool)
        texts = [str(number).encode() for number in range(50)]
        assert await asyncio.gather(*map(client.echo, texts)) == texts
        await pool.aclose()

    run(loop, main())
    assert asked
