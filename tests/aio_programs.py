"""Programs of tests whose process must be its own: its member, its loops, its children.

``python -X dev -m tests.aio_programs NAME LOOP`` runs one of them; what it asserts is the test. More than 400 lines, as
one list of short programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import random
import resource
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from typing import Any

import redis
import redis.asyncio

import poolmgr
from poolmgr.asyncio import ConnectionPool, get_client, get_pool, lifespan
from poolmgr.member.loop import Loop
from poolmgr.member.member import get_member
from tests.helpers import wait_for
from tests.permits import FakeMember
from tests.storm import command
from tests.walker import LOOPS, run

URL = os.environ.get("REDIS_URL", "")
BUDGET = int(os.environ.get("REDIS_CONNECTION_BUDGET") or 0)

AT_IMPORT = ConnectionPool.from_url(URL or "redis://127.0.0.1:1", timeout=20)
"""Made before there is a loop, as applications do."""


def ours() -> int:
    """Connections of pools that the server has."""
    with redis.Redis.from_url(URL, client_name="observer") as client:
        return sum(1 for one in client.client_list() if one["name"] != "observer" and one["lib-name"].count(":"))


async def echo(client: redis.asyncio.Redis, *words: str) -> None:
    found = await asyncio.gather(*(client.echo(word) for word in words))
    assert found == [word.encode() for word in words], (found, words)


# ---- threads and tasks -------------------------------------------------------------------------------


def a_permit_goes_from_threads_to_tasks_and_back(loop: str) -> None:
    threads = poolmgr.ConnectionPool.from_url(URL, timeout=20)
    client = redis.Redis(connection_pool=threads)
    for _ in range(3):
        held = [threads.get_connection() for _ in range(BUDGET - 1)]  # one is the supervisor's to look with
        for connection in held:
            threads.release(connection)
        assert threads.stats().idle == BUDGET - 1

        async def use() -> None:
            await echo(redis.asyncio.Redis(connection_pool=AT_IMPORT), *(str(number) for number in range(30)))
            assert AT_IMPORT.stats().idle >= 1

        run(loop, use())
        assert threads.stats().closed.get("recalled"), threads.stats()
        assert client.ping()
    assert sum(1 for thread in threading.enumerate() if thread.name == "poolmgr") <= 1
    threads.close()


def the_default_client(loop: str) -> None:
    assert get_client() is get_client() and get_client().connection_pool is get_pool()

    async def use() -> None:
        assert await get_client().set("k", "v")
        assert await get_client().get("k") == b"v"
        assert ours() == 1
        await get_pool().aclose()

    run(loop, use())
    run(loop, use())


def a_lifespan_says_goodbye(loop: str) -> None:
    """At once, although the process goes on; the next one is another membership."""
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
    members = []

    async def serve() -> None:
        async with lifespan():
            await echo(client, "a", "b", "c")
            members.append(get_member())
            assert ours() >= 1 and not members[-1].over
        assert members[-1].over and ours() == 0

    run(loop, serve())
    run(loop, serve())
    assert members[0] is not members[1]


def a_lifespan_leaves_alone_what_is_in_use(loop: str) -> None:
    """A process that goes on, in another thread, stays a member and keeps its idle connections from then on."""
    threads = poolmgr.ConnectionPool.from_url(URL, timeout=20)
    held = threads.get_connection()
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)

    async def serve() -> None:
        async with lifespan():
            await echo(client, "a", "b", "c")
        assert ours() == 1 and not get_member().over

    run(loop, serve())
    held.send_command("ECHO", "still")
    assert held.read_response() == b"still"
    threads.release(held)
    assert redis.Redis(connection_pool=threads).ping()
    turns: list[Loop] = []
    take_turn = Loop._turn

    def turn(loop: Loop) -> None:
        take_turn(loop)
        turns.append(loop)

    Loop._turn = turn  # type: ignore[method-assign, assignment]

    def has_had_its_turns() -> bool:
        threads.release(threads.get_connection())
        loop = get_member().loop
        assert isinstance(loop, Loop)
        loop.waker.poke()
        return len(turns) >= 3

    wait_for(has_had_its_turns, what="the member's thread has had its turns")
    assert threads.stats().idle == 1 and threads.stats().closed == {}, threads.stats()


def the_loop_is_not_held_up_by_the_first_use(loop: str) -> None:
    """The member's start, and a supervisor that has to be started first, happen elsewhere."""
    worked: list[float] = []

    async def main() -> None:
        async def beat() -> None:
            last = time.thread_time()
            while True:
                await asyncio.sleep(0)
                now = time.thread_time()
                worked.append(now - last)
                last = now

        heart = asyncio.ensure_future(beat())
        await asyncio.sleep(0)  # it begins
        await asyncio.sleep(0)
        assert worked
        gc.collect()
        gc.freeze()  # a collection of all that the imports have made takes longer, and may fall due at any moment
        await asyncio.sleep(0)
        worked.clear()
        assert await redis.asyncio.Redis(connection_pool=AT_IMPORT).ping()
        heart.cancel()
        await AT_IMPORT.aclose()

    run(loop, main())
    assert max(worked) < 0.02, f"the loop's thread worked for {max(worked):.3f} s at one go"


def each_connection_counts_as_two_descriptors(loop: str) -> None:
    """Not even a burst meets the limit of open files, whose hard bound is 150 here."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 150))
    most = 0

    async def use() -> None:
        nonlocal most
        client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
        await client.ping()
        for _ in range(8):
            await asyncio.gather(*(client.blpop("none", timeout=0.05) for _ in range(120)))
            most = max(most, len(os.listdir("/proc/self/fd")))
        await AT_IMPORT.aclose()

    run(loop, use())
    stats = AT_IMPORT.stats()
    assert stats.connect_errors == 0, stats
    assert 110 < most <= 150 - 16, (most, stats)


# ---- loops -------------------------------------------------------------------------------------------


def a_loop_that_is_closed_without_a_goodbye(loop: str) -> None:
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
    kept: list[Any] = []

    async def use() -> None:
        await echo(client, *(str(number) for number in range(10)))
        kept.append(await AT_IMPORT.get_connection())

    for _ in range(8):  # more than the budget has permits
        run(loop, use())
    wait_for(lambda: ours() == 0, 20)
    assert AT_IMPORT._shards == []
    stats = AT_IMPORT.stats()
    assert stats.closed["loop"] >= 8 and stats.checkouts == 8 * 11, stats
    assert stats.in_use == stats.idle == stats.opening == 0, stats


def one_pool_in_several_loops_at_once(loop: str) -> None:
    AT_IMPORT.resize(max_connections=2)
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
    wrong: list[BaseException] = []

    async def use(name: str) -> None:
        for number in range(30):
            await echo(client, *(f"{name}-{number}-{task}" for task in range(6)))

    def serve(name: str) -> None:
        try:
            run(loop, use(name))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=serve, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [], wrong


def two_loops_and_threads_share_what_there_is(loop: str) -> None:
    """Each wants all of it, all the time; none of them starves, and none waits long."""
    threads = poolmgr.ConnectionPool.from_url(URL, timeout=20)
    ready, ends = threading.Barrier(4), [0.0]
    turns: Counter[str] = Counter()
    waits: dict[str, list[float]] = {"threads": [], "a": [], "b": []}

    def begin() -> None:
        ready.wait()
        ends[0] = ends[0] or time.monotonic() + 6

    async def use(name: str) -> None:
        async def one() -> None:
            while time.monotonic() < ends[0]:
                began = time.monotonic()
                async with AT_IMPORT.connection():
                    waits[name].append(time.monotonic() - began)
                    await asyncio.sleep(0.01)

        begin()
        await asyncio.gather(*(one() for _ in range(6)))

    def use_threads() -> None:
        def one() -> None:
            while time.monotonic() < ends[0]:
                began = time.monotonic()
                with threads.connection():
                    waits["threads"].append(time.monotonic() - began)
                    time.sleep(0.01)

        begin()
        users = [threading.Thread(target=one) for _ in range(6)]
        for user in users:
            user.start()
        for user in users:
            user.join()

    sides = [threading.Thread(target=run, args=(loop, use(name))) for name in "ab"]
    sides.append(threading.Thread(target=use_threads))
    for side in sides:
        side.start()
    begin()
    for side in sides:
        side.join()
    turns.update({name: len(found) for name, found in waits.items()})
    worst = {name: round(max(found), 3) for name, found in waits.items()}
    middle = {name: round(sorted(found)[len(found) // 2], 3) for name, found in waits.items()}
    assert min(turns.values()) * 16 > max(turns.values()), (turns, worst, middle)
    assert max(middle.values()) < 0.25, (turns, worst, middle)
    threads.close()


def a_loop_that_is_closed_during_a_connect(loop: str) -> None:
    """A connect that is under way is collected after its loop. uvloop's own ``sock_connect`` ends the process then."""
    # The collector may take the socket before the coroutine, which would have closed it, and says so.
    warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)
    with socket.socket() as full, contextlib.ExitStack() as stack:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(full.getsockname())
        for turns in range(1, 21):
            member = FakeMember(prompt=True)
            pool = ConnectionPool(host="127.0.0.1", port=full.getsockname()[1], member=member)
            connects = turns % 2 == 1  # else it is however far it has come
            _close_after(turns, LOOPS[loop](), pool, connects)
            gc.collect()
            assert pool.stats().opening == pool.stats().in_use == 0, turns
            assert not any(permits.out for permits in member.all.values()), turns


def _close_after(turns: int, loop: asyncio.AbstractEventLoop, pool: ConnectionPool, connects: bool) -> None:
    """A command has so many turns of the loop, and those that it takes until it ``connects``."""

    def turn() -> None:
        loop.call_soon(loop.stop)
        loop.run_forever()

    def has_begun_to_connect() -> bool:
        turn()
        return pool.stats().opening == 1

    work: Any = redis.asyncio.Redis(connection_pool=pool).get("k")
    task = loop.create_task(work)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    if connects:
        wait_for(has_begun_to_connect)
    for _ in range(turns):
        turn()
    assert not task.done()
    loop.close()


def many_short_loops(loop: str) -> None:
    """As asgiref's async_to_sync makes them."""
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
    for number in range(60):
        run(loop, echo(client, str(number)))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(60):
        run(loop, echo(client, str(number)))
    assert len(os.listdir("/proc/self/fd")) <= before + 8


# ---- forks -------------------------------------------------------------------------------------------


def a_child_does_not_touch_its_parent_s_transports(loop: str) -> None:
    client = redis.asyncio.Redis(connection_pool=AT_IMPORT)

    def child() -> None:
        stats = AT_IMPORT.stats()
        assert (stats.in_use, stats.idle, stats.checkouts) == (0, 0, 0), stats
        run(loop, echo(client, "child"))
        os._exit(0)

    async def main() -> None:
        await client.set("k", "v")
        held = await AT_IMPORT.get_connection()
        await held.send_command("BLPOP", "list", "0")
        pid = os.fork()
        if pid == 0:
            try:
                # A loop cannot run inside another one; a thread of the child has none.
                thread = threading.Thread(target=child)
                thread.start()
                thread.join()
            finally:
                os._exit(1)
        _, status = await asyncio.get_running_loop().run_in_executor(None, os.waitpid, pid, 0)
        assert status == 0, status
        await client.lpush("list", "x")
        assert await asyncio.wait_for(held.read_response(), 10) == [b"list", b"x"]
        await AT_IMPORT.release(held)
        await echo(client, "parent", "still", "there")
        assert AT_IMPORT.stats().closed == {}
        await AT_IMPORT.aclose()

    run(loop, main())


def _in_child(loop: str, number: int) -> None:
    run(loop, echo(redis.asyncio.Redis(connection_pool=AT_IMPORT), str(number)))


def children_of_multiprocessing(loop: str) -> None:
    run(loop, echo(redis.asyncio.Redis(connection_pool=AT_IMPORT), "parent"))
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_in_child, args=(loop, number)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0, child.exitcode
    run(loop, echo(redis.asyncio.Redis(connection_pool=AT_IMPORT), "parent"))


# ---- the oracle --------------------------------------------------------------------------------------


def storm_of_tasks(loop: str) -> None:
    """Until SIGTERM: tasks that talk; then what was seen, and what is left."""
    seen: Counter[str] = Counter()
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())

    async def one(client: redis.asyncio.Redis) -> None:
        while not over.is_set():
            await command(client, seen)
            if random.random() < 0.02:
                await asyncio.sleep(random.random() * 0.2)

    async def main() -> None:
        client = redis.asyncio.Redis(connection_pool=AT_IMPORT)
        await asyncio.gather(*(one(client) for _ in range(12)))
        for _ in range(1000):
            stats = AT_IMPORT.stats()
            if not stats.in_use + stats.opening + stats.waiting:
                break
            await asyncio.sleep(0.01)
        print(json.dumps({**seen, "left": stats.in_use + stats.opening + stats.waiting}), flush=True)
        await AT_IMPORT.aclose()

    run(loop, main())


if __name__ == "__main__":
    globals()[sys.argv[1]](sys.argv[2])
    if not sys.argv[1].startswith("storm"):
        print("done", flush=True)
