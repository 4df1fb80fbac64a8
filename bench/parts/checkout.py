"""2. What a pool costs when it has an idle connection: checkout and release, nothing between."""

from __future__ import annotations

from typing import Any

import redis

from bench.lib import pools, servers
from bench.lib.measure import blocks
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from poolmgr.pool.sync import pool as sync

TITLE = "Checkout and release, warm"
SECONDS = 8

LOOKING = "poolmgr, looking at the socket each time"
"""It looks only after a millisecond of idleness. A sceptic may want to know what it is without that."""


def contestants(port: int) -> dict[str, pools.Repeat]:
    """Each: ``repeat(n)`` takes and gives back a connection n times."""
    own = pools.ours(port)

    def looking(count: int) -> None:
        usual, sync.FRESH = sync.FRESH, 0.0
        try:
            plain(count)
        finally:
            sync.FRESH = usual

    plain = _repeat(own)
    return {
        pools.OURS: plain,
        LOOKING: looking,
        pools.REDIS: _repeat(redis.ConnectionPool(host="127.0.0.1", port=port)),
        pools.BLOCKING: _repeat(pools.blocking(port, 8)),
        pools.PSYCOPG: _repeat_psycopg(pools.psycopg(1, 8)),
        pools.ALCHEMY: _repeat_alchemy(pools.alchemy(8)),
    }


def _repeat(pool: Any) -> pools.Repeat:
    def repeat(count: int) -> None:
        for _ in range(count):
            pool.release(pool.get_connection())

    return repeat


def _repeat_psycopg(pool: Any) -> pools.Repeat:
    def repeat(count: int) -> None:
        for _ in range(count):
            pool.putconn(pool.getconn())

    return repeat


def _repeat_alchemy(pool: Any) -> pools.Repeat:
    def repeat(count: int) -> None:
        for _ in range(count):
            pool.connect().close()

    return repeat


def run(context: Context) -> Part:
    table = Table(
        key="checkout", title="Checkout and release of an idle connection", unit="µs", reference=pools.REDIS, log=True
    )
    rounds = context.rounds(100)
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        measured = contestants(server.port)
        context.steps(rounds * len(measured), TITLE)
        for name, seconds in blocks(measured, rounds, size=1000):
            table.add(name, seconds * 1e6)
            context.step()
    return Part(
        key="checkout",
        title=TITLE,
        text="One thread, one idle connection. The pools of redis-py look at the socket at every checkout; ours looks "
        "after a millisecond of idleness. The last two contestants have no socket to look at.",
        tables=[table],
        goals=[
            Goal(
                what="checkout and release against redis.ConnectionPool",
                table="checkout", variant=pools.OURS, against=pools.REDIS, at_most=1 / 8,
            ),
        ],
    )  # fmt: skip
