"""1. The reason for pools: a new client for each command, against a pooled one, plain and with TLS."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import redis
from redis.connection import SSLConnection

from bench.lib import pools, servers
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Part, Table

TITLE = "Why a pool at all"
SECONDS = 30

NEW = "a new client each time"
COMMANDS: dict[str, Callable[[redis.Redis], Any]] = {
    "PING": lambda client: client.ping(),
    "SET": lambda client: client.set("bench", "value"),
    "GET": lambda client: client.get("bench"),
}


def run(context: Context) -> Part:
    tables = []
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        with servers.tls(context.directory, server) as tls:
            secure = {"ssl_ca_certs": tls.authority}
            context.steps(2 * len(COMMANDS) * 3 * context.rounds(5), TITLE)
            tables.append(_measure(context, "plain", server.port, {}))
            tables.append(_measure(context, "tls", tls.port, secure))
            what = tls.what
    return Part(
        key="clients",
        title=TITLE,
        text="Milliseconds for one command: with a client (and so a connection) that is made for the command and "
        "closed after it, and with a client that uses a pool.",
        tables=tables,
        facts={"TLS": what},
    )


def _measure(context: Context, kind: str, port: int, tls: dict[str, Any]) -> Table:
    table = Table(
        key=kind, title=f"One command, {'TLS' if tls else 'plain TCP'}", unit="ms", reference=NEW, axis="command",
        chart="bars", log=True,
    )  # fmt: skip
    secure: dict[str, Any] = {"connection_class": SSLConnection, **tls} if tls else {}
    own = redis.Redis(connection_pool=pools.ours(port, **secure))
    theirs = redis.Redis(connection_pool=redis.ConnectionPool(host="127.0.0.1", port=port, **secure))

    def new(action: Callable[[redis.Redis], Any]) -> None:
        with redis.Redis(host="127.0.0.1", port=port, ssl=bool(tls), **tls) as client:
            action(client)

    contestants: dict[str, Callable[[Callable[[redis.Redis], Any]], Any]] = {
        NEW: new,
        pools.REDIS: lambda action: action(theirs),
        pools.OURS: lambda action: action(own),
    }
    for name, action in COMMANDS.items():
        for warm in contestants.values():
            warm(action)
        for _, variant in turns(list(contestants), context.rounds(5)):
            table.add(variant, _per_call(lambda: contestants[variant](action), context.seconds(0.2)) * 1e3, name)  # noqa: B023
            context.step()
    return table


def _per_call(call: Callable[[], Any], seconds: float) -> float:
    start = time.perf_counter()
    end = start + seconds
    count = 0
    while True:
        call()
        count += 1
        now = time.perf_counter()
        if now >= end:
            return (now - start) / count
