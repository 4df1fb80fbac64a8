"""13. The pool for asyncio against redis.asyncio's, on asyncio's loop and on uvloop.

What is compared is the processor time of the client's thread: how long a GET takes by the clock is the server's doing,
and the machine's. Contestants take turns in short blocks, all in one loop.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import os
import pstats
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import redis.asyncio
import uvloop

import poolmgr.asyncio
from bench.lib import servers
from bench.lib.floors import STEPS, STEPS_OF_GET, LeastPool
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import ROOT

TITLE = "asyncio"
SECONDS = 120

OURS = "poolmgr.asyncio"
REDIS = "redis.asyncio.ConnectionPool"
BLOCKING = "redis.asyncio.BlockingConnectionPool"
SINGLE = "single_connection_client"
BARE = "transport and hiredis, no client"
LEAST = "redis-py's client, least pool"
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
KEY = "bench"
AT_ONCE = 50
TASKS, CONNECTIONS = 32, 4
"""Of the fairness."""

Work = Callable[[], Awaitable[Any]]


def _clients(port: int) -> dict[str, redis.asyncio.Redis]:
    where: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    return {
        OURS: redis.asyncio.Redis(connection_pool=poolmgr.asyncio.ConnectionPool(timeout=60, **where)),
        REDIS: redis.asyncio.Redis(connection_pool=redis.asyncio.ConnectionPool(**where)),
        BLOCKING: redis.asyncio.Redis(
            connection_pool=redis.asyncio.BlockingConnectionPool(max_connections=50, timeout=60, **where)
        ),
        SINGLE: redis.asyncio.Redis(single_connection_client=True, **where),
        LEAST: redis.asyncio.Redis(connection_pool=LeastPool(**where)),
    }


def _checkout(client: redis.asyncio.Redis) -> Work:
    pool = client.connection_pool

    async def work() -> None:
        for _ in range(20):
            await pool.release(await pool.get_connection())

    return work


def _get(client: redis.asyncio.Redis) -> Work:
    async def work() -> None:
        await client.get(KEY)

    return work


def _pipeline(client: redis.asyncio.Redis) -> Work:
    async def work() -> None:
        async with client.pipeline(transaction=False) as pipe:
            for _ in range(100):
                pipe.get(KEY)
            await pipe.execute()

    return work


def _concurrent(client: redis.asyncio.Redis) -> Work:
    async def work() -> None:
        await asyncio.gather(*(client.get(KEY) for _ in range(AT_ONCE)))

    return work


def _bare(pool: LeastPool) -> Work:
    """The same without a client."""

    async def work() -> None:
        await asyncio.gather(*(connection.get(KEY) for connection in pool.least))

    return work


def _growth(client: redis.asyncio.Redis) -> Work:
    """A connect for each: the connection is closed, and the pool opens another one."""
    pool: Any = client.connection_pool

    async def work() -> None:
        await pool.disconnect()
        await pool.release(await pool.get_connection())

    return work


class Kind:
    """One row: what is repeated, by whom, and how much a repetition does."""

    def __init__(
        self, key: str, title: str, make: Callable[[redis.asyncio.Redis], Work], names: tuple[str, ...],
        *, size: int, rounds: int, each: int = 1,
    ) -> None:  # fmt: skip
        self.key, self.title, self.make, self.names = key, title, make, names
        self.size, self.rounds, self.each = size, rounds, each


KINDS = (
    Kind("checkout", "Checkout and release", _checkout, (OURS, REDIS, BLOCKING, LEAST), size=100, rounds=30, each=20),
    Kind("get", "GET by one task", _get, (OURS, REDIS, BLOCKING, SINGLE, LEAST), size=100, rounds=40),
    Kind("pipeline", "A pipeline of 100 GETs", _pipeline, (OURS, REDIS), size=10, rounds=30),
    Kind(
        "concurrent",
        "A GET among 50 at once",
        _concurrent,
        (OURS, REDIS, BLOCKING, LEAST),
        size=5,
        rounds=30,
        each=AT_ONCE,
    ),
    Kind("growth", "A connect", _growth, (OURS, REDIS), size=10, rounds=30),
)
IMPORTED = "import"
MSGSPEC = "msgspec"
IMPORTS = {OURS: ((), OURS), f"{OURS}, where msgspec is": ((MSGSPEC,), OURS), MSGSPEC: ((), MSGSPEC)}
"""What is loaded before, and what is measured: ours, and how much of it is ours and how much msgspec's, which
messages and settings are made of."""


def run(context: Context) -> Part:
    tables = {
        kind.key: Table(
            key=kind.key, title=kind.title, unit="µs", reference=REDIS, axis="loop", log=kind.key == "checkout"
        )
        for kind in KINDS
    }
    fairness = Table(
        key="fairness", title=f"Most turns over fewest: {TASKS} tasks on {CONNECTIONS} connections", unit="1",
        axis="loop", log=True,
    )  # fmt: skip
    steps = Table(
        key="steps", title="Checkout and release, step by step", unit="µs", reference=REDIS, axis="loop", log=True
    )
    among = Table(
        key="among", title=f"A GET among {AT_ONCE} at once, step by step", unit="µs", reference=REDIS, axis="loop"
    )
    imports = Table(key=IMPORTED, title="Import, beyond redis.asyncio's", unit="ms", chart="")
    memory = Table(key="memory", title="Memory of that import", unit="MB", chart="")
    context.steps(len(LOOPS) * (sum(context.rounds(kind.rounds) for kind in KINDS) + 2) + 1, TITLE)
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        with server.observer() as client:
            client.set(KEY, "value")
        for name, factory in LOOPS.items():
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(_measure(context, name, server.port, tables, fairness))
                runner.run(_steps(context, name, server.port, steps, STEPS, KINDS[0]))
                runner.run(_steps(context, name, server.port, among, STEPS_OF_GET, KINDS[3]))
        with asyncio.Runner() as runner:
            shares = runner.run(_shares(server.port))
    for before, module in IMPORTS.values():
        _import(before, module, context.directory / "bytecode")
    for _ in range(context.rounds(9)):
        for name, (before, module) in IMPORTS.items():
            seconds, size = _import(before, module, context.directory / "bytecode")
            imports.add(name, seconds * 1e3)
            memory.add(name, size)
    context.step("imports")
    return Part(
        key="tasks",
        title=TITLE,
        text="Processor time of the client's thread. redis.asyncio makes a task and two timeouts for each command on "
        "Python 3.11; ours has one lazy timer for each connection. To ask `asyncio._get_running_loop` would take "
        "a quarter of a checkout under uvloop, because it asks the kernel for the process's id before Python "
        "3.12. asyncio's own loops tell in which thread they run, and are asked that instead; uvloop's are known "
        "by the hook that they set for asynchronous generators. The least pool does only what no pool can do "
        "without, and its connections are a transport and hiredis, without timeouts: redis-py's client on it is "
        "the floor for every pool, since the client stays as it is. A transport and hiredis without any client is "
        "what the loop, the kernel and the parser take of a GET. Of a GET by one task that is most, because its "
        "thread goes to sleep for each reply; the quieter the machine, the larger that part. Step by step, the "
        "least pool does more and more of what ours does; what ours takes beyond the last step is that a pool has "
        "a part for each loop, and that its connections are redis-py's objects. For a GET ours also saves "
        "something that the steps do not: a task is woken by the call that brings its reply, and not at the "
        "loop's next turn.",
        tables=[*tables.values(), steps, among, fairness, imports, memory],
        goals=_goals(),
        facts={f"whose time a GET among {AT_ONCE} takes, by cProfile, on asyncio's loop": shares},
    )


PARTS_OF_GET = {
    BARE: "a transport and hiredis, without any client",
    LEAST: "redis-py's client on a pool and connections that check nothing",
}
FLOORS = {
    "checkout": {LEAST: "two coroutines, a deque, two looks at the clock and the question which loop runs"},
    "get": PARTS_OF_GET,
    "concurrent": {**PARTS_OF_GET, BARE: f"{AT_ONCE} transports and hiredis under gather, without any client"},
    IMPORTED: {MSGSPEC: "msgspec alone"},
    "memory": {MSGSPEC: "msgspec alone"},
}
"""What stands beside goals that are missed."""


def _goals() -> list[Goal]:
    goals = []
    for loop in LOOPS:
        for what, table, against, at_most in (
            ("checkout and release", "checkout", REDIS, 1 / 10),
            ("a GET", "get", REDIS, 1 / 2.5),
            ("a GET, against single_connection_client", "get", SINGLE, 1 / 1.8),
            ("a pipeline of 100", "pipeline", REDIS, 1 / 2.4),
            ("a GET among 50 at once", "concurrent", REDIS, 1 / 2),
            ("growth by one permit, against a connect", "growth", REDIS, 1.1),
        ):
            goals.append(
                Goal(
                    what=f"{loop}: {what}", table=table, variant=OURS, place=loop, against=against,
                    at_most=round(at_most, 3), floors=FLOORS.get(table, {}),
                )
            )  # fmt: skip
        goals.append(Goal(what=f"{loop}: fairness", table="fairness", variant=OURS, place=loop, at_most=1.05))
    for what, table, at_most in (("import of poolmgr.asyncio", IMPORTED, 20), ("its memory", "memory", 2)):
        goals.append(Goal(what=what, table=table, variant=OURS, at_most=at_most, floors=FLOORS[table]))
    return goals


async def _measure(context: Context, loop: str, port: int, tables: dict[str, Table], fairness: Table) -> None:
    clients = _clients(port)
    least: Any = clients[LEAST].connection_pool
    await least.fill(AT_ONCE)
    bare: dict[str, Work] = {"get": lambda: least.least[0].get(KEY), "concurrent": _bare(least)}
    for kind in KINDS:
        works = {name: kind.make(clients[name]) for name in kind.names}
        if kind.key in bare:
            works[BARE] = bare[kind.key]
        for work in works.values():
            for _ in range(3 * AT_ONCE if kind.key == "concurrent" else 3):  # until a pool opens no more connections
                await work()
        gc.collect()
        rounds = context.rounds(kind.rounds)
        for number, name in turns(list(works), rounds, collect=False):
            tables[kind.key].add(name, await _block(works[name], kind.size) / kind.each * 1e6, loop)
            if name == OURS:
                context.step(f"{kind.title}, {loop}, {number}")
    for name, pool in (
        (OURS, poolmgr.asyncio.ConnectionPool(max_connections=CONNECTIONS, host="127.0.0.1", port=port, timeout=60)),
        (
            BLOCKING,
            redis.asyncio.BlockingConnectionPool(max_connections=CONNECTIONS, host="127.0.0.1", port=port, timeout=60),
        ),
    ):
        fairness.add(name, await _fairness(pool, context.seconds(3)), loop)
        await pool.aclose()
        context.step(f"fairness, {loop}")
    for client in clients.values():
        await client.aclose()
        await client.connection_pool.disconnect()
    least.end()


async def _steps(
    context: Context, loop: str, port: int, table: Table, steps: dict[str, type[LeastPool]], kind: Kind
) -> None:
    """What is added to the least pool, one thing after the other, until it does what ours does."""
    where: dict[str, Any] = {"host": "127.0.0.1", "port": port}
    clients = {name: client for name, client in _clients(port).items() if name in (OURS, REDIS)}
    for name, pool in steps.items():
        clients[name] = redis.asyncio.Redis(connection_pool=pool(**where))
        await clients[name].connection_pool.fill(AT_ONCE)  # type: ignore[attr-defined]
    works = {name: kind.make(client) for name, client in clients.items()}
    for work in works.values():
        for _ in range(3 * AT_ONCE):
            await work()
    gc.collect()
    for _, name in turns(list(works), context.rounds(30), collect=False):
        table.add(name, await _block(works[name], kind.size) / kind.each * 1e6, loop)
    for name, client in clients.items():
        if name in steps:
            client.connection_pool.end()  # type: ignore[attr-defined]
        else:
            await client.aclose()
            await client.connection_pool.disconnect()


OWNERS = (("/poolmgr/", "poolmgr"), ("/redis/", "redis-py's client"), ("/asyncio/", "asyncio"))
KERNEL = ("send", "recv", "poll")


async def _shares(port: int) -> str:
    """Whose functions take the time of 50 GETs at once. Profiling makes functions of Python look longer than they are,
    and the kernel shorter."""
    client = _clients(port)[OURS]
    work = _concurrent(client)
    for _ in range(3 * AT_ONCE):
        await work()
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(100):
        await work()
    profile.disable()
    spent: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        kernel = any(f"'{name}' of" in function for name in KERNEL)
        owner = next((owner for part, owner in OWNERS if part in file), "the rest of Python")
        spent["the kernel" if kernel else owner] += own
    await client.aclose()
    await client.connection_pool.disconnect()
    return ", ".join(f"{owner} {own / spent.total():.0%}" for owner, own in spent.most_common())


async def _block(work: Work, size: int) -> float:
    """Processor seconds of this thread for each."""
    before = time.thread_time()
    for _ in range(size):
        await work()
    return (time.thread_time() - before) / size


async def _fairness(pool: Any, seconds: float) -> float:
    """Most turns over fewest."""
    client = redis.asyncio.Redis(connection_pool=pool)
    turns_of: Counter[int] = Counter(dict.fromkeys(range(TASKS), 0))
    ends = time.monotonic() + seconds

    async def one(number: int) -> None:
        while time.monotonic() < ends:
            await client.get(KEY)
            turns_of[number] += 1

    await asyncio.gather(*(one(number) for number in range(TASKS)))
    return max(turns_of.values()) / max(1, min(turns_of.values()))


PROGRAM = """
import importlib, json, sys, time, resource
import redis.asyncio
for before in sys.argv[2:]:
    importlib.import_module(before)
def size():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
memory, before = size(), time.process_time()
importlib.import_module(sys.argv[1])
print(json.dumps([time.process_time() - before, (size() - memory) / 1e6]))
"""


def _import(before: tuple[str, ...], module: str, cache: Path) -> tuple[float, float]:
    """Processor seconds and megabytes of importing the module where ``redis.asyncio`` is, and what comes before. As
    where packages are installed, its bytecode was written before: otherwise most of the time is the compiler's."""
    environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, module, *before], cwd=ROOT, env=environ, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    seconds, size = json.loads(done.stdout)
    return float(seconds), float(size)
