"""5. Skew: eight workers share 32 connections, one of them is hot.

The peers: *static division*, the usual way without a common budget: each worker has redis-py's blocking pool
of 32/8. And the *impossible ideal*: all callers in one process on one pool of 32, which
no pre-fork service has. Ours shares the same 32, including its supervisor's own connection.

The server's ``maxclients`` is the budget and one observer, so that it would refuse a connection too many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import redis

from bench.lib import crowd, pools, proxy, servers
from bench.lib.crowd import Role
from bench.lib.measure import PERCENTILES, percentile, turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import RedisServer, wait_for

TITLE = "Skew: 8 workers, budget 32, one hot"
SECONDS = 115

WORKERS, BUDGET = 8, 32
LATENCIES = (0.001, 0.005, 0.020)
TELLING = 0.005
"""The latency of the goals: short enough that the processor matters, long enough that connections matter."""
STATIC = "static division, 4 each"
IDEAL = "ideal: one process, one pool"
HOT = Role("hot", threads=32)
COLD = Role("cold", threads=1, pause=0.005)
"""The other workers have one caller each, in light but steady use of one connection."""
RARE = Role("cold", threads=1, pause=0.2)
"""The other workers need a connection five times a second."""


def run(context: Context) -> Part:
    names = [pools.OURS, STATIC, IDEAL]
    steady, rare = _tables("", names), _tables("rare-", names)
    tally = _Tally()
    with servers.server(context.directory, maxclients=BUDGET + 1) as server:
        with server.observer() as client:
            client.set("bench", "value")
        with proxy.running(server.path, LATENCIES) as slow:
            runs = [(steady, COLD, latency) for latency in LATENCIES] + [(rare, RARE, 0.005)]
            rounds = [context.rounds(3 if latency == TELLING else 2) for _, _, latency in runs]
            context.steps(sum(rounds) * len(names), TITLE)
            for (tables, others, latency), number in zip(runs, rounds, strict=True):
                for _, name in turns(names, number):
                    before = slow.cpu()
                    seconds = context.seconds(2.0)
                    found = _one(context, name, server, slow.ports[latency], latency, others, seconds)
                    tally.proxy = max(tally.proxy, (slow.cpu() - before) / (seconds + 1.0 + 50 * latency))
                    tally.errors(name, found)
                    _enter(tables, name, f"{latency * 1e3:g}", found)
                    context.step(f"{name}, {latency * 1e3:g} ms")
        tally.refused = server.rejected()
    return Part(
        key="skew",
        title=TITLE,
        text=f"The hot worker has {HOT.threads} callers in a closed loop. Each of the others has one that rests for "
        f"{COLD.pause * 1e3:.0f} ms after each command (in rare use: {RARE.pause * 1e3:.0f} ms). "
        "Seven permits for the others and one for the supervisor leave 24 to the hot worker, six times what static "
        "division leaves it.",
        tables=[*steady.values(), *rare.values()],
        goals=[
            Goal(
                what="throughput of the hot worker against static division, 5 ms",
                table="rate", variant=pools.OURS, place="5", against=STATIC, at_least=5.5,
            ),
            Goal(what="p99 of the hot worker, 5 ms", table="p99", variant=pools.OURS, place="5", at_most=12),
        ],
        facts={
            "connections that the server had to refuse, all rounds": str(tally.refused),
            "errors": ", ".join(f"{what} {count}" for what, count in tally.failed.items()) or "none",
            "the proxy was busy for at most": f"{tally.proxy:.0%} of one processor",
        },
    )  # fmt: skip


class _Tally:
    def __init__(self) -> None:
        self.refused = 0
        self.proxy = 0.0
        self.failed: dict[str, int] = {}

    def errors(self, name: str, found: Sequence[crowd.Outcome]) -> None:
        for outcome in found:
            for what, count in outcome.errors.items():
                self.failed[f"{name}: {what}"] = self.failed.get(f"{name}: {what}", 0) + count


def _tables(prefix: str, names: Sequence[str]) -> dict[str, Table]:
    """The hot worker's rate and latencies, and the others' latency."""
    tail = ", the others in rare use" if prefix else ""
    rate = Table(
        key=f"{prefix}rate", title=f"The hot worker's GETs per second{tail}", unit="1/s", better="higher",
        reference=STATIC, axis="ms per reply",
    )  # fmt: skip
    waits = {
        which: Table(
            key=prefix + which.replace(".", ""), title=f"The hot worker's latency, {which}{tail}", unit="ms",
            reference=STATIC, axis="ms per reply", log=True, chart="bars" if which == "p99" and not prefix else "",
        )
        for which in PERCENTILES
    }  # fmt: skip
    cold = Table(
        key=f"{prefix}cold", title=f"The other workers' latency, p99{tail}", unit="ms", reference=STATIC,
        axis="ms per reply", log=True, chart="bars",
    )  # fmt: skip
    if prefix:
        return {"rate": rate, "p99": waits["p99"], "cold": cold}
    return {"rate": rate, **waits, "cold": cold}


def _enter(tables: dict[str, Table], name: str, place: str, found: Sequence[crowd.Outcome]) -> None:
    hot, cold = crowd.merged(found, "hot"), crowd.merged(found, "cold")
    tables["rate"].add(name, hot.done / hot.seconds, place)
    for which, part in PERCENTILES.items():
        if which in tables:
            tables[which].add(name, percentile(hot.latencies, part) * 1e3, place)
    tables["cold"].add(name, percentile(cold.latencies, 0.99) * 1e3, place)


def _one(
    context: Context, name: str, server: RedisServer, port: int, latency: float, other: Role, seconds: float
) -> list[crowd.Outcome]:
    warm = 1.0 + 50 * latency  # a new connection takes some round trips
    wait_for(lambda: not server.clients(), 10, what="the last contestant's connections are closed")
    if name == IDEAL:
        together = [[HOT, Role(other.name, threads=WORKERS - 1, pause=other.pause)]]
        return crowd.run(together, _client(lambda: pools.blocking(port, BUDGET)), warm=warm, seconds=seconds)
    roles = [[HOT], *([other] for _ in range(WORKERS - 1))]
    if name == STATIC:
        share = BUDGET // WORKERS
        return crowd.run(roles, _client(lambda: pools.blocking(port, share)), warm=warm, seconds=seconds)
    with servers.supervisor(context.directory / "s", REDIS_CONNECTION_BUDGET=str(BUDGET)):
        return crowd.run(roles, _client(lambda: pools.ours(port)), warm=warm, seconds=seconds)


def _client(pool: Callable[[], redis.ConnectionPool]) -> Callable[[], crowd.Action]:
    def make() -> crowd.Action:
        client = redis.Redis(connection_pool=pool())
        return lambda: client.get("bench")

    return make
