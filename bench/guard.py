"""A guard against regressions, for CI: seconds, ratios only, bounds so generous that only a fault exceeds them.

Absolute times differ between machines and hours. So the guard compares the pool's warm path with redis-py's in the same
seconds, and checks that everything a checkout needs (supervisor, permit, connection) still works together.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import redis

from bench.lib import pools, servers
from bench.lib.measure import blocks
from bench.lib.results import Table
from bench.parts import burst, checkout, get

BOUNDS: dict[str, tuple[str, str, str, float]] = {
    "checkout": (pools.OURS, pools.REDIS, "checkout and release against redis.ConnectionPool", 0.30),
    "get": (pools.OURS, pools.DEDICATED, "GET against a dedicated connection", 1.25),
    "burst": (pools.OURS, pools.REDIS, "burst against redis.ConnectionPool", 0.60),
}
"""Which ratio, and its most. The goals are 0.125, 1.05 and about 0.14."""


def measure(port: int) -> dict[str, Table]:
    """One small table for each bound, from the server at this port."""
    found = {key: Table(key=key, title=key, unit="s") for key in BOUNDS}
    pool = redis.ConnectionPool(host="127.0.0.1", port=port)
    contestants = {pools.OURS: checkout._repeat(pools.ours(port)), pools.REDIS: checkout._repeat(pool)}
    for variant, seconds in blocks(contestants, 60, size=500):
        found["checkout"].add(variant, seconds)
    made = get.contestants(port, 1)
    clients = {variant: made[variant]() for variant in (pools.OURS, pools.DEDICATED)}
    for variant, seconds in blocks(clients, 100, size=50):
        found["get"].add(variant, seconds)
    for _ in range(3):
        for variant in (pools.OURS, pools.REDIS):
            found["burst"].add(variant, burst._one(variant, port)[0])
    return found


def judge(found: dict[str, Table]) -> list[tuple[str, float, float]]:
    """(what, ratio, bound) of everything that was measured."""
    judged = []
    for key, (variant, against, what, bound) in BOUNDS.items():
        ratio = found[key].ratio(variant, against=against)
        assert ratio is not None
        judged.append((what, ratio.median, bound))
    return judged


def main() -> int:
    """The exit status: 1 if a bound is exceeded, twice in a row (the machine may have been busy once)."""
    logging.getLogger("poolmgr").setLevel(logging.ERROR)  # its supervisor is ended below it
    with tempfile.TemporaryDirectory(prefix="pmg-", dir="/tmp") as name:
        directory = Path(name)
        with servers.server(directory) as server, servers.supervisor(directory / "s"):
            return _judged_twice(server.port)


def _judged_twice(port: int) -> int:
    for attempt in (1, 2):
        judged = judge(measure(port))
        for what, ratio, bound in judged:
            print(f"{'ok      ' if ratio <= bound else 'EXCEEDED'} {what}: {ratio:.3f}, bound {bound:g}")
        if all(ratio <= bound for _, ratio, bound in judged):
            return 0
        print("exceeded" if attempt == 2 else "once more: the machine may have been busy")
    return 1
