"""4a. A burst: fifty threads at once where five connections are warm and a connect is slow.

The scenario is the one by which HikariCP's authors explain pool sizing ("spike demand"): a connect takes
150 ms, a query 2 ms. A pool that opens a connection for every caller makes most of them wait for 150 ms, and
leaves the server with fifty connections; the five warm ones would have been enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import redis

from bench.lib import pools, servers
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table

TITLE = "A burst of fifty threads"
SECONDS = 20

CALLERS, WARM = 50, 5
CONNECT, QUERY = 0.150, 0.002


class Slow(redis.Connection):
    """redis-py's connection; its handshake takes as long as ``connect_time`` says."""

    connect_time = 0.0
    made = 0

    def on_connect_check_health(self, check_health: bool = True) -> None:
        Slow.made += 1
        time.sleep(Slow.connect_time)
        super().on_connect_check_health(check_health)


def run(context: Context) -> Part:
    least = CALLERS / WARM * QUERY
    times = Table(key="time", title="Until all fifty are served", unit="ms", reference=pools.PSYCOPG)
    made = Table(key="connections", title="Connections afterwards", unit="connections", reference=pools.PSYCOPG)
    names = [pools.OURS, pools.REDIS, pools.BLOCKING, pools.PSYCOPG]
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        context.steps(len(names) * context.rounds(7), TITLE)
        for _, name in turns(names, context.rounds(7)):
            seconds, connections = _one(name, server.port)
            times.add(name, seconds * 1e3)
            made.add(name, connections)
            context.step()
    return Part(
        key="burst",
        title=TITLE,
        text=f"{CALLERS} threads ask at once, {WARM} connections are warm, a connect takes {CONNECT * 1e3:.0f} ms "
        f"and each thread holds its connection for {QUERY * 1e3:.0f} ms. With {WARM} connections the least possible "
        f"is {least * 1e3:.0f} ms. Every pool may have {CALLERS}.",
        tables=[times, made],
        goals=[
            Goal(what="time until all are served", table="time", variant=pools.OURS, at_most=25),
            Goal(what="connections opened for it", table="connections", variant=pools.OURS, at_most=6),
        ],
    )


def _one(name: str, port: int) -> tuple[float, int]:
    # From the beginning, since a pool may learn from the first connections how long a connect takes.
    Slow.connect_time = pools.NoDatabase.connect_time = CONNECT
    Slow.made = pools.NoDatabase.made = 0
    kind: dict[str, Any] = {"connection_class": Slow}
    if name == pools.PSYCOPG:
        pool = pools.psycopg(WARM, CALLERS)
        take, give = pool.getconn, pool.putconn
    else:
        if name == pools.OURS:
            pool = pools.ours(port, max_connections=CALLERS, **kind)
        elif name == pools.REDIS:
            pool = redis.ConnectionPool(host="127.0.0.1", port=port, max_connections=CALLERS, **kind)
        else:
            pool = pools.blocking(port, CALLERS, **kind)
        take, give = pool.get_connection, pool.release
        warm = _held(take, WARM)
        for connection in warm:
            give(connection)
    try:
        seconds = _burst(take, give)
    finally:
        made = pools.NoDatabase.made if name == pools.PSYCOPG else Slow.made
        pool.close() if name == pools.PSYCOPG else pool.disconnect()
    return seconds, made


def _held(take: Callable[[], Any], count: int) -> list[Any]:
    """So many connections, taken at once and kept."""
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(take())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def _burst(take: Callable[[], Any], give: Callable[[Any], None]) -> float:
    barrier = threading.Barrier(CALLERS + 1)

    def caller() -> None:
        barrier.wait()
        connection = take()
        time.sleep(QUERY)
        give(connection)

    threads = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    barrier.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
