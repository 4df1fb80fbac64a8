"""9. A server with many clients: what it spends on us while all is quiet, and a kill among them.

Ten thousand clients, half of them ours. A ``CLIENT LIST`` then takes the server some ten milliseconds. So the
supervisor asks for a list only to prove something, and lists take at most a hundredth of the server's time in the long
run. Two questions:

- *quiet*: the time that the server spent on commands by its own counters (``INFO commandstats``), over wall time, while
  only the supervisor sends commands. The time is long enough to hold the audit's list;
- *kill*: the bench kills a process that holds a fifth of the budget. It measures from the signal until a caller that
  waits in another process has a connection. Then it kills the next process at once, and measures until all of that
  one's permits are free: the last list may not be paid for by then.
"""

from __future__ import annotations

import multiprocessing
import resource
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import Any

from bench.lib import pools, servers
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import RedisServer, wait_for

TITLE = "A server with many clients"
SECONDS = 130

CLIENTS = 10_000
WORKERS = 5
QUIET = 65.0
"""Seconds: longer than the audit's pace."""

OURS = "poolmgr"
FIRST = "poolmgr: after SIGKILL of a holder"
NEXT = "poolmgr: all of the next one's, killed at once"

Started = tuple[Any, Connection]
"""A process, and the pipe to it."""


def run(context: Context) -> Part:
    count = CLIENTS // 10 if context.quick else CLIENTS
    each = count // 2 // WORKERS
    _raise_limit(count)
    quiet = Table(key="quiet", title="What the server spends on us while quiet", unit="%", chart="")
    kill = Table(key="kill", title="A permit is usable again after SIGKILL", unit="ms", chart="")
    rounds = context.rounds(3)
    context.steps(2 + rounds, TITLE)
    others = multiprocessing.get_context("fork")
    facts: dict[str, str] = {"clients": f"{count:,}, {count // 2:,} of them ours in {WORKERS} processes"}
    with (
        servers.server(context.directory, maxclients=count + 200) as server,
        servers.supervisor(context.directory / "s", REDIS_CONNECTION_BUDGET=str(count // 2 + 1)),
    ):
        crowd = _started(others, _crowd, server.port, count - count // 2)
        workers = [_started(others, _worker, server.port, each) for _ in range(WORKERS)]
        try:
            for _, near in [crowd, *workers]:
                _receive(near)
            context.step("all are there")
            facts["connected"] = f"{int(server.info('clients')['connected_clients']):,}"
            _quiet(context, server, quiet, facts)
            context.step("quiet")
            for _ in range(rounds):
                _kill(context, server.port, kill, workers, lambda: _started(others, _worker, server.port, each))
        finally:
            for process, _ in [crowd, *workers]:
                process.kill()
                process.join()
    return Part(
        key="crowded",
        title=TITLE,
        text="Half of the clients are ours. Quiet: what the server has spent on commands, by its own counters, over "
        "wall time; only the supervisor sends any. Kill: the time from the signal until a caller in another process "
        "has a connection; for the next process, killed at once, the time until all of its permits are free.",
        tables=[quiet, kill],
        goals=[
            Goal(what="a quiet server's time for us, 10,000 clients", table="quiet", variant=OURS, at_most=1),
            Goal(what="permits usable after a kill, 10,000 clients", table="kill", variant=FIRST, at_most=2000),
            Goal(what="those of the next one killed at once", table="kill", variant=NEXT, at_most=5000),
        ],
        facts=facts,
    )  # fmt: skip


def _raise_limit(count: int) -> None:
    """The server and one process of the crowd have a descriptor for each client."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 1000
    if soft < wanted:
        if hard < wanted:
            hard = wanted  # root may
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# ---- who is there ------------------------------------------------------------------------------------------


def _started(others: BaseContext, target: Any, port: int, count: int) -> Started:
    near, far = others.Pipe()
    process = others.Process(target=target, args=(far, port, count), daemon=True)  # type: ignore[attr-defined]
    process.start()
    return process, near


def _crowd(pipe: Connection, port: int, count: int) -> None:
    """Clients that have nothing to do with us, and nothing to say after one command."""
    held = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", port))
        sock.sendall(b"GET nothing\r\n")
        sock.recv(100)
        held.append(sock)
    pipe.send(len(held))
    pipe.recv()


def _worker(pipe: Connection, port: int, count: int) -> None:
    """A process of ours that uses so many connections."""
    pool = pools.ours(port, timeout=30)
    held = [pool.get_connection() for _ in range(count)]
    pipe.send(len(held))
    pipe.recv()


# ---- what is measured --------------------------------------------------------------------------------------


def _spent(server: RedisServer) -> tuple[float, int]:
    """Seconds that the server has spent on commands so far, and how many lists there were."""
    stats = server.info("commandstats")
    lists = stats.get("cmdstat_client|list", {"calls": 0})["calls"]
    return sum(entry["usec"] for entry in stats.values()) / 1e6, lists


def _quiet(context: Context, server: RedisServer, table: Table, facts: dict[str, str]) -> None:
    time.sleep(2.0)  # what growing has led to is over
    (before, lists), began = _spent(server), time.perf_counter()
    time.sleep(context.seconds(QUIET))
    (after, made), took = _spent(server), time.perf_counter() - began
    table.add(OURS, (after - before) / took * 100)
    facts["lists while quiet"] = f"{made - lists} in {took:.0f} s"


def _kill(context: Context, port: int, table: Table, workers: list[Started], new: Callable[[], Started]) -> None:
    """Kill one process while a caller waits, and the next one as soon as that caller has its connection: the last list
    is not paid for then. Two others take their places."""
    pool = pools.ours(port, timeout=60)
    first, second = workers.pop(0), workers.pop(0)
    held: list[Any] = []
    waiter = threading.Thread(target=lambda: held.append(pool.get_connection()), daemon=True)
    waiter.start()
    wait_for(lambda: pool.stats().waiting == 1, 10, what="a caller waits")
    time.sleep(2.0)  # pays for the lists made before
    began = time.perf_counter()
    first[0].kill()
    waiter.join(60)
    table.add(FIRST, (time.perf_counter() - began) * 1e3)
    began = time.perf_counter()
    second[0].kill()
    second[0].join()
    observer = servers.Observer()
    wait_for(lambda: not observer.status().servers[0].quarantine, 60, what="all is free")
    table.add(NEXT, (time.perf_counter() - began) * 1e3)
    observer.close()
    first[0].join()
    for connection in held:
        pool.release(connection)
    pool.disconnect()
    for _ in range(2):
        workers.append(new())
        _receive(workers[-1][1])
    context.step("kill")


def _receive(pipe: Connection) -> Any:
    if not pipe.poll(120):
        raise RuntimeError("the other process does not answer")
    return pipe.recv()
