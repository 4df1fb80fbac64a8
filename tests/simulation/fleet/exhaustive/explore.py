"""Breadth first through all states of a world, or up to a number of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from tests.simulation import walk
from tests.simulation.fleet.exhaustive.states import (
    COPY,
    CURRENT,
    GONE,
    OLD,
    PAST,
    TO_COME,
    UNNAMED,
    Client,
    Faults,
    Fencer,
    Heads,
    Record,
    Row,
    State,
    World,
    beginning,
    canonical,
)
from tests.simulation.fleet.exhaustive.steps import Steps, held, outstanding
from tests.simulation.fleet.exhaustive.together import Together
from tests.simulation.walk import Following, Packed, Result, Walk

T = TypeVar("T", bound=Hashable)


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


class View(NamedTuple):
    """What the duty reads of a row, and changes but for the lease."""

    records: tuple[tuple[Record | None, ...], ...]
    clients: tuple[Client, ...]
    fences: tuple[tuple[int, ...], ...]
    slot: int
    end: int


def view(row: Row) -> View:
    return View(row.records, row.clients, row.fences, row.lease.slot, row.lease.end if row.lease.slot >= 0 else 0)


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


class Exploration(Walk):
    """A state is packed as the numbers of heads, fencers, faults, and rows in the order of their numbers."""

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
        self._whole: list[bool] = []
        self._local: dict[tuple[int, int], list[tuple[str, int, int]]] = {}
        self._records: list[tuple[int, int, bool, bool]] = []
        self._there: Numbers[tuple[Record | None, ...]] = Numbers()
        self._views: Numbers[View] = Numbers()
        self._viewed: list[int] = []
        self._rounds: dict[Packed, list[tuple[str, int, int, tuple[int, ...]]]] = {}
        self._changed: dict[tuple[int, int], int] = {}
        self._executed: dict[Any, list[tuple[str, int, int, bool]]] = {}
        self._emptied: dict[tuple[int, int], int] = {}
        self._fewer: dict[tuple[int, int], int] = {}
        first = beginning(world)
        packed = self.pack(first.heads, first.fencers, first.faults, first.rows)
        super().__init__(packed, progress=progress)

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
            self._whole.append(row.alive and row.lease.slot >= 0 and self._owns(row) >= self.world.budget)
            self._wrong.append(self._broken(row))
            waiting = {r.place for r in row.requests if row.reply is None or not r.answerable}
            here, old = map(self._there, row.records[:COPY])
            self._records.append((here, old, CURRENT in waiting, OLD in waiting))
            self._viewed.append(self._views(view(row)))
        return number

    def _broken(self, row: Row) -> str:
        """What does not hold of one host."""
        lease, reply = row.lease, row.reply
        if row.alive and not lease.clearing and outstanding(row) > lease.word:
            return f"a host has handed out {outstanding(row)}, and may hold {lease.word}: {row}"
        over = reply is not None and reply.why == "fenced" and reply.slot == lease.slot and lease.end == TO_COME
        if over and self.world.stands and any(c.slot == lease.slot and c.stage == PAST for c in row.clients):
            return f"a host that has a connection is fenced, and its lease has not ended: {row}"
        for f, bits in enumerate(row.fences):
            if any(bits[c.slot] == GONE and c.before & 1 << f and c.stage in UNNAMED for c in row.clients):
                return f"a lease counts as gone, and the server had accepted a connection of it before: {row}"
        return ""

    @staticmethod
    def _owns(row: Row) -> int:
        return sum(c.slot == row.lease.slot and c.place == CURRENT and c.stage == PAST for c in row.clients)

    @property
    def calls(self) -> int:
        return self.steps.tables.calls

    def state(self, packed: Packed) -> State:
        heads, fencers, faults, *rows = packed
        return State(
            self.heads.at[heads], self.fencers.at[fencers], tuple(self.rows.at[r] for r in rows), self.faults.at[faults]
        )

    def violated(self, packed: Packed) -> str:
        current = old = 0
        for row in packed[3:]:
            if self._wrong[row]:
                return self._wrong[row]
            here, there = self._held[row]
            current += here
            old += there
        budget = self.world.budget
        if max(current, old) > budget:
            where = "the server" if current > budget else "the old server"
            return f"{max(current, old)} connections past their gates, of {budget}, at {where}"
        return ""

    # ---- what follows ----------------------------------------------------------------------------

    def following(self, packed: Packed) -> Iterator[Following]:
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
        key = (heads, fencers, *[self._viewed[r] for r in rows])
        rounds = self._rounds.get(key)
        if rounds is None:
            rounds = self._rounds[key] = self._make_rounds(packed)
        for what, new_heads, new_fencers, views in rounds:
            changed = sorted(map(self._change, rows, views))
            yield (what, -1), True, (new_heads, new_fencers, faults, *changed)
        if self._has_faults_of_servers:
            yield from self._servers(packed)

    @property
    def _has_faults_of_servers(self) -> bool:
        world = self.world
        return bool(world.flushes or world.lags or world.failovers or world.back)

    def _servers(self, packed: Packed) -> Iterator[Following]:
        state = self.state(packed)
        for what, fault, heads, fencers, rows in self.together.servers(state.heads, state.fencers, state.rows):
            if state.faults[fault]:
                after = self.pack(heads, fencers, state.faults, rows)
                yield (what, -1), False, (*after[:2], self._with(packed[2], fault), *after[3:])

    def _make_rounds(self, packed: Packed) -> list[tuple[str, int, int, tuple[int, ...]]]:
        """The steps of the duty read and change only a part of a row."""
        state = self.state(packed)
        return [
            (what, self.heads(heads), self.fencers(fencers), tuple(self._views(view(row)) for row in rows))
            for what, _, heads, fencers, rows in self.together.rounds(state.heads, state.fencers, state.rows)
        ]

    def _change(self, row: int, to: int) -> int:
        """That part of it has changed."""
        if self._viewed[row] == to:
            return row
        number = self._changed.get((row, to))
        if number is None:
            new = self._views.at[to]
            changed = self.rows.at[row]._replace(records=new.records, clients=new.clients, fences=new.fences)
            number = self._changed[row, to] = self.row(changed)
        return number

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

    def ends(self, packed: Packed) -> tuple[bool, bool]:
        """There is a living host; and one holds the whole budget."""
        return any(self.rows.at[r].alive for r in packed[3:]), any(self._whole[r] for r in packed[3:])

    def line(self, what: Any, before: Packed) -> str:
        words, row = what
        return f"h{before[3:].index(row)} {words}" if row >= 0 else words


def _sorted(rest: list[int], new: int) -> list[int]:
    if len(rest) == 1:
        other = rest[0]
        return [other, new] if other < new else [new, other]
    return sorted([*rest, new])


def describe(world: World, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    return walk.describe(world.name, result)
