"""A list of a large server stays in the thread that has read it: the event loop gets what it comes to, by process."""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from poolmgr import settings, tags, wire
from poolmgr.budget.accounts import Identity
from poolmgr.budget.effects import Tell
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.committer import Committer
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams import census
from poolmgr.supervisor.upstreams.belonging import Belonging
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.inspection import Inspector
from poolmgr.supervisor.upstreams.proof import FOREIGN, Row, parse
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.upstreams.summary import summed
from poolmgr.supervisor.views.audit import Listed
from tests.helpers import python

SERVES = """
import gc, sys
from poolmgr.supervisor import __main__ as starts, supervisor

class Supervisor:
    def __init__(self, *_, **__): ...
    async def run(self): print(sys.getswitchinterval() <= 0.0001, gc.get_freeze_count() > 10_000)

supervisor.Supervisor = Supervisor
starts.main([])
"""
"""A supervisor that has begun to serve says what it has set."""

SERVER = "tcp://cache:6379"
PLACE, BOOT = "0a0a0a0a", "0b0b0b"
SCOPE, OTHER = "0123456789abcdef", "fedcba9876543210"


def tag(pid: int) -> str:
    return f"pm1.{PLACE}.{BOOT}.{pid}.8.0c0c0c"


def reply(rows: int) -> bytes:
    """A list of so many rows: half of them bear tags of five processes, the others nothing."""
    names = (tags.name(tag(i % 5), i, SCOPE) if i % 2 else "" for i in range(rows))
    return b"\n".join(
        b"id=%d addr=127.0.0.1:7 fd=8 name=%s age=90 idle=0 flags=N cmd=get" % (i + 1, name.encode())
        for i, name in enumerate(names)
    )


class Server:
    """As :class:`Admin`, at a server that has so many clients."""

    id, took, mute, stalled, shown, busy = 1, 0.0, "", False, "", ""
    endpoint = wire.Endpoint(key=SERVER, host="cache", port=6379)

    def __init__(self, rows: int) -> None:
        self._reply = reply(rows)

    def call(self, *command: str | int) -> Any:
        assert command[:2] == ("CLIENT", "LIST")
        return self._reply


def found(rows: int) -> Findings:
    """What an inspection has found out at such a server."""
    inspector = Inspector("pm1", SCOPE, itertools.count(), 1.0, 1.0)
    inspector.kept = Server(rows)  # type: ignore[assignment]
    findings = inspector.inspect(Work(endpoints=((Server.endpoint,),), listing=True))
    assert findings.answered
    return findings


class House:
    """A supervisor's parts about one server, and what its committer did in which order."""

    def __init__(self) -> None:
        self.did: list[str] = []
        self.ledger = Ledger(owner=Identity("supervisor", 1), rng=random.Random(1))
        self.committer = Committer(
            self.ledger,
            self,  # type: ignore[arg-type]
            deliver=self._deliver,
            superseded=lambda: None,
            settled=lambda: None,
        )
        nobody: Any = MagicMock()
        self.context = Context(
            self.ledger,
            self.committer,
            settings.load({}),
            Roster(),
            nobody,
            Belonging(self.ledger, PLACE, BOOT, "/nowhere/s"),
            nobody,
            itertools.count(),
        )
        self.registry = Registry(self.context)
        self.upstream = self.registry._new(SERVER, (SERVER,))
        self.upstream.resolved = True
        self.ledger.set_budget(SERVER, 3, 0.0)
        self.ledger.hold_raises(SERVER, False)
        probe: Any = self.registry.probes[SERVER]
        self.feed = probe._reconciler.feed
        self.allowance = probe.allowance
        self.clock = self.committer.clock

    path = "/snapshot"

    def write(self, saved: Any) -> None:
        self.did.append("saved")

    def _deliver(self, tell: Tell) -> None:
        if isinstance(tell.message, wire.Limit):
            self.did.append(f"told {tell.message.limit}")

    def register(self, pid: int, holds: int = 0) -> None:
        now = self.clock()
        assert self.ledger.register(Identity(tag(pid), pid), 1, {SERVER: holds} if holds else {}, now)
        self.ledger.attach(tag(pid), SERVER, now)


def in_loop(play: Callable[[House], Any]) -> Any:
    async def scene() -> Any:
        house = House()
        try:
            return play(house)
        finally:
            house.committer.close()

    return asyncio.run(scene())


def lines(call: Callable[[], object]) -> int:
    """How many lines of Python were run."""
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def feed(house: House, findings: Findings) -> None:
    house.feed(Work(endpoints=(), listing=True), findings, house.clock())


def count(house: House, findings: Findings) -> None:
    watch: Any = SimpleNamespace(add=lambda process: False)
    assert findings.shown is not None
    assert not census.take(findings.shown, SERVER, house.ledger, watch, house.context.belonging, house.clock())
    assert len(house.ledger.servers[SERVER].quarantine) == 5


def audit(house: House, findings: Findings) -> None:
    assert findings.shown is not None
    house.upstream.shown = findings.shown
    Listed(house.upstream).and_then(Listed(house.upstream))


@pytest.mark.parametrize("what", [feed, count, audit])
def test_what_the_event_loop_does_with_a_list_does_not_grow_with_its_rows(
    what: Callable[[House, Findings], None],
) -> None:
    """The same five processes have a hundred times the connections."""
    few, many = found(40), found(4000)
    by_few = in_loop(lambda house: lines(lambda: what(house, few)))
    by_many = in_loop(lambda house: lines(lambda: what(house, many)))
    assert by_many < by_few + 500, "lines of Python; the first run may fill a cache"


def test_no_row_leaves_the_thread() -> None:
    inspector = Inspector("pm1", SCOPE, itertools.count(), 1.0, 1.0)
    inspector.kept = Server(40)  # type: ignore[assignment]
    findings = inspector.inspect(Work(endpoints=((Server.endpoint,),), listing=True))
    assert "name=" not in repr(findings) and "Row(" not in repr(findings)
    assert inspector._lists.rows is None, "nor is it kept there"


def test_what_is_free_is_told_before_anything_else_is_done() -> None:
    """By rule S1 the snapshot comes before the members."""

    def play(house: House) -> list[str]:
        house.register(1, holds=3)
        house.register(2)
        house.ledger.report(tag(2), 1, wire.Report(SERVER, 0, waiting=2, peak=2), house.clock())
        house.ledger.exited(tag(1), house.clock())
        house.committer.run()
        house.did.clear()
        learn = house.allowance.learn

        def noted(*args: Any) -> Any:
            house.did.append("bookkeeping")
            return learn(*args)

        house.allowance.learn = noted
        findings = found(40)
        findings.gone = frozenset({tag(1)})
        house.feed(Work(endpoints=(), targets=findings.gone, listing=True), findings, house.clock())
        return house.did

    did = in_loop(play)
    assert did[0] == "saved" and did[1].startswith("told ") and "bookkeeping" in did[2:]


def test_a_summary_says_what_the_rows_say() -> None:
    rows = [
        FOREIGN,
        Row(1, "a:1", "", 1),
        Row(2, "a:1", tags.name(tag(7), 3, SCOPE), 1),
        Row(3, "a:1", tags.name(tag(7), 4, SCOPE), 1),
        Row(4, "a:1", tags.name(tag(7), 5, OTHER), 1),
        Row(5, "a:1", "", 1, library=tags.name(tag(8), 1, "")),
    ]
    shown = summed(rows)
    assert shown.strangers == 2
    assert shown.numbers == {tag(7): {2, 3, 4}, tag(8): {5}}
    assert {(known.process, known.scope, known.serial): count for known, count in shown.counts.items()} == {
        (tag(7), SCOPE, 0): 2,
        (tag(7), OTHER, 0): 1,
        (tag(8), "", 0): 1,
    }


@pytest.mark.parametrize("rows", [0, 1, 3000])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_long_list_is_taken_apart_in_pieces(rows: int, end: bytes) -> None:
    """Whatever ends where: none is lost, and none is cut."""
    assert [row.id for row in parse(reply(rows) + end)] == list(range(1, rows + 1))


def test_no_thread_and_no_collector_holds_the_loop_up_for_milliseconds(tmp_path: Path) -> None:
    """What the supervisor's process has set when it begins to serve."""
    told = python(SERVES, environ={"POOLMGR_SOCKET": str(tmp_path / "s")})
    assert told.stdout.split() == ["True", "True"]


def test_an_answer_says_nothing_of_a_connect_that_failed_after_it() -> None:
    """However long the event loop takes to read what the look has found."""

    def play(house: House) -> bool:
        began = house.clock()
        answered = found(1)
        while house.clock() == answered.at:
            pass
        failed = house.clock()
        reconciler: Any = house.registry.probes[SERVER]._reconciler
        house.register(1, holds=1)
        trouble = wire.Trouble(SERVER, "unreachable", "refused", began=failed, way="tcp://a:1")
        reconciler.outages.failed(tag(1), trouble, failed)
        assert began < answered.at < failed
        reconciler.note(answered, house.clock(), began)
        return tag(1) in reconciler.outages._verdict.witnesses

    assert in_loop(play)
