"""The real code, called from a state: the objects are made of plain values, called once, and read back."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from poolmgr.fleet import gate, script
from poolmgr.fleet.lease import Lease, SavedLease, Terms
from tests.simulation.fleet.exhaustive.states import (
    PASSED,
    TO_COME,
    Disk,
    Head,
    Leased,
    Record,
    Reply,
    Request,
    World,
)
from tests.simulation.fleet.table import Table

NOW = 1_800_000_000_000
LEASE = 10.0
ENDS = {0: 0, PASSED: NOW - 70_000, TO_COME: NOW + 10_000}
"""What has passed has passed long ago, so all that waits for it (a mark, wanted or not) may happen."""

LATER = 1e15
"""By the host's clock: whatever it asks for is due."""

UNKNOWN = -1
Records = tuple[tuple[Record | None, ...], ...]
"""By host, by slot."""


def end(milliseconds: int) -> int:
    """What of an end matters."""
    return 0 if not milliseconds else TO_COME if milliseconds > NOW else PASSED


def name(host: int, slot: int) -> str:
    """A lease's name."""
    return f"{host:05x}{slot:05x}"


def number(table: int) -> str:
    return "?" if table == UNKNOWN else f"T{table}" if table else ""


def _table(text: str) -> int:
    return UNKNOWN if text == "?" else int(text[1:]) if text else 0


# ---- the lease ---------------------------------------------------------------------------------------------------


class Hosts:
    """The real :class:`Lease`, for one world."""

    def __init__(self, world: World) -> None:
        self.disk = bool(world.crashes)
        self._terms = Terms(lease=LEASE)
        self._rng = random.Random(0)
        self._name = ""
        self._lease = self._make(None, 0)

    def _make(self, saved: SavedLease | None, held: int) -> Lease:
        return Lease(self._terms, lambda: self._name, self._rng, saved=saved, held=held)

    def _load(self, leased: Leased) -> Lease:
        lease = self._lease
        lease.name = name(0, leased.slot) if leased.slot >= 0 else ""
        lease.table, lease._speaks = number(leased.table), number(leased.speaks)
        lease.end, lease.word, lease.limit = ENDS[leased.end], leased.word, leased.limit
        lease.clearing, lease.unsaved = leased.clearing, leased.unsaved
        lease._joining = name(0, leased.joining) if leased.joining >= 0 else ""
        lease._newest, lease._old, lease._unnumbered = leased.newest, leased.old, leased.unnumbered
        lease._link, lease._count = leased.link, leased.counted
        lease._due = lease._soon = 0.0
        lease._short = 0
        lease.fenced = 0
        return lease

    def _read(self, lease: Lease) -> Leased:
        return Leased(
            int(lease.name[5:], 16) if lease.name else -1,
            _table(lease.table),
            _table(lease._speaks),
            end(lease.end),
            lease.word,
            lease.limit,
            lease.clearing,
            lease.unsaved and self.disk,
            int(lease._joining[5:], 16) if lease._joining else -1,
            lease._newest,
            lease._old,
            lease._unnumbered,
            lease._link,
            lease._count,
        )

    def request(self, leased: Leased, free: int, demand: int, budget: int, place: int) -> tuple[Leased, Request] | None:
        lease = self._load(leased)
        self._name = name(0, free) if free >= 0 else ""
        asked = lease.request("run", demand, budget, 0, LATER)
        if asked is None:
            return None
        slot = int(asked.name[5:], 16)
        table = 0 if not asked.table else _table(asked.table)
        return self._read(lease), Request(asked.seq, slot, table, asked.word, demand, end(asked.until), place)

    def answered(self, leased: Leased, reply: Reply) -> tuple[Leased, bool]:
        """Its new state; whether it was fenced by it."""
        lease = self._load(leased)
        answer: script.Renewed | script.Refused
        if reply.why == "ok":
            answer = script.Renewed(
                table=number(reply.table), now=NOW, grant=reply.grant, target=reply.grant, end=ENDS[reply.end],
                wanted=False, budget=1, slack=0, hosts=1, others=None, duty="", learning=reply.learning,
            )  # fmt: skip
        else:
            answer = script.Refused(reply.why, number(reply.table), NOW, reply.last)  # type: ignore[arg-type]
        lease.answered(reply.seq, answer, LATER)
        return self._read(lease), lease.fenced > 0

    def failed(self, leased: Leased) -> Leased:
        lease = self._load(leased)
        lease.failed(LATER)
        return self._read(lease)

    def settle(self, leased: Leased, outstanding: int) -> Leased:
        lease = self._load(leased)
        lease.settle(outstanding, LATER)
        return self._read(lease)

    def give_back(self, leased: Leased, down_to: int) -> Leased:
        lease = self._load(leased)
        lease.give_back(down_to, LATER)
        return self._read(lease)

    def save(self, leased: Leased) -> tuple[Leased, Disk]:
        lease = self._load(leased)
        saved = lease.saved()
        lease.on_disk(saved)
        slot = int(saved.name[5:], 16) if saved.name else -1
        table, until = _table(saved.table), end(saved.until)
        return self._read(lease), Disk(slot, table, saved.link, saved.word, until, saved.clearing)

    def start(self, disk: Disk, held: int) -> Leased:
        slot = name(0, disk.slot) if disk.slot >= 0 else ""
        saved = SavedLease(slot, number(disk.table), disk.link, disk.word, ENDS[disk.end], disk.clearing)
        return self._read(self._make(saved, held))


def shut(head: Head | None, record: Record | None, told: int) -> str:
    """What the real gate says."""
    texts = (
        None if head is None else _head_text(head, 0),
        None if record is None or record.marked else _lease(record, 0),
    )
    return gate.shut(texts, (NOW // 1000, 0), number(told))


# ---- the table ---------------------------------------------------------------------------------------------------


def _head_text(head: Head, budget: int) -> str:
    due = NOW + 1000 if head.due else 0
    made = NOW if head.recent else NOW - 60_000
    return (
        f"run{head.run} T{head.number} {int(head.learning)} {head.used} {budget} 0 {head.level}"
        f" {head.headroom} 0 0 {due} {made} - 0 {NOW} - 0 - 0 0"
    )


def _lease(record: Record, budget: int) -> str:
    text = f"{record.grant} {record.seq} {ENDS[record.end]} {record.demand} 1 {budget} 0 able -"
    return f"{NOW} {text}" if record.marked else text


class Tables:
    """The real script; an answer that was computed once is remembered."""

    def __init__(self, world: World, edit: Callable[[str], str]) -> None:
        self.world = world
        self._table = Table(lambda: NOW, edit)
        self._known: dict[Any, Any] = {}
        self.calls = 0

    def call(
        self, head: Head | None, records: Records, tables: int, *question: str | int
    ) -> tuple[Head | None, Records, Any]:
        """The table afterwards, and the reply. A new table is number ``tables + 1``."""
        key = (head, records, tables, question)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._call(head, records, tables, question)
        return known  # type: ignore[no-any-return]

    def _call(self, head: Head | None, records: Records, tables: int, question: tuple[str | int, ...]) -> Any:
        self.calls += 1
        fields: dict[str, str] = {}
        budget = self.world.budget
        if head is not None:
            fields["!"] = _head_text(head, budget)
            for i, row in enumerate(records):
                for k, record in enumerate(row):
                    if record is not None:
                        fields[("x" if record.marked else "") + name(i, k)] = _lease(record, budget)
        self._table.hash = fields
        reply = self._table.call(*question)
        after = self._table.hash
        if "!" not in after:
            return None, records, reply
        new_head, made = self._read_head(after["!"], tables)
        got: list[list[Record | None]] = [[None] * len(row) for row in records]
        for field, text in after.items():
            if field != "!":
                marked = field[0] == "x"
                field = field[-10:]
                got[int(field[:5], 16)][int(field[5:], 16)] = _read_lease(text, marked)
        if made:
            reply = [f"T{tables + 1}" if part == made else part for part in reply]
        return new_head, tuple(map(tuple, got)), reply

    def _read_head(self, text: str, tables: int) -> tuple[Head, str]:
        (run, number, learning, used, _, _, level, headroom, _, _, due, made, *_) = text.split()
        new = "" if number.startswith("T") else number
        if not self.world.ticks:
            level = headroom = due = "0"
        return (
            Head(
                int(run[3:]),
                tables + 1 if new else int(number[1:]),
                learning == "1",
                int(used),
                int(level),
                int(headroom),
                int(due) > NOW,
                int(made) >= NOW and learning == "1",
            ),
            new,
        )


def _read_lease(text: str, marked: bool) -> Record:
    fields = text.split()
    if marked:
        del fields[0]
    return Record(marked, int(fields[0]), int(fields[1]), end(int(fields[2])), int(fields[3]))
