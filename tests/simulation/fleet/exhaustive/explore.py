"""Breadth first through all states of a world, or up to a number of them."""

from __future__ import annotations

import gc
import itertools
import time
from array import array
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, TypeVar

import msgspec

from tests.simulation.fleet.exhaustive.states import (
    CURRENT,
    OLD,
    Faults,
    Fencer,
    Heads,
    Row,
    State,
    World,
    beginning,
    canonical,
)
from tests.simulation.fleet.exhaustive.steps import NO_FAULT, PAST, Steps, held, outstanding
from tests.simulation.fleet.exhaustive.together import Together


class Result(msgspec.Struct):
    """What an exploration came to.

    Attributes:
        calls: how often the script ran. depth: steps to the farthest state.
        stuck: states from which no host can come to hold all; -1: not looked for.
    """

    states: int
    seconds: float
    complete: bool
    calls: int = 0
    depth: int = 0
    violation: str = ""
    stuck: int = -1
    trace: list[str] = msgspec.field(default_factory=list)


T = TypeVar("T", bound=Hashable)

Packed = tuple[int, ...]
"""Heads, fencers, faults, and the rows in the order of their numbers."""


class Numbers(Generic[T]):
    """Values are numbered as they are first seen."""

    def __init__(self) -> None:
        self.of: dict[T, int] = {}
        self.at: list[T] = []

    def __call__(self, value: T) -> int:
        number = self.of.get(value)
        if number is None:
            number = self.of[value] = len(self.at)
            self.at.append(value)
        return number


def explore(
    world: World,
    *,
    limit: int = 20_000_000,
    edit: Callable[[str], str] = lambda text: text,
    told: Callable[[int, int], None] | None = None,
    progress: bool = True,
) -> Result:
    """All states of a world, or up to ``limit``; the first violation ends it.

    Args:
        edit: changes the script's text: a mutant.
        told: hears now and then how many states are known, and how many of them are not explored yet.
        progress: if all states were seen, look for those in which a permit is lost.
    """
    gc.disable()  # millions of small objects, none of them in a cycle
    try:
        return Exploration(world, edit, progress=progress).run(limit, told)
    finally:
        gc.enable()


class Exploration:
    def __init__(self, world: World, edit: Callable[[str], str], *, progress: bool) -> None:
        self.world = world
        self.steps = Steps(world, edit)
        self.together = Together(self.steps)
        self.heads: Numbers[Heads] = Numbers()
        self.fencers: Numbers[tuple[Fencer | None, ...]] = Numbers()
        self.faults: Numbers[Faults] = Numbers()
        self.rows: Numbers[Row] = Numbers()
        self._canonical: dict[Row, int] = {}
        self._wrong: list[str] = []
        self._held: list[tuple[int, int]] = []
        self._local: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
        self._records: list[tuple[Any, Any, bool, bool]] = []
        self._executed: dict[Any, list[tuple[str, int, int, bool]]] = {}
        self._emptied: dict[tuple[int, int], int] = {}
        self._fewer: dict[tuple[int, int], int] = {}
        first = beginning(world)
        packed = self.pack(first.heads, first.fencers, first.faults, first.rows)
        self.number: dict[Packed, int] = {packed: 0}
        self.order = [packed]
        self.parent = array("i", [-1])
        self.progress = progress
        self.source, self.target = array("I"), array("I")

    # ---- numbers ---------------------------------------------------------------------------------

    def pack(self, heads: Heads, fencers: tuple[Fencer | None, ...], faults: Faults, rows: tuple[Row, ...]) -> Packed:
        return (self.heads(heads), self.fencers(fencers), self.faults(faults), *sorted(map(self.row, rows)))

    def row(self, row: Row) -> int:
        number = self._canonical.get(row)
        if number is None:
            number = self._canonical[row] = self._row(canonical(row))
        return number

    def _row(self, row: Row) -> int:
        number = self.rows(row)
        if number == len(self._held):
            self._held.append((held(row, CURRENT), held(row, OLD)))
            wrong = ""
            if row.alive and not row.lease.clearing and outstanding(row) > row.lease.word:
                wrong = f"a host has handed out {outstanding(row)}, and may hold {row.lease.word}: {row}"
            self._wrong.append(wrong)
            waiting = {r.place for r in row.requests if row.reply is None or not r.answerable}
            self._records.append((row.records[CURRENT], row.records[OLD], CURRENT in waiting, OLD in waiting))
        return number

    def state(self, packed: Packed) -> State:
        heads, fencers, faults, *rows = packed
        return State(
            self.heads.at[heads], self.fencers.at[fencers], tuple(self.rows.at[r] for r in rows), self.faults.at[faults]
        )

    def violated(self, packed: Packed) -> str:
        for place in (CURRENT, OLD):
            count = sum(self._held[r][place] for r in packed[3:])
            if count > self.world.budget:
                where = "the old server" if place else "the server"
                return f"{count} connections past their gates, of {self.world.budget}, at {where}"
        return next((self._wrong[r] for r in packed[3:] if self._wrong[r]), "")

    # ---- what follows ----------------------------------------------------------------------------

    def following(self, packed: Packed) -> Iterator[tuple[Any, bool, Packed]]:
        """(what, needs no fault, the state) of every step."""
        heads, fencers, faults, *rows = packed
        left = self.faults.at[faults]
        before = (heads, fencers)
        seen = None
        for i, row in enumerate(rows):
            if row == seen:
                continue  # alike
            seen = row
            rest = rows[:i] + rows[i + 1 :]
            steps = self._local.get((row, heads))
            if steps is None:
                steps = self._local[row, heads] = self._make_local(row, heads)
            for what, fault, new in steps:
                if fault < 0:
                    yield (what, row), True, (*before, faults, *_sorted(rest, new))
                elif left[fault]:
                    yield (what, row), False, (*before, self._with(faults, fault), *_sorted(rest, new))
            for place in (CURRENT, OLD):
                if not self._records[row][2 + place]:
                    continue
                key = (place, heads, row, *[self._records[r][place] for r in rest])
                done = self._executed.get(key)
                if done is None:
                    done = self._executed[key] = self._make_executed(place, heads, row, rest)
                for what, new_heads, new, made in done:
                    others = [self._empty(r, place) for r in rest] if made else rest
                    yield (what, row), True, (new_heads, fencers, faults, *_sorted(others, new))
        state = self.state(packed)
        for what, fault, new_heads_, new_fencers, new_rows in self.together.all(state.heads, state.fencers, state.rows):
            if fault == NO_FAULT or left[fault]:
                after = self.pack(new_heads_, new_fencers, left, new_rows)
                if fault != NO_FAULT:
                    after = (after[0], after[1], self._with(faults, fault), *after[3:])
                yield (what, -1), fault == NO_FAULT, after

    def _with(self, faults: int, fault: int) -> int:
        number = self._fewer.get((faults, fault))
        if number is None:
            left = self.faults.at[faults]
            number = self._fewer[faults, fault] = self.faults((*left[:fault], left[fault] - 1, *left[fault + 1 :]))
        return number

    def _make_local(self, row: int, heads: int) -> list[tuple[str, int, int]]:
        at = self.heads.at[heads]
        start = self.world.faults
        return [
            (step.what, step.fault, self._row(step.row))
            for step in self.steps.local(self.rows.at[row], at)
            if step.fault < 0 or start[step.fault]
        ]

    def _make_executed(self, place: int, heads: int, row: int, rest: list[int]) -> list[tuple[str, int, int, bool]]:
        at = self.heads.at[heads]
        others = tuple(self.rows.at[r].records[place] for r in rest)
        return [
            (step.what, self.heads(step.heads), self._row(step.row), step.heads.tables > at.tables)
            for step in self.steps.execute(self.rows.at[row], at, others, place)
        ]

    def _empty(self, row: int, place: int) -> int:
        """Another table was made there."""
        number = self._emptied.get((row, place))
        if number is None:
            old = self.rows.at[row]
            records = list(old.records)
            records[place] = (None,) * self.world.names
            number = self._emptied[row, place] = self.row(old._replace(records=tuple(records)))
        return number

    # ---- the walk --------------------------------------------------------------------------------

    def run(self, limit: int, told: Callable[[int, int], None] | None) -> Result:
        began = time.monotonic()
        number, order, parent, source, target = self.number, self.order, self.parent, self.source, self.target
        at, progress = 0, self.progress
        while at < len(order) and len(order) < limit:
            for _, ours, packed in self.following(order[at]):
                j = number.get(packed)
                if j is None:
                    j = number[packed] = len(order)
                    order.append(packed)
                    parent.append(at)
                    wrong = self.violated(packed)
                    if wrong:
                        return self._result(began, False, wrong, j)
                if progress and ours and j != at:
                    source.append(at)
                    target.append(j)
            at += 1
            if told is not None and at % 10_000 == 0:
                told(len(order), len(order) - at)
        complete = at >= len(order)
        result = self._result(began, complete, "", -1)
        if complete and progress:
            stuck = self._stuck()
            result.stuck = len(stuck)
            if stuck:
                result.trace = self.trace(stuck[0])
        return result

    def _result(self, began: float, complete: bool, violation: str, last: int) -> Result:
        depth, j = 0, len(self.order) - 1
        while (j := self.parent[j]) >= 0:
            depth += 1
        trace = self.trace(last) if last >= 0 else []
        took = time.monotonic() - began
        return Result(len(self.order), took, complete, self.steps.tables.calls, depth, violation, -1, trace)

    def trace(self, j: int) -> list[str]:
        """The steps from the beginning to a state. Hosts and names may change places on the way."""
        path = []
        while j >= 0:
            path.append(self.order[j])
            j = self.parent[j]
        path.reverse()
        lines = []
        for before, after in itertools.pairwise(path):
            what, row = next(what for what, _, packed in self.following(before) if packed == after)
            which = f"h{before[3:].index(row)} " if row >= 0 else ""
            lines.append(which + what)
        return lines

    def _stuck(self) -> list[int]:
        """States with a living host from which none can ever hold the whole budget again."""
        starts, sources = self._backwards()
        good, hopeful = bytearray(len(self.order)), bytearray(len(self.order))
        stack = array("I")
        whole = [row.alive and row.lease.slot >= 0 and self._owns(row) >= self.world.budget for row in self.rows.at]
        alive = [row.alive for row in self.rows.at]
        for j, packed in enumerate(self.order):
            hopeful[j] = any(alive[r] for r in packed[3:])
            if any(whole[r] for r in packed[3:]):
                good[j] = 1
                stack.append(j)
        while stack:
            j = stack.pop()
            for before in sources[starts[j] : starts[j + 1]]:
                if not good[before]:
                    good[before] = 1
                    stack.append(before)
        return [j for j in range(len(self.order)) if hopeful[j] and not good[j]]

    @staticmethod
    def _owns(row: Row) -> int:
        return sum(c.slot == row.lease.slot and c.place == CURRENT and c.stage == PAST for c in row.clients)

    def _backwards(self) -> tuple[array[int], array[int]]:
        """The states before state ``j`` are ``sources[starts[j] : starts[j + 1]]``."""
        starts = array("I", bytes(4 * (len(self.order) + 1)))
        for j in self.target:
            starts[j + 1] += 1
        for j in range(1, len(starts)):
            starts[j] += starts[j - 1]
        at = array("I", starts)
        sources = array("I", bytes(4 * len(self.source)))
        for before, j in zip(self.source, self.target, strict=True):
            sources[at[j]] = before
            at[j] += 1
        return starts, sources


def _sorted(rest: list[int], new: int) -> list[int]:
    if len(rest) == 1:
        other = rest[0]
        return [other, new] if other < new else [new, other]
    return sorted([*rest, new])


def describe(world: World, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    line = f"{world.name:58s} {result.states:9,d} states {result.seconds:7.1f} s  "
    trace = "".join(f"\n    {k:2d}. {text}" for k, text in enumerate(result.trace, 1))
    if result.violation:
        return f"{line}VIOLATED: {result.violation}{trace}"
    if result.stuck > 0:
        return f"{line}permits lost in {result.stuck:,} states{trace}"
    kept = ", nothing lost" if result.stuck == 0 else ""
    end = f"safe{kept}, exhausted" if result.complete else "safe so far, not exhausted"
    return f"{line}{end}; {result.depth} steps deep, the script ran {result.calls:,} times"
