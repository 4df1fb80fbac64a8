"""4b. Fairness: 32 threads on 4 connections. Is everyone served, and equally often?"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from bench.lib import pools, proxy, servers
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table

TITLE = "Fairness: 32 threads on 4 connections"
SECONDS = 42

THREADS, CONNECTIONS = 32, 4
REPLY = 0.001
LENGTH = 4.0


def run(context: Context) -> Part:
    names = [pools.OURS, pools.BLOCKING, pools.PSYCOPG]
    ratio = Table(
        key="ratio", title="Turns of the luckiest thread for one of the unluckiest", unit="×", reference=pools.PSYCOPG,
        log=True,
    )  # fmt: skip
    least = Table(key="least", title="Turns of the unluckiest thread", unit="turns", better="higher", chart="")
    total = Table(key="total", title="Turns of all threads per second", unit="1/s", better="higher", chart="")
    rounds = context.rounds(3)
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        with server.observer() as client:
            client.set("bench", "value")
        with proxy.running(server.path, [REPLY]) as slow:
            port = slow.ports[REPLY]
            context.steps(rounds * len(names), TITLE)
            for _, name in turns(names, rounds):
                turn, end = _turn(name, port)
                counts = _count(turn, context.seconds(LENGTH))
                end()
                ratio.add(name, max(counts) / max(1, min(counts)))
                least.add(name, min(counts))
                total.add(name, sum(counts) / context.seconds(LENGTH))
                context.step()
    return Part(
        key="fairness",
        title=TITLE,
        text=f"Each thread repeats GET, whose reply takes {REPLY * 1e3:.0f} ms, for {LENGTH:.0f} s "
        "(with psycopg_pool, it holds a connection for the same time).",
        tables=[ratio, least, total],
        goals=[Goal(what="most turns over fewest", table="ratio", variant=pools.OURS, at_most=1.05)],
    )


def _turn(name: str, port: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """What a thread repeats, and how to end it."""
    if name == pools.PSYCOPG:
        pool = pools.psycopg(CONNECTIONS, CONNECTIONS)

        def hold() -> None:
            connection = pool.getconn()
            time.sleep(REPLY)
            pool.putconn(connection)

        return hold, pool.close
    made: Any = (
        pools.ours(port, max_connections=CONNECTIONS) if name == pools.OURS else pools.blocking(port, CONNECTIONS)
    )
    client = redis.Redis(connection_pool=made)
    return lambda: client.get("bench"), made.disconnect


def _count(turn: Callable[[], Any], seconds: float) -> list[int]:
    """How often each thread had its turn."""
    turns_had = [0] * THREADS
    barrier = threading.Barrier(THREADS + 1)
    stop = False

    def loop(me: int) -> None:
        turn()
        barrier.wait()
        while not stop:
            turn()
            turns_had[me] += 1

    threads = [threading.Thread(target=loop, args=(me,)) for me in range(THREADS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    time.sleep(seconds)
    found = list(turns_had)
    stop = True
    for thread in threads:
        thread.join()
    return found
