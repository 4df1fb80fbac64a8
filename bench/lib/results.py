"""The results of a run of the benchmarks, as JSON has them, and the conclusions from them.

A *table* holds one quantity, measured for several *variants* (ours, the peers) at one or more *places*
(numbers of threads, latencies). Every round measured each variant once, so that the n-th values of all
variants were taken within seconds of each other. So a ratio is taken round by round, and its
median and spread are over the rounds. Nothing else in the benchmarks computes a ratio.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

SCHEMA = 1


class Spread(msgspec.Struct, frozen=True):
    """Median of the rounds' values, and the range of their middle eight tenths (of all of them if there are fewer
    than ten)."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        ordered = sorted(values)
        cut = len(ordered) // 10
        return cls(statistics.median(ordered), ordered[cut], ordered[-1 - cut], len(ordered))


class Cell(msgspec.Struct):
    """One variant at one place: a value for each round."""

    variant: str
    place: str
    values: list[float] = msgspec.field(default_factory=list)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.values)


class Table(msgspec.Struct, kw_only=True):
    """One quantity, measured for several variants at one or more places.

    Attributes:
        better: whether ``lower`` or ``higher`` values are better.
        reference: the variant that ratios are taken against; empty: none.
        axis: what the places are; empty if there is only one.
        chart: ``bars``, ``lines`` (places are numbers), or empty for none.
        log: whether the chart's axis of values is logarithmic.
    """

    key: str
    title: str
    unit: str
    better: Literal["lower", "higher"] = "lower"
    reference: str = ""
    axis: str = ""
    chart: Literal["bars", "lines", ""] = "bars"
    log: bool = False
    cells: list[Cell] = msgspec.field(default_factory=list)

    def cell(self, variant: str, place: str = "") -> Cell:
        """The cell; made if it is not there."""
        for cell in self.cells:
            if cell.variant == variant and cell.place == place:
                return cell
        made = Cell(variant, place)
        self.cells.append(made)
        return made

    def add(self, variant: str, value: float, place: object = "") -> None:
        self.cell(variant, str(place)).values.append(float(value))

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def places(self) -> list[str]:
        return list(dict.fromkeys(cell.place for cell in self.cells))

    def ratio(self, variant: str, place: str = "", against: str = "") -> Spread | None:
        """Variant over reference, round by round; None where one of them was not measured."""
        over = self._values(variant, place)
        under = self._values(against or self.reference, place)
        pairs = [a / b for a, b in zip(over, under, strict=False) if b]
        return Spread.of(pairs) if pairs else None

    def _values(self, variant: str, place: str) -> list[float]:
        return next((c.values for c in self.cells if c.variant == variant and c.place == place), [])


class Goal(msgspec.Struct, kw_only=True):
    """A goal and whether it was reached, judged by the median.

    Attributes:
        against: the variant it is a ratio against; empty: the value itself is judged.
        floors: variants that do the least there is to do, each with what it does. Where the goal is missed, they say
            whether it can be reached.
    """

    what: str
    table: str
    variant: str
    place: str = ""
    against: str = ""
    at_most: float | None = None
    at_least: float | None = None
    floors: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def bound(self) -> str:
        sign, value = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        return f"{sign} {value:g}" + (" ×" if self.against else "")


class Judged(msgspec.Struct):
    """A goal with its result."""

    goal: Goal
    found: Spread | None
    unit: str
    floors: list[tuple[Spread, str]] = msgspec.field(default_factory=list)
    """What was found for each floor that was measured, and what that does."""

    @property
    def met(self) -> bool | None:
        """None: not measured."""
        if self.found is None:
            return None
        if self.goal.at_most is not None and self.found.median > self.goal.at_most:
            return False
        return not (self.goal.at_least is not None and self.found.median < self.goal.at_least)


class Part(msgspec.Struct, kw_only=True):
    """One question and its answer.

    Attributes:
        facts: single findings without a comparison, as ``name: text``.
        error: why the part could not be measured; empty if it was.
    """

    key: str
    title: str
    text: str = ""
    tables: list[Table] = msgspec.field(default_factory=list)
    goals: list[Goal] = msgspec.field(default_factory=list)
    facts: dict[str, str] = msgspec.field(default_factory=dict)
    seconds: float = 0.0
    error: str = ""

    def table(self, key: str) -> Table:
        return next(table for table in self.tables if table.key == key)

    def judged(self) -> list[Judged]:
        return [self._judge(goal) for goal in self.goals]

    def _judge(self, goal: Goal) -> Judged:
        table = next((table for table in self.tables if table.key == goal.table), None)
        if table is None:
            return Judged(goal, None, "")
        unit = "×" if goal.against else table.unit
        floors = [(found, does) for name, does in goal.floors.items() if (found := _found(goal, table, name))]
        return Judged(goal, _found(goal, table, goal.variant), unit, floors)


def _found(goal: Goal, table: Table, variant: str) -> Spread | None:
    if goal.against:
        return table.ratio(variant, goal.place, goal.against)
    values = table._values(variant, goal.place)
    return Spread.of(values) if values else None


class Run(msgspec.Struct, kw_only=True):
    """A whole run: what ``make bench`` writes and everything else is made from."""

    when: str
    version: str
    revision: str
    quick: bool
    machine: dict[str, str]
    software: dict[str, str]
    parts: list[Part] = msgspec.field(default_factory=list)
    seconds: float = 0.0
    schema: int = SCHEMA

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def load(path: Path) -> Run:
    """Read what :meth:`Run.save` wrote.

    Raises:
        msgspec.ValidationError: it is something else.
    """
    return msgspec.json.decode(path.read_bytes(), type=Run)
