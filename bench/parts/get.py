"""3. GET through the client, by one thread and by many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import redis

from bench.lib import pools, servers
from bench.lib.measure import blocks, turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table

TITLE = "GET through the client"
SECONDS = 65

THREADS = (1, 2, 4, 8, 16, 32)
KEY = "bench"

Make = Callable[[], pools.Repeat]
"""Makes what one thread repeats."""


def _of(client: redis.Redis) -> pools.Repeat:
    def repeat(count: int) -> None:
        get = client.get
        for _ in range(count):
            get(KEY)

    return repeat


def contestants(port: int, threads: int) -> dict[str, Make]:
    own = redis.Redis(connection_pool=pools.ours(port))
    theirs = redis.Redis(connection_pool=redis.ConnectionPool(host="127.0.0.1", port=port))
    blocking = redis.Redis(connection_pool=pools.blocking(port, threads))
    return {
        pools.OURS: lambda: _of(own),
        pools.REDIS: lambda: _of(theirs),
        pools.BLOCKING: lambda: _of(blocking),
        pools.DEDICATED: lambda: _of(redis.Redis(host="127.0.0.1", port=port, single_connection_client=True)),
        pools.RAW: lambda: pools.raw_get(port, KEY),
    }


def run(context: Context) -> Part:
    single = Table(key="single", title="GET by one thread", unit="µs", reference=pools.DEDICATED)
    many = Table(
        key="threads", title="GETs per second, all threads together", unit="1/s", better="higher",
        reference=pools.DEDICATED, axis="threads", chart="lines",
    )  # fmt: skip
    rounds = context.rounds(120)
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        with server.observer() as client:
            client.set(KEY, "value")
        names = list(contestants(server.port, 1))
        context.steps(rounds * len(names) // 10 + len(THREADS) * len(names) * context.rounds(5), TITLE)
        one = {name: make() for name, make in contestants(server.port, 1).items()}
        for number, (name, seconds) in enumerate(blocks(one, rounds, size=100)):
            single.add(name, seconds * 1e6)
            if number % 10 == 0:
                context.step("GET by one thread")
        for threads in THREADS:
            made = contestants(server.port, threads)
            repeats = {name: [make() for _ in range(threads)] for name, make in made.items()}
            for _, name in turns(names, context.rounds(5)):
                many.add(name, _together(repeats[name], context.seconds(0.3)), threads)
                context.step(f"GET by {threads} threads")
    return Part(
        key="get",
        title=TITLE,
        text="A dedicated connection for each thread is the floor for a redis-py client; a bare socket with "
        "hiredis is the floor for Python.",
        tables=[single, many],
        goals=[
            Goal(
                what="GET against a dedicated connection",
                table="single", variant=pools.OURS, against=pools.DEDICATED, at_most=1.05,
            ),
            Goal(
                what="GET against redis.ConnectionPool",
                table="single", variant=pools.OURS, against=pools.REDIS, at_most=1 / 1.1,
            ),
        ],
    )  # fmt: skip


def _together(repeats: list[pools.Repeat], seconds: float) -> float:
    """Calls per second of so many threads."""
    barrier = threading.Barrier(len(repeats) + 1)
    stop = False
    counts = [0] * len(repeats)

    def loop(me: int) -> None:
        repeat = repeats[me]
        repeat(2)
        barrier.wait()
        while not stop:
            repeat(10)
            counts[me] += 10

    threads = [threading.Thread(target=loop, args=(me,)) for me in range(len(repeats))]
    for thread in threads:
        thread.start()
    barrier.wait()
    start, before = time.perf_counter(), sum(counts)
    time.sleep(seconds)
    took, done = time.perf_counter() - start, sum(counts) - before
    stop = True
    for thread in threads:
        thread.join()
    return done / took
