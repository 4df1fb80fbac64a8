"""10. How long the supervisor keeps a client waiting while it reads the lists of a server with many clients.

Ten thousand clients, half of them ours. Lists are made a few times a second (:mod:`bench.apps.lists`), which is a
hundred times as often as otherwise, and a process of ours is killed every second, so that its connections are proven
gone. Meanwhile a client asks the supervisor every millisecond whether it is there (``Ping``), whether or not it has
answered; the time to each answer is what a member's report, and what a permit, waits for the event loop at most.

The peer is the same with an empty server: what the machine and the interpreter take. Each round measures both. Where
the kernel allows it the supervisor and the one that asks run before all others (``SCHED_RR``): what is measured is the
event loop, not the wait for a processor that the server, or a neighbour on the machine, has.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.lib import pools, servers
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from bench.parts.crowded import _crowd, _raise_limit, _receive, _started, _worker
from poolmgr import launch, settings, wire
from tests.helpers import ROOT, wait_for

TITLE = "The supervisor's event loop, while it reads lists"
SECONDS = 90

CLIENTS = 10_000
WORKERS = 5
DURATION = 10.0
EVERY = 0.001
"""Seconds between two questions."""

KILLED = 20
"""Connections of each process that is killed."""

MANY = "10,000 clients"
EMPTY = "no clients"


def run(context: Context) -> Part:
    count = CLIENTS // 10 if context.quick else CLIENTS
    _raise_limit(count)
    table = Table(key="lag", title="From a question to its answer", unit="ms", reference=EMPTY, axis="of the answers")
    rounds = context.rounds(3)
    context.steps(2 * rounds, TITLE)
    lists: dict[str, list[int]] = {MANY: [], EMPTY: []}
    load = []
    for number in range(rounds):
        for variant in (MANY, EMPTY) if number % 2 else (EMPTY, MANY):
            directory = context.directory / f"{number}{variant[0]}"
            times, made = _measure(context, directory, count if variant == MANY else 0)
            for what, place in (("p50", 0.5), ("p99", 0.99), ("worst", 1.0)):
                table.add(variant, times[min(len(times) - 1, int(place * len(times)))] * 1e3, what)
            lists[variant].append(made)
            load.append(os.getloadavg()[0])
            context.step(variant)
    return Part(
        key="lag",
        title=TITLE,
        text="A client asks the supervisor every millisecond whether it is there, while lists are made four times a "
        "second and a process of ours is killed every second. Half of the clients are ours.",
        tables=[table],
        goals=[
            Goal(what="the loop's lag, 99 of 100", table="lag", variant=MANY, place="p99", at_most=5),
            Goal(what="the loop's lag, at worst", table="lag", variant=MANY, place="worst", at_most=12),
        ],
        facts={
            "clients": f"{count:,}, {count // 2:,} of them ours in {WORKERS} processes",
            "lists": f"{min(lists[MANY])} to {max(lists[MANY])} in {context.seconds(DURATION):.0f} s; "
            f"of an empty server {min(lists[EMPTY])} to {max(lists[EMPTY])}",
            "processor": "the supervisor's first" if os.geteuid() == 0 else "shared by all",
            "load": f"{min(load):.1f} to {max(load):.1f}",
        },
    )  # fmt: skip


def _measure(context: Context, directory: Path, count: int) -> tuple[list[float], int]:
    """The times, sorted, with so many clients at the server; and how many lists there were."""
    directory.mkdir()
    others = multiprocessing.get_context("fork")
    budget = count // 2 + 2 * KILLED + 10
    with (
        servers.server(directory, maxclients=count + 200) as server,
        servers.supervisor(directory / "s", REDIS_CONNECTION_BUDGET=str(budget)) as path,
        _supervisor(path),
    ):
        started = [_started(others, _worker, server.port, count // 2 // WORKERS or 1) for _ in range(WORKERS)]
        if count:
            started.append(_started(others, _crowd, server.port, count - count // 2))
        near, far = others.Pipe()
        killer = others.Process(target=_kills, args=(far, server.port))
        try:
            for _, pipe in started:
                _receive(pipe)
            killer.start()
            _receive(near)
            before = _lists(server)
            _goes_first(0, 2)
            times = _ask(context.seconds(DURATION))
            _goes_first(0, 0)
            made = _lists(server) - before
            near.send("stop")
            _receive(near)
        finally:
            for process in (*(process for process, _ in started), killer):
                process.kill()
                process.join()
    return times, made


@contextmanager
def _supervisor(path: Path) -> Iterator[None]:
    """The one that makes lists all the time."""
    process = subprocess.Popen([sys.executable, "-m", "bench.apps.lists", "--socket", str(path)], cwd=ROOT)
    _goes_first(process.pid, 1)
    try:
        wait_for(lambda: servers.supervisor_pid(path) == process.pid, 30, what="the supervisor has its lock")
        yield
    finally:
        servers.end_supervisor(path)
        process.wait()


def _goes_first(pid: int, priority: int) -> None:
    """Before all that have no priority; 0: as everybody else. Its threads and children take it over."""
    with suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR if priority else os.SCHED_OTHER, os.sched_param(priority))


def _lists(server: Any) -> int:
    return int(server.info("commandstats").get("cmdstat_client|list", {"calls": 0})["calls"])


def _kills(pipe: Connection, port: int) -> None:
    """A process that has a few connections is killed, and another one takes its place, every second."""
    first = True
    while not pipe.poll():
        near, far = os.pipe()
        pid = os.fork()
        if pid == 0:
            pool = pools.ours(port, timeout=30)
            held = [pool.get_connection() for _ in range(KILLED)]
            os.write(far, b"%d" % len(held))
            signal.pause()
        os.close(far)
        os.read(near, 10)
        os.close(near)
        if first:
            pipe.send("begun")
            first = False
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        time.sleep(0.5)
    pipe.send("stopped")


def _ask(seconds: float) -> list[float]:
    """From each question to its answer. What comes late delays no later question, so that none is left out."""
    clock = time.perf_counter
    sent: dict[int, float] = {}
    times: list[float] = []
    decoder = wire.Decoder(wire.FromSupervisor)
    with launch.connect(settings.load(), start=False) as sock:
        sock.setblocking(False)
        end = (due := clock()) + seconds
        number = 0
        while (now := clock()) < end or sent:
            if now > end + 30:
                raise RuntimeError(f"{len(sent)} questions have no answer")
            if due <= now < end:
                number += 1
                due = max(due + EVERY, now)
                question = wire.encode(wire.Ping(number))
                sent[number] = clock()
                sock.sendall(question)
            if select.select([sock], [], [], max(0.0, due - clock()) if now < end else 1.0)[0]:
                data = sock.recv(1 << 16)
                now = clock()
                if not data:
                    raise RuntimeError("the supervisor has ended")
                for message in decoder.feed(data):
                    if isinstance(message, wire.Pong):
                        times.append(now - sent.pop(message.nonce))
    return sorted(times)
