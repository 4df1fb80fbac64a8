"""One pool in several loops at once: what one loop's tasks give back, another loop's tasks get, in the order of their
coming, and without a look at the clock."""

from __future__ import annotations

import asyncio
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
import redis.asyncio

from poolmgr.asyncio import ConnectionPool
from poolmgr.pool.parts import RESERVED
from poolmgr.pool.waiting import SLICE
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember
from tests.walker import LOOPS, run

SOON = SLICE / 2
"""Seconds: a wake-up takes milliseconds, even beside a load of 10; a look at the clock, :data:`SLICE`."""


@pytest.fixture(params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(params=["max_connections", "permits"])
def shared(request: pytest.FixtureRequest, server: RedisServer) -> Iterator[Callable[[int], ConnectionPool]]:
    """Makes a pool of so many connections, bounded by itself or by the budget."""
    made: list[tuple[ConnectionPool, Prompt]] = []

    def make(count: int) -> ConnectionPool:
        by_budget = request.param == "permits"
        member = Prompt(limit=count if by_budget else 10**6)
        pool = ConnectionPool(
            host="127.0.0.1", port=server.port, member=member, timeout=20,
            max_connections=None if by_budget else count,
        )  # fmt: skip
        member.pool = pool
        made.append((pool, member))
        return pool

    yield make
    for pool, member in made:
        wait_until_its_loops_are_forgotten(pool)
        member.end()
        assert [permits.out for permits in member.all.values() if permits.out] == []
        for permits in member.all.values():
            assert permits.most <= permits.limit


def wait_until_its_loops_are_forgotten(pool: ConnectionPool) -> None:
    wait_for(lambda: pool.stats() and not pool._shards, 10)


class Prompt(FakeMember):
    """Tells the pool of each permit that is free again, as the real one does."""

    pool: ConnectionPool

    def __init__(self, limit: int) -> None:
        super().__init__(limit, prompt=True)
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, daemon=True)
        self._watching.start()

    def _watch(self) -> None:
        refused = 0
        while not self._over.wait(0.001):
            for permits in tuple(self.all.values()):
                if permits.refused > refused and len(permits.out) < permits.limit:
                    refused = permits.refused
                    self.pool.grow()

    def end(self) -> None:
        self._over.set()
        self._watching.join()


def side_by_side(loop: str, *works: Callable[[], Coroutine[Any, Any, Any]], events: tuple[Any, ...] = ()) -> None:
    """Run each in a loop and a thread of its own.

    Args:
        events: to be set if one fails, so that the others come to an end.
    """
    wrong: list[BaseException] = []

    def serve(work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            run(loop, work())
        except BaseException as error:
            wrong.append(error)
            for event in events:
                event.set()

    threads = [threading.Thread(target=serve, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


async def until(event: threading.Event) -> None:
    ends = time.monotonic() + 30
    while not event.is_set():
        assert time.monotonic() < ends, "it never came"
        await asyncio.sleep(0.001)


def sent_by_others(pool: ConnectionPool) -> bool:
    """Whether a task of another loop waits for what this one has."""
    here = pool._here()
    others = [shard for shard in tuple(pool._shards) if shard is not here]
    return any(shard.errand is not None and shard.errand.fate is None for shard in others)


def test_what_comes_back_in_one_loop_wakes_a_task_of_another_one(shared: Any, loop: str):
    pool = shared(1)
    begun, waiting, done = threading.Event(), threading.Event(), threading.Event()
    late: list[float] = []
    given = [0.0]

    async def holder() -> None:
        while True:
            connection = await pool.get_connection()
            begun.set()
            await until(waiting)
            waiting.clear()
            if done.is_set():
                await pool.release(connection)
                return
            while not sent_by_others(pool):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
            given[0] = time.monotonic()
            await pool.release(connection)
            del connection

    async def taker() -> None:
        for _ in range(9):
            await until(begun)
            begun.clear()
            waiting.set()
            connection = await pool.get_connection()
            late.append(time.monotonic() - given[0])
            await pool.release(connection)
            del connection
        await until(begun)
        done.set()
        waiting.set()

    side_by_side(loop, holder, taker, events=(begun, waiting, done))
    assert statistics.median(late) < SOON, late


def test_a_busy_loop_does_not_starve_another_one(shared: Any, loop: str):
    pool = shared(2)
    client = redis.asyncio.Redis(connection_pool=pool)
    over = threading.Event()
    turns: Counter[str] = Counter()
    waits: list[float] = []

    async def busy() -> None:
        async def one() -> None:
            while not over.is_set():
                await client.get("k")
                turns["busy"] += 1

        await asyncio.gather(*(one() for _ in range(8)))

    async def modest() -> None:
        while turns["busy"] < 100:
            await asyncio.sleep(0.001)
        ends = time.monotonic() + 2
        while time.monotonic() < ends and (len(waits) < 50 or turns["busy"] <= 200):
            began = time.monotonic()
            await client.get("k")
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        over.set()

    side_by_side(loop, busy, modest, events=(over,))
    assert len(waits) >= 20 and statistics.median(waits) < SOON, (len(waits), max(waits))
    assert turns["busy"] > 200, turns


def test_loops_that_want_the_same_get_the_same(shared: Any, loop: str):
    """A turn here takes longer than a connect, so that moving a connection pays."""
    pool = shared(4)
    turns: Counter[str] = Counter()
    ready = threading.Barrier(3)
    ends = [0.0]

    def worker(name: str) -> Callable[[], Coroutine[Any, Any, None]]:
        async def one() -> None:
            while time.monotonic() < ends[0]:
                async with pool.connection():
                    await asyncio.sleep(0.02)
                turns[name] += 1

        async def work() -> None:
            ready.wait()
            ends[0] = time.monotonic() + 3
            await asyncio.gather(*(one() for _ in range(8)))

        return work

    side_by_side(loop, *(worker(name) for name in "abc"))
    assert max(turns.values()) <= 2 * min(turns.values()), turns
    assert pool.stats().closed.get("recalled", 0) < sum(turns.values()) / 2, pool.stats()


def test_more_loops_than_connections_never_stand_still(shared: Any, loop: str):
    """Loops that were given a place at the same time do not keep each other from it until that is too old: else there
    are thirty turns a second."""
    pool = shared(4)
    client = redis.asyncio.Redis(connection_pool=pool)
    turns: list[float] = []
    ends = time.monotonic() + 5

    async def one() -> None:
        while time.monotonic() < ends and len(turns) < 1500:
            await client.get("k")
            turns.append(time.monotonic())

    async def work() -> None:
        await asyncio.gather(*(one() for _ in range(5)))

    side_by_side(loop, *(work for _ in range(6)))
    turns.sort()
    still = [after - before for before, after in pairwise(turns) if after - before > RESERVED / 2]
    assert len(still) <= 1, still  # a busy machine may hold all of them up once


def test_what_lies_idle_in_a_loop_that_stands_still_is_taken(shared: Any, loop: str):
    pool = shared(1)
    client = redis.asyncio.Redis(connection_pool=pool)
    still, served = threading.Event(), threading.Event()

    async def stuck() -> None:
        await client.get("k")
        still.set()
        assert served.wait(10)  # it blocks its loop

    async def other() -> None:
        await until(still)
        await client.get("k")
        served.set()

    side_by_side(loop, stuck, other)


def test_a_loop_that_is_closed_with_all_connections_holds_up_no_other(shared: Any, loop: str):
    pool = shared(2)
    client = redis.asyncio.Redis(connection_pool=pool)
    held: list[Any] = []
    took, closed = threading.Event(), threading.Event()

    def closing() -> None:
        async def take() -> None:
            held.extend([await pool.get_connection(), await pool.get_connection()])
            took.set()
            await asyncio.sleep(0.05)

        run(loop, take())
        closed.set()

    async def waits() -> None:
        await until(took)
        await asyncio.gather(*(client.get("k") for _ in range(4)))
        assert closed.is_set()

    thread = threading.Thread(target=closing)
    thread.start()
    side_by_side(loop, waits)
    thread.join()
    assert pool.stats().closed["loop"] >= 2


def test_a_pool_is_resized_for_all_its_loops_together(server: RedisServer, loop: str):
    member = FakeMember(prompt=True)
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=member, timeout=20, max_connections=4)
    took, lowered, returned, raised, full, done = ([threading.Event() for _ in range(2)] for _ in range(6))

    def user(number: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def use() -> None:
            held = [await pool.get_connection() for _ in range(2)]
            took[number].set()
            await until(lowered[number])
            while held:
                await pool.release(held.pop())
            returned[number].set()
            await until(raised[number])
            held = await asyncio.gather(*(pool.get_connection() for _ in range(3)))
            full[number].set()
            await until(done[number])
            while held:
                await pool.release(held.pop())

        return use

    async def resize() -> None:
        await all_of(took)
        assert pool.stats().in_use == 4
        pool.resize(max_connections=1)
        assert pool.stats().in_use == 4, "lent ones are closed when they come back"
        set_all(lowered)
        await all_of(returned)
        stats = pool.stats()
        assert (stats.in_use, stats.idle, stats.closed) == (0, 1, {"resized": 3}), stats
        pool.resize(max_connections=6)
        set_all(raised)
        await all_of(full)
        assert pool.stats().in_use == 6 == member.only.most
        set_all(done)

    events = (*took, *lowered, *returned, *raised, *full, *done)
    side_by_side(loop, user(0), user(1), resize, events=events)
    wait_until_its_loops_are_forgotten(pool)


async def all_of(events: list[threading.Event]) -> None:
    for event in events:
        await until(event)


def set_all(events: list[threading.Event]) -> None:
    for event in events:
        event.set()


def test_a_loop_runs_in_one_thread_after_another(server: RedisServer, loop: str):
    """Each time the running loop gets a connection of its own, whichever loop and thread used the pool last."""
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=FakeMember(prompt=True))
    first, second = LOOPS[loop](), LOOPS[loop]()
    runs, over = threading.Event(), threading.Event()

    async def get() -> None:
        async with pool.connection() as connection:
            assert connection._stream._loop is asyncio.get_running_loop()
            assert await redis.asyncio.Redis(connection_pool=pool).ping()

    async def stays() -> None:
        runs.set()
        while not over.is_set():
            await asyncio.sleep(0.001)
        await get()

    for one in (first, first, second, first):
        one.run_until_complete(get())
    with ThreadPoolExecutor(1) as other:
        done = other.submit(first.run_until_complete, stays())
        assert runs.wait(10)
        second.run_until_complete(get())
        over.set()
        done.result(10)
    for one in (first, second):
        one.run_until_complete(get())
    first.run_until_complete(pool.aclose())
    first.close()
    second.close()
