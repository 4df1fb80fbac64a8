"""10. One budget over many hosts: what it costs the server, and how soon a host has what it needs.

The hosts of the large rows are played (:mod:`bench.lib.fleet`): the real lease, the real script, real connections, no
supervisors. One process plays the quiet crowd. Two play the thousand that start at once, and another one the host that
wants more: what is measured does not wait for a process that plays the others (:mod:`bench.lib.hosts`). The rows
*first*, *connect* and *kill* have real supervisors and processes (:mod:`bench.lib.pods`).

- *renewal*: the server's own count (``INFO commandstats``), with a table of so many hosts. *tick*: how much longer a
  renewal takes that passes over all records, which one a second does.
- *start*: all hosts start at once. Each does what a supervisor does at a server that it meets, one list of all clients
  among it, and joins. It serves when a first worker's connection has passed its gate.
- *quiet*: nothing changes for half a minute, which holds one list for all. Beside it stands the least that a renewal
  can cost: as many scripts that ask for the time, read the record and write it, and as many HGETs, as far apart.
- *more*: one host wants 200 more, which are there before each round, or more than there is, which others have to give
  back.
- *connect*: from asking the pool until a new connection can be used, in a fleet and without one.
- *kill*: two hosts share the budget, and one of them is killed: until the other one has its part.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import time
from pathlib import Path

from bench.lib import pods, servers
from bench.lib.fleet import LEASE, Fleet, granted, hold
from bench.lib.hosts import Hosts
from bench.lib.measure import turns
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from bench.lib.table import Filled
from poolmgr.fleet import lease
from tests.fleet.hosts import table as fleet_table
from tests.helpers import RedisServer

TITLE = "One budget over many hosts"
SECONDS = 95

SIZES = (10, 100, 1000, 10_000)
HOSTS, EACH, LARGE = 1000, 10, 64_000
SPARE = 1500
"""Descriptors of a process beside those connections."""

QUIET = 30.0
"""Seconds: the pace of the lists for all."""

OURS = "poolmgr"
PLAYERS = 2
WITHOUT, WITHIN = "without a fleet", "poolmgr in a fleet"
COMMANDS, THREAD = "commands, by its own count", "its thread, by the kernel's count"
LEAST_SCRIPT, LEAST_COMMAND = "as many scripts of TIME, HMGET, HSET", "as many HGETs"
LEAST = """
redis.call('TIME')
local got = redis.call('HMGET', KEYS[1], '!', ARGV[4], 'x' .. ARGV[4])
redis.call('HSET', KEYS[1], ARGV[4], got[2])
return {'ok', ARGV[3], 1796034789397, 10, 10, 1796034799397, 0, 12000, 240, 1000, '-', '', 0, 0}
"""
FLOOR = 6.0
"""Seconds for each of these: no lease ends meanwhile."""
WITHIN_SCRIPTS = frozenset(f"cmdstat_{name}" for name in ("time", "hget", "hmget", "hset", "hgetall", "hdel", "del"))
"""The server counts these once more in the script's own time."""
NEW, THERE = "a new table", "a table that is there"
JOINING, TOGETHER = "behind the handshake of the connection that asks", "all of its supervisor's"
RESERVE, RECALLED = "200 more, from the reserve", "5,000 more, from the reserve and from idle hosts"
RENEWAL = LEASE * lease.QUIET


def run(context: Context) -> Part:
    tables = {
        "renewal": Table(key="renewal", title="A renewal at the server", unit="µs", reference=_hosts(SIZES[0])),
        "tick": Table(key="tick", title="A pass over all records, once a second", unit="ms", log=True),
        "start": Table(key="start", title=f"{HOSTS:,} hosts start at once: until all serve", unit="s"),
        "quiet": Table(key="quiet", title=f"{HOSTS:,} quiet hosts: share of the server's thread", unit="%"),
        "rate": Table(key="rate", title="Renewals while quiet", unit="1/s", chart=""),
        "traffic": Table(key="traffic", title="Bytes to and from the server while quiet", unit="kB/s", chart=""),
        "memory": Table(key="memory", title="The table in the server's memory", unit="kB", chart=""),
        "list": Table(
            key="list", title="The list that one host makes for all twice a minute: the server's time", unit="ms",
            axis="connections",
        ),
        "first": Table(key="first", title="Round trips until a new pod has its first permits", unit="1"),
        "more": Table(key="more", title="200 more for one host, from the reserve", unit="ms", chart=""),
        "recalled": Table(key="recalled", title=RECALLED, unit="renewals", chart=""),
        "connect": Table(key="connect", title="Connect", unit="µs", reference=WITHOUT, axis="flavour"),
        "kill": Table(key="kill", title="A killed pod's permits, wanted by another one", unit="s", chart=""),
    }  # fmt: skip
    facts: dict[str, str] = {}
    context.steps(8, TITLE)
    _costs(context, tables)
    _connects(context, tables["connect"])
    _first(context, tables["first"])
    pairs = [pods.Pair(context.directory / name) for name in ("k", "l")[: 1 if context.quick else 2]]
    try:
        context.step("two hosts share")
        asyncio.run(_crowd(context, tables, facts, pairs))
    finally:
        for pair in pairs:
            pair.end()
    return Part(
        key="fleet",
        title=TITLE,
        text=f"The hosts of the first rows are played: real leases, the real script and real connections, without "
        f"supervisors. They ask as often as supervisors do: a quiet host renews every {RENEWAL:.0f} s. A renewal's "
        "cost is the server's own count. Of a thousand hosts that start at once, each does what a supervisor does at a "
        "server that it meets, before it joins; two processes play them, on the processors that the server runs on. "
        "A killed pod's permits are free once its lease has ended (10 s) and a list has shown that nothing of it is "
        "left: that is the price of the proof.",
        tables=list(tables.values()),
        goals=_goals(),
        facts=facts,
    )


def _hosts(count: int) -> str:
    return f"{count:,} hosts"


def _goals() -> list[Goal]:
    first, last = _hosts(SIZES[0]), _hosts(SIZES[-1])
    return [
        Goal(what="a renewal at the server, 10 hosts", table="renewal", variant=first, at_most=25),
        Goal(what="a renewal at the server, 10,000 hosts", table="renewal", variant=last, at_most=25),
        Goal(what="a renewal, 10,000 hosts against 10", table="renewal", variant=last, against=first, at_most=1.5),
        Goal(what="the pass over all records, 1,000 hosts", table="tick", variant=_hosts(1000), at_most=1.5),
        *(
            Goal(what=f"1,000 hosts start at once, {what}", table="start", variant=what, at_most=2)
            for what in (NEW, THERE)
        ),
        Goal(
            what="1,000 quiet hosts, 10,000 connections: commands", table="quiet", variant=COMMANDS, at_most=1,
            floors={LEAST_SCRIPT: LEAST_SCRIPT, LEAST_COMMAND: LEAST_COMMAND},
        ),
        Goal(what="renewals of 1,000 quiet hosts", table="rate", variant=OURS, at_most=250),
        Goal(what="the table of 1,000 hosts", table="memory", variant=OURS, at_most=200),
        Goal(what="round trips until a new pod has permits", table="first", variant=JOINING, at_most=1),
        Goal(what="200 more for one host, from the reserve", table="more", variant=OURS, at_most=10),
        Goal(what="thousands more, recalled from idle hosts", table="recalled", variant=OURS, at_most=2),
        *(
            Goal(
                what=f"connect in a fleet against without one, {flavour}",
                table="connect", variant=WITHIN, place=flavour, against=WITHOUT, at_most=1.2,
            )
            for flavour in ("sync", "asyncio")
        ),
        Goal(what="a killed pod's permits, wanted by another one", table="kill", variant=OURS, at_most=15),
    ]  # fmt: skip


# ---- the script ------------------------------------------------------------------------------------------


def _costs(context: Context, tables: dict[str, Table]) -> None:
    """Each size's table is in the same server, and they take turns."""
    sizes = SIZES[:-1] if context.quick else SIZES
    with servers.server(context.directory) as server, server.observer() as client:
        filled = {size: Filled(server, client, size) for size in sizes}
        context.step("tables of all sizes")
        for number, size in turns(sizes, context.rounds(20), collect=False):
            tables["renewal"].add(_hosts(size), filled[size].renewal(400))
            if number < 10:
                tables["tick"].add(_hosts(size), filled[size].tick())
    context.step("renewals")


# ---- real pods -------------------------------------------------------------------------------------------


def _connects(context: Context, table: Table) -> None:
    fleet = {"REDIS_FLEET": "web", "REDIS_FLEET_BUDGET": "100"}
    with servers.server(context.directory) as server:
        for flavour in ("sync", "asyncio"):
            contestants = {
                WITHOUT: pods.Connecting(context.directory / f"{flavour}0", server.port, flavour),
                WITHIN: pods.Connecting(context.directory / f"{flavour}1", server.port, flavour, **fleet),
            }
            try:
                for _, name in turns(list(contestants), context.rounds(24), collect=False):
                    table.add(name, statistics.median(contestants[name].times(25)) * 1e6, flavour)
            finally:
                for each in contestants.values():
                    each.end()
    context.step("connections")


def _first(context: Context, table: Table) -> None:
    with servers.server(context.directory) as server:
        there = pods.host(context.directory / "there", server.url)
        try:
            there.start().callers(1)
            for number in range(1 if context.quick else 2):
                joining, together = pods.first(context.directory, server, number)
                table.add(JOINING, joining)
                table.add(TOGETHER, together)
        finally:
            there.stop()
    context.step("new pods")


# ---- the played hosts ------------------------------------------------------------------------------------


async def _crowd(context: Context, tables: dict[str, Table], facts: dict[str, str], pairs: list[pods.Pair]) -> None:
    count = HOSTS // 10 if context.quick else HOSTS
    connections = count * EACH
    large = _raised(LARGE // 10 if context.quick else LARGE)
    budget = 12 * count
    with servers.server(context.directory, maxclients=large + SPARE // 2) as server:
        await _starts(context, tables["start"], facts, server, count)
        async with Fleet(server.port, "quiet", budget, demand=EACH) as fleet:
            fleet.start(count)
            await fleet.until(lambda: all(granted(each) >= EACH for each in fleet.members), 180, "all have their part")
            held = await _held(fleet, EACH - 2)
            facts["connections"] = f"{_connected(server):,}"
            context.step("all connections")
            quiet = asyncio.create_task(_quiet(context, tables, facts, fleet, server))
            killed = [asyncio.to_thread(pair.kill_one) for pair in pairs]
            for seconds in await asyncio.gather(*killed):
                tables["kill"].add(OURS, seconds)
            await quiet
            context.step("quiet")
            await _lists(tables["list"], fleet, server, connections)
            await _more(context, tables, facts, fleet, server, budget)
            held += await _held(fleet, (large - connections) // count)
            await _lists(tables["list"], fleet, server, _connected(server))
            _large(tables, facts, _connected(server))
            for sock in held:
                sock.close()
    context.step("many connections")


async def _held(fleet: Fleet, each: int) -> list[socket.socket]:
    """So many connections of each host. Leases must not end meanwhile."""
    names = [member.connection_name() for member in fleet.members for _ in range(each)]
    return await asyncio.to_thread(hold, fleet.port, names)


async def _starts(context: Context, table: Table, facts: dict[str, str], server: RedisServer, count: int) -> None:
    for number in range(2 if context.quick else 3):
        for what in (NEW, THERE):
            await asyncio.to_thread(_start, table, facts, server, f"start-{number}-{what[2:5]}", what, count)
    context.step("all start at once")


def _start(table: Table, facts: dict[str, str], server: RedisServer, name: str, what: str, count: int) -> None:
    with contextlib.ExitStack() as stack:
        players = [stack.enter_context(Hosts(server.port, name, 3 * count)) for _ in range(PLAYERS)]
        if what == THERE:
            players[0].ask("start 1")
        used = [float(player.ask("used")) for player in players]
        ran, before, began = _thread(server), server.info("commandstats"), time.monotonic()
        for player in players:
            player.tell(f"start {count // PLAYERS}")
        table.add(what, max(float(player.says()) for player in players) - began)
        ran, after = _thread(server) - ran, server.info("commandstats")
        played = sum(float(player.ask("used")) for player in players) - sum(used)
        lists = (_spent(after, "cmdstat_client|list") - _spent(before, "cmdstat_client|list")) / 1e6
        with server.observer() as client:
            found = fleet_table(client, name)
        grants = [host.grant for host in found.hosts] if found is not None else [0]
        facts["permits of each host when all serve"] = f"{min(grants)} to {max(grants)}"
        facts["processor time of a start of all"] = (
            f"the server {ran:.2f} s; the processes that play the hosts {played:.2f} s. The lists of all clients, for "
            f"which each host asks once, took {lists:.2f} s by the server's own count"
        )


async def _quiet(
    context: Context, tables: dict[str, Table], facts: dict[str, str], fleet: Fleet, server: RedisServer
) -> None:
    await asyncio.sleep(2.0)  # what growing has led to is over
    fleet.going.clear()
    await asyncio.sleep(0.3)
    idle = await _ran(server, 2.0)
    fleet.going.set()
    await asyncio.sleep(3.0)
    seconds = context.seconds(QUIET)
    loop = asyncio.get_running_loop()
    before, renewals, lists, began = server.info(), fleet.renewals, len(fleet.lists), loop.time()
    ran = await _ran(server, seconds)
    after, took = server.info(), loop.time() - began
    parts = {
        name.removeprefix("cmdstat_"): _spent(after, name) - _spent(before, name)
        for name in after.keys() - WITHIN_SCRIPTS
        if name.startswith("cmdstat_")
    }
    spent = sum(parts.values())
    tables["quiet"].add(COMMANDS, spent / 1e6 / took * 100)
    tables["quiet"].add(THREAD, (ran - idle) * 100)
    tables["rate"].add(OURS, (fleet.renewals - renewals) / took)
    said = sum(int(after[name]) - int(before[name]) for name in ("total_net_input_bytes", "total_net_output_bytes"))
    tables["traffic"].add(OURS, said / took / 1e3)
    with server.observer() as client:
        tables["memory"].add(OURS, float(client.memory_usage(fleet.key, samples=0) or 0) / 1e3)
    facts["lists while quiet"] = f"{len(fleet.lists) - lists} in {took:.0f} s"
    facts["the commands' time while quiet"] = ", ".join(
        f"{name} {part / spent:.0%}" for name, part in sorted(parts.items(), key=lambda each: -each[1])[:6]
    )
    each = {"a renewal": parts["evalsha"] / (fleet.renewals - renewals)}
    rate = tables["rate"].cells[0].values[0]
    for what in (LEAST_SCRIPT, LEAST_COMMAND):
        each[what.removeprefix("as many ")] = least = await _least(context, fleet, server, what, rate)
        tables["quiet"].add(what, least * rate / 1e6 * 100)
    facts["microseconds of one, at this pace"] = ", ".join(f"{what} {micros:.0f}" for what, micros in each.items())


async def _least(context: Context, fleet: Fleet, server: RedisServer, what: str, rate: float) -> float:
    """Microseconds at the server for one of these, each over another host's connection. No host renews meanwhile."""
    with server.observer() as client:
        sha = str(client.script_load(LEAST))
    fleet.going.clear()
    await asyncio.sleep(0.3)
    before = server.info("commandstats")
    until = time.monotonic() + context.seconds(FLOOR)
    while time.monotonic() < until:
        await asyncio.sleep(fleet.rng.uniform(0, 2 / rate))
        member = fleet.rng.choice(fleet.members)
        if what == LEAST_COMMAND:
            await member.admin.ask(("HGET", fleet.key, member.lease.name))
        else:
            arguments = member.lease.name, 1, 10, 10, 1, fleet.budget, fleet.slack, 10_000, 0, 1, "pod", 0
            await member.admin.ask(("EVALSHA", sha, 1, fleet.key, "renew", fleet.run_id, "1.a.1", *arguments))
    after = server.info("commandstats")
    fleet.going.set()
    name = "cmdstat_hget" if what == LEAST_COMMAND else "cmdstat_evalsha"
    calls = _spent(after, name, "calls") - _spent(before, name, "calls")
    return (_spent(after, name) - _spent(before, name)) / max(1.0, calls)


async def _ran(server: RedisServer, seconds: float) -> float:
    """Part of this time for which the server's thread ran."""
    loop = asyncio.get_running_loop()
    before, began = _thread(server), loop.time()
    await asyncio.sleep(seconds)
    return (_thread(server) - before) / (loop.time() - began)


def _thread(server: RedisServer) -> float:
    """Seconds for which the server's thread has run."""
    return int(Path(f"/proc/{server.pid}/task/{server.pid}/schedstat").read_text().split()[0]) / 1e9


def _spent(info: dict[str, object], name: str, what: str = "usec") -> float:
    entry = info.get(name)
    return float(entry[what]) if isinstance(entry, dict) else 0.0


def _connected(server: RedisServer) -> int:
    return int(server.info("clients")["connected_clients"])


async def _lists(table: Table, fleet: Fleet, server: RedisServer, connections: int) -> None:
    """What a host does that has the duty: the server's time for it."""
    for _ in range(3):
        before = server.info("commandstats")
        await fleet.does_duty(fleet.members[0])
        after = server.info("commandstats")
        names = ("cmdstat_client|list", "cmdstat_client")
        table.add(OURS, sum(_spent(after, name) - _spent(before, name) for name in names) / 1e3, connections)


def _large(tables: dict[str, Table], facts: dict[str, str], connections: int) -> None:
    """What more connections cost: the list, and nothing else."""
    usual, listed = (statistics.median(cell.values) / 1e3 for cell in tables["list"].cells)
    share = statistics.median(tables["quiet"].cell(COMMANDS).values) / 100
    for count in dict.fromkeys((connections, LARGE)):
        takes = listed * count / connections
        how = "measured" if count == connections else "as many times that"
        facts[f"quiet with {count:,} connections"] = (
            f"{share + (takes - usual) / QUIET:.2%} of the server's thread; the list takes {takes * 1e3:.0f} ms, {how}"
        )


async def _more(
    context: Context, tables: dict[str, Table], facts: dict[str, str], fleet: Fleet, server: RedisServer, budget: int
) -> None:
    more = budget // 60
    rounds = 1 + context.rounds(5)
    with Hosts(fleet.port, fleet.name, budget, EACH) as others:
        await asyncio.to_thread(others.ask, f"start {rounds}")
        await asyncio.sleep(RENEWAL)  # a host that has just asked waits for a tenth of a second before it asks again
        for _ in range(rounds):
            await fleet.until(lambda: _reserve(fleet, server) >= more, 30, "the reserve is there", every=0.5)
            seconds, renewals = (await asyncio.to_thread(others.ask, f"want {EACH + more}")).split()
            tables["more"].add(OURS, float(seconds) * 1e3)
            facts["renewals for 200 more"] = f"{facts.get('renewals for 200 more', '')} {renewals}".strip()
    for each in fleet.members:
        each.demand = 2
    for number in range(1 if context.quick else 2):
        await asyncio.sleep(RENEWAL * (1 + lease.JITTER))  # all have said that they need no more
        hot = fleet.members[10 + number]
        wanted = 5 * budget // 12
        hot.want(wanted)
        took = await fleet.until(lambda: granted(hot) >= wanted, 60, "what is recalled")  # noqa: B023
        tables["recalled"].add(OURS, took / RENEWAL)
        hot.want(2)
    context.step("more for one host")


def _reserve(fleet: Fleet, server: RedisServer) -> int:
    """Permits that no host has."""
    with server.observer() as client:
        found = fleet_table(client, fleet.name)
    return 0 if found is None else found.budget - found.slack - found.granted


def _raised(wanted: int) -> int:
    """So many connections, or fewer if the system does not allow the descriptors to one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + SPARE
    if soft < needed:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(hard, needed)))
    return min(wanted, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE)
