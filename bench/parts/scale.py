"""8. The supervisor with many members: how much does one more cost?

Members are real processes that do nothing; one player reports for all of them (see :mod:`bench.lib.members`). A
*demand* is a report that a member's demand has changed. Most demands are within the member's limit and need no answer.
A demand past the limit needs a grant. The budget is two permits for each member, so most grants need a permit to be
recalled from another member: five messages in all.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from pathlib import Path

from bench.lib import servers
from bench.lib.measure import percentile
from bench.lib.members import Troupe
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from poolmgr import launch, settings, wire

TITLE = "The supervisor with many members"
SECONDS = 100

MEMBERS = (10, 50, 200, 1000, 2000)
OURS = "supervisor"
RATE = 200.0
OUTSTANDING = 256


def run(context: Context) -> Part:
    def table(key: str, title: str, unit: str, *, higher: bool = False, chart: bool = True) -> Table:
        return Table(
            key=key, title=title, unit=unit, better="higher" if higher else "lower", axis="members",
            chart="lines" if chart else "",
        )  # fmt: skip

    tables = {
        "demands": table("demands", "Changes of demand that it takes in per second", "1/s", higher=True),
        "rate": table("rate", f"Grants past the limit, {OUTSTANDING} at a time", "1/s", higher=True),
        "cost": table("cost", "Processor time for each of these grants", "µs"),
        "p50": table("p50", f"A grant's latency at {RATE:.0f} grants/s, p50", "ms", chart=False),
        "p99": table("p99", f"A grant's latency at {RATE:.0f} grants/s, p99", "ms"),
        "idle": table("idle", "Processor time while all members are idle", "%", chart=False),
        "memory": table("memory", "Resident memory", "MiB"),
    }
    counts = [10, 100] if context.quick else list(MEMBERS)
    context.steps(len(counts) * 4, TITLE)
    with servers.server(context.directory, maxclients=9000) as server:
        endpoint = wire.Endpoint(key=f"unix://{server.path}", path=server.path)
        for count in counts:
            path = context.directory / str(count)
            with servers.supervisor(path, REDIS_CONNECTION_BUDGET=str(2 * count)):
                _with(context, count, path, endpoint, tables)
    return Part(
        key="scale",
        title=TITLE,
        text="Members are real processes that hold a link and nothing else. Most changes of demand are within a "
        "member's limit and need no answer. A demand past the limit needs a grant, and here most need a permit to be "
        "recalled from another member: five messages in all. The player that speaks for all members runs beside it.",
        tables=list(tables.values()),
        goals=[
            Goal(
                what="demands per second, 1,000 members", table="demands", variant=OURS, place="1000", at_least=20_000
            ),
            Goal(what="idle, 1,000 members", table="idle", variant=OURS, place="1000", at_most=0.5),
            Goal(what="memory, 1,000 members", table="memory", variant=OURS, place="1000", at_most=60),
        ],
        facts={"how cost grows": _growth(tables["cost"])},
    )


def _with(context: Context, count: int, path: Path, endpoint: wire.Endpoint, tables: dict[str, Table]) -> None:
    launch.connect(settings.load()).close()
    pid = servers.supervisor_pid(path)
    rng = random.Random(count)
    with Troupe(str(path), endpoint, count) as troupe:
        try:
            troupe.settle(1.0)
            context.step(f"{count} members, idle")
            for _ in range(context.rounds(3)):
                seconds = context.seconds(1.0)
                before = servers.usage(pid).cpu
                time.sleep(seconds)
                tables["idle"].add(OURS, (servers.usage(pid).cpu - before) / seconds * 100, count)
            context.step(f"{count} members, {RATE:.0f} demands per second")
            for _ in range(context.rounds(3)):
                troupe.waits.clear()
                troupe.trickle(context.seconds(1.0), RATE, rng)
                waits = sorted(troupe.waits)
                tables["p50"].add(OURS, percentile(waits, 0.5) * 1e3, count)
                tables["p99"].add(OURS, percentile(waits, 0.99) * 1e3, count)
            troupe.rest()
            context.step(f"{count} members, as many demands as they can")
            for _ in range(context.rounds(3)):
                before, start = servers.usage(pid).cpu, time.perf_counter()
                done = troupe.saturate(context.seconds(1.0), min(OUTSTANDING, count // 2), rng)
                took = time.perf_counter() - start
                tables["rate"].add(OURS, done / took, count)
                tables["cost"].add(OURS, (servers.usage(pid).cpu - before) / max(1, done) * 1e6, count)
                troupe.rest()
            for _ in range(context.rounds(3)):
                seconds = context.seconds(1.0)
                tables["demands"].add(OURS, troupe.flood(seconds) / seconds, count)
            troupe.settle()
            tables["memory"].add(OURS, servers.usage(pid).memory / 2**20, count)
            context.step()
        finally:
            servers.end_supervisor(path, patience=0)


def _growth(cost: Table) -> str:
    """How cost grows with the number of members, from point to point."""
    cells = [cell for cell in cost.cells if cell.values]
    parts = []
    for before, after in itertools.pairwise(cells):
        members = float(after.place) / float(before.place)
        factor = after.spread.median / before.spread.median
        power = math.log(factor) / math.log(members) if factor > 0 else 0.0
        parts.append(f"{before.place} to {after.place} members: cost × {factor:.2f} (power {power:.2f})")
    return "; ".join(parts)
