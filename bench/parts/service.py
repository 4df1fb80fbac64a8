"""6. Through gunicorn: the same application with our pools and with static ones of redis-py.

Both services run all the time; the bench loads one while the other is idle. Ours runs as its users run it,
``gunicorn -c deploy/conf.py``, and the peer with the same worker class, threads and settings. Neither writes an access
log. With even load the budget cannot help, so the difference is its cost. Two more contestants tell that cost from
noise:

- the *peer again*, a second service set up like the first: how far two equal services are apart;
- *ours with the supervisor stopped* (SIGSTOP) while it is measured: the same workers and the same pools, without a
  supervisor that could use the processor beside them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Literal

from bench.lib import http, proxy, servers
from bench.lib.layout import spread
from bench.lib.measure import percentile, turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import ROOT
from tests.service import Service

TITLE = "Through gunicorn"
SECONDS = 110

OURS = "poolmgr"
STATIC = "static pools of redis-py"
AGAIN = "static pools of redis-py, again"
STOPPED = "poolmgr, supervisor stopped"

APPS = ROOT / "tests" / "bench" / "apps"
EVEN = {"workers": 2, "threads": 4}
SKEWED = {"workers": 8, "threads": 32}
BUDGET = 32
HOT = 32
"""Callers of the hot worker."""
LATENCY = 0.020
"""Seconds of latency of a reply under skewed load. A worker of gunicorn does some 1,500 requests a second; 24
connections at 20 ms serve 1,200, so that connections are short and not the processor."""


def run(context: Context) -> Part:
    tables = {
        table.key: table
        for table in (
            _rate("even", "Even load, 2 workers: requests per second"),
            _latency("even-p99", "Even load: latency, p99"),
            _rate("skewed", "Skewed load, 8 workers: requests per second of the hot one"),
            _latency("skewed-p50", "Skewed load: the hot worker's latency, p50"),
            _latency("skewed-p99", "Skewed load: the hot worker's latency, p99", "bars"),
            _latency("skewed-cold", "Skewed load: the other workers' latency, p99"),
        )
    }
    facts: dict[str, str] = {}
    context.steps(context.rounds(6) * 4 + context.rounds(4) * 2, TITLE)
    with servers.server(context.directory) as server:
        with server.observer() as client:
            client.set("bench", "value")
        _even(context, tables, facts, server.url)
        with proxy.running(server.path, [LATENCY]) as slow:
            _skewed(context, tables, f"redis://127.0.0.1:{slow.ports[LATENCY]}")
    return Part(
        key="service",
        title=TITLE,
        text=f"Each request is one GET. Even load: {EVEN['workers']} workers with {EVEN['threads']} threads each, a "
        "closed loop for each thread, a server that answers at once. Skewed load: "
        f"{SKEWED['workers']} workers share {BUDGET} connections to a server that takes {LATENCY * 1e3:.0f} ms; one "
        f"worker has {HOT} callers, each of the others has one. The load generator runs on the same machine.",
        tables=list(tables.values()),
        goals=[
            Goal(what="even load, against static pools", table="even", variant=OURS, against=STATIC, at_least=0.95),
            Goal(
                what="even load, against itself with the supervisor stopped",
                table="even", variant=OURS, against=STOPPED, at_least=0.95,
            ),
            Goal(what="skewed load, against static pools", table="skewed", variant=OURS, against=STATIC, at_least=4),
        ],
        facts=facts,
    )  # fmt: skip


def _rate(key: str, title: str) -> Table:
    return Table(key=key, title=title, unit="1/s", better="higher", reference=STATIC)


def _latency(key: str, title: str, chart: Literal["bars", ""] = "") -> Table:
    return Table(key=key, title=title, unit="ms", reference=STATIC, chart=chart, log=True)


def _even(context: Context, tables: dict[str, Table], facts: dict[str, str], url: str) -> None:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_ours(context, "a", url, EVEN))
        peer = stack.enter_context(_static(context, "b", url, EVEN))
        again = stack.enter_context(_static(context, "c", url, EVEN))
        supervisor = servers.supervisor_pid(context.directory / "a" / "s")
        each = EVEN["threads"]
        connections = {}
        for name, service in ((OURS, ours), (STATIC, peer), (AGAIN, again)):
            connections[name] = http.connect(
                service.port, lambda pid, had: had[pid] < each, each * EVEN["workers"]
            )  # fmt: skip
        connections[STOPPED] = connections[OURS]
        used = 0.0
        for _, name in turns([OURS, STATIC, AGAIN, STOPPED], context.rounds(6)):
            before = servers.usage(supervisor).cpu
            stop = supervisor if name == STOPPED else 0
            answers = http.merged(_measure(connections, name, context.seconds(2.0), stop))
            if name == OURS:
                used += servers.usage(supervisor).cpu - before
            tables["even"].add(name, answers.rate(context.seconds(2.0)))
            tables["even-p99"].add(name, percentile(answers.latencies, 0.99) * 1e3)
            context.step(f"even load, {name}")
        apart = tables["even"].ratio(AGAIN)
        if apart is not None:
            facts["two equal services under even load"] = f"{spread(apart, '×')} of each other: that is the noise"
        share = used / (context.seconds(2.0) * context.rounds(6))
        facts["processor time of the supervisor under even load"] = f"{share:.2%} of one processor"
        _close(connections)


def _measure(connections: dict[str, list[socket.socket]], name: str, seconds: float, stop: int) -> list[http.Answers]:
    http.load(connections[name], 0.3)
    if stop:
        os.kill(stop, signal.SIGSTOP)
    try:
        return http.load(connections[name], seconds)
    finally:
        if stop:
            os.kill(stop, signal.SIGCONT)


def _skewed(context: Context, tables: dict[str, Table], url: str) -> None:
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(_ours(context, "d", url, SKEWED))
        peer = stack.enter_context(_static(context, "e", url, SKEWED))
        connections = {name: _skewed_connections(service.port) for name, service in ((OURS, ours), (STATIC, peer))}
        for warm in connections.values():
            http.load(warm, 2.0)
        for _, name in turns([OURS, STATIC], context.rounds(4)):
            by_connection = _measure(connections, name, context.seconds(3.0), 0)
            hot, cold = http.merged(by_connection[:HOT]), http.merged(by_connection[HOT:])
            tables["skewed"].add(name, hot.rate(context.seconds(3.0)))
            tables["skewed-p50"].add(name, percentile(hot.latencies, 0.5) * 1e3)
            tables["skewed-p99"].add(name, percentile(hot.latencies, 0.99) * 1e3)
            tables["skewed-cold"].add(name, percentile(cold.latencies, 0.99) * 1e3)
            context.step(f"skewed load, {name}")
        _close(connections)


def _skewed_connections(port: int) -> list[socket.socket]:
    """The first worker that answers is the hot one; its connections come first."""
    hot = 0

    def wanted(pid: int, had: Counter[int]) -> bool:
        nonlocal hot
        hot = hot or pid
        return had[pid] < (HOT if pid == hot else 1)

    return http.connect(port, wanted, HOT + SKEWED["workers"] - 1)


def _close(connections: dict[str, list[socket.socket]]) -> None:
    for one in connections.values():
        for sock in one:
            sock.close()


@contextlib.contextmanager
def _ours(context: Context, name: str, url: str, size: dict[str, int]) -> Iterator[Service]:
    directory = context.directory / name
    directory.mkdir(mode=0o700)
    service = Service(
        directory, conf=str(APPS / "ours.py"), app="bench.apps.get:app", redis_url=url,
        workers=size["workers"], threads=size["threads"],
        environ={
            "BENCH_POOL": "poolmgr", "REDIS_CONNECTION_BUDGET": str(BUDGET), "REDIS_POOL_TIMEOUT": "60",
            "POOLMGR_LOG_LEVEL": "warning",
        },
        arguments=("--keep-alive", "60"), cwd=ROOT,
    )  # fmt: skip
    try:
        yield service.start(path="/")
    finally:
        service.clean_up()


@contextlib.contextmanager
def _static(context: Context, name: str, url: str, size: dict[str, int]) -> Iterator[Service]:
    directory = context.directory / name
    directory.mkdir(mode=0o700)
    service = Service(
        directory, conf=str(APPS / "plain.py"), redis_url=url, workers=size["workers"],
        threads=size["threads"], environ={"BENCH_POOL": str(BUDGET // size["workers"])},
        arguments=("--keep-alive", "60"), cwd=ROOT,
    )  # fmt: skip
    try:
        yield service.start(path="/")
    finally:
        service.clean_up()
