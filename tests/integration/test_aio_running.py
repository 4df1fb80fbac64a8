"""How a loop may run the pool's tasks: in debug mode, eagerly, and no longer than until it is closed."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import warnings
from typing import Any

import pytest
import redis.asyncio

from poolmgr.asyncio import ConnectionPool
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember
from tests.pools import slow_names
from tests.walker import LOOPS, run

pytestmark = pytest.mark.parametrize("loop", LOOPS)

SLOW = 1.0
"""Seconds that a callback may take here: more than a loaded machine takes from one, less than what blocks."""


def test_debug_mode_has_nothing_to_say(server: RedisServer, loop: str, caplog: pytest.LogCaptureFixture):
    """Nothing blocks the loop, not even a name that is slow to resolve; and no coroutine, task or transport is left."""
    member = FakeMember(prompt=True)

    async def main() -> None:
        running = asyncio.get_running_loop()
        running.slow_callback_duration = SLOW
        pool = ConnectionPool(host="localhost", port=server.port, member=member, max_connections=3, timeout=20)
        client = redis.asyncio.Redis(connection_pool=pool)
        with slow_names() as go:
            first = asyncio.ensure_future(client.ping())
            await asyncio.sleep(2 * SLOW)
            assert not first.done()
            go.set()
            assert await first
        await asyncio.gather(*(client.set(f"k{n}", n) for n in range(20)))
        cancelled = [asyncio.ensure_future(client.blpop("none", timeout=0)) for _ in range(5)]  # two of them wait
        while pool.stats().waiting != 2:
            await asyncio.sleep(0.001)
        for one in cancelled:
            one.cancel()
        await asyncio.gather(*cancelled, return_exceptions=True)
        assert await client.get("k7") == b"7"
        await pool.aclose()

    gc.collect()  # what an earlier test has left unclosed warns now, and not below
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.WARNING):
        warnings.simplefilter("always")
        run(loop, main(), debug=True)
        gc.collect()
    assert [str(one.message) for one in warned] == []
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []
    assert not any(permits.out for permits in member.all.values()), "the name may lead to two addresses"


def eager(loop: Any, work: Any, *, context: Any = None, **_: Any) -> asyncio.Task[Any]:
    """``asyncio.eager_task_factory`` of Python 3.13 does not take all that uvloop gives."""
    return asyncio.Task(work, loop=loop, context=context, eager_start=True)  # type: ignore[call-arg]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 and later have eager tasks")
def test_tasks_that_begin_at_once(server: RedisServer, loop: str):
    """``create_task`` runs a task to its first suspension, in the middle of whatever creates it."""
    member = FakeMember(limit=3, prompt=True)

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(eager)
        pool = ConnectionPool(host="127.0.0.1", port=server.port, member=member, timeout=20, min_idle=1)
        client = redis.asyncio.Redis(connection_pool=pool)
        for turn in range(30):
            tasks = [asyncio.ensure_future(client.echo(f"{turn} {n}")) for n in range(12)]
            await asyncio.sleep(0)
            for task in tasks[::4]:
                task.cancel()
            for n, found in enumerate(await asyncio.gather(*tasks, return_exceptions=True)):
                assert found == f"{turn} {n}".encode() or (n % 4 == 0 and isinstance(found, asyncio.CancelledError))
        stats = pool.stats()
        assert (stats.in_use, stats.waiting) == (0, 0), stats
        await pool.aclose()

    run(loop, main())
    assert member.only.most <= 3 and not member.only.out


def test_a_loop_is_closed_in_the_middle_of_everything(server: RedisServer, loop: str):
    """Tasks wait for replies, for connections and for connects. Closing the loop raises nothing (uvloop: EBUSY), and
    all permits are back while the tasks are still referred to. That they go is tested in ``test_aio_cancellation``, one
    at a time: CPython 3.11 may crash if it collects garbage while a closed loop's task is being destroyed, with
    redis-py's pools too."""
    member = FakeMember(prompt=True)
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=member, max_connections=4, timeout=20)
    client = redis.asyncio.Redis(connection_pool=pool)
    running = LOOPS[loop]()
    tasks: list[Any] = []

    async def begin() -> None:
        tasks.extend(asyncio.ensure_future(client.blpop("none", timeout=0)) for _ in range(12))
        while pool.stats().in_use + pool.stats().opening < 2:
            await asyncio.sleep(0)

    running.run_until_complete(begin())
    for task in tasks:
        task._log_destroy_pending = False
    running.close()
    assert running.is_closed()
    wait_for(lambda: pool.stats().in_use == 0 and not pool._shards, 10, what="the loop is forgotten")
    gc.collect()
    assert not member.only.out
    gc.disable()
    tasks.clear()
    gc.enable()

    async def again() -> None:
        assert await client.ping()
        await pool.aclose()

    run(loop, again())
