"""Breadth first through all states that can follow from one, or up to a number of them: the frame of both exhaustive
walks, of one host (:mod:`tests.simulation.exhaustive`) and of a fleet (:mod:`tests.simulation.fleet.exhaustive`).

A walk says what its states are, what follows from one, and what must hold in each. The first state found in which that
does not hold has a shortest trace.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

Packed = tuple[Any, ...]
"""A state as a small tuple, the same for states that differ in nothing that matters."""

Following = tuple[Any, bool, Packed]
"""What happens, whether it needs no fault, and the state after it."""


class Result(msgspec.Struct):
    """What a walk came to.

    Attributes:
        complete: all states were seen. depth: steps to the farthest one.
        calls: how often the code under test ran, if that was counted.
        violation: what does not hold in the last state; empty: nothing was found.
        reached: the last state is the one that was looked for.
        stuck: states from which something is lost for ever; -1: not looked for.
        trace: the steps to the last state, if one of these was found.
    """

    states: int
    seconds: float
    complete: bool
    calls: int = 0
    depth: int = 0
    violation: str = ""
    reached: bool = False
    stuck: int = -1
    trace: list[str] = msgspec.field(default_factory=list)


class Walk(ABC):
    """See the module's docstring. Subclasses say what a world is.

    Args:
        first: the state that it begins with.
        progress: remember which state comes from which, to look for those in which something is lost for ever.
    """

    def __init__(self, first: Packed, *, progress: bool = True) -> None:
        self.progress = progress
        self.begin(first)

    def begin(self, first: Packed) -> None:
        """Forget all states, and begin with this one."""
        self.number: dict[Packed, int] = {first: 0}
        self.order = [first]
        self.parent = array("i", [-1])
        self.source, self.target = array("I"), array("I")
        """Steps that are no faults, for the way back."""

    # ---- what a world is ---------------------------------------------------------------------------

    @abstractmethod
    def following(self, packed: Packed) -> Iterator[Following]:
        """All steps from a state."""

    @abstractmethod
    def violated(self, packed: Packed) -> str:
        """What does not hold in it; empty: all does."""

    @abstractmethod
    def ends(self, packed: Packed) -> tuple[bool, bool]:
        """Whether an end that is hoped for must be within reach from here, and whether this is one."""

    def line(self, what: Any, before: Packed) -> str:
        """A step in a trace."""
        return str(what)

    @property
    def calls(self) -> int:
        """How often the code under test ran; 0: not counted."""
        return 0

    # ---- the walk ----------------------------------------------------------------------------------

    def run(
        self,
        limit: int,
        told: Callable[[int, int], None] | None = None,
        goal: Callable[[Packed], bool] | None = None,
    ) -> Result:
        """Walk.

        Args:
            limit: of states.
            told: hears now and then how many states are known, and how many of them have not been looked at.
            goal: the state that is looked for.
        """
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
                    if wrong or (goal is not None and goal(packed)):
                        return self._result(began, violation=wrong, reached=not wrong, trace=self.trace(j))
                if progress and ours and j != at:
                    source.append(at)
                    target.append(j)
            at += 1
            if told is not None and at % 10_000 == 0:
                told(len(order), len(order) - at)
        result = self._result(began, complete=at >= len(order))
        if result.complete and progress:
            stuck = self._stuck()
            result.stuck = len(stuck)
            if stuck:
                result.trace = self.trace(stuck[0])
        return result

    def _result(self, began: float, *, complete: bool = False, **found: Any) -> Result:
        depth, j = 0, len(self.order) - 1
        while (j := self.parent[j]) >= 0:
            depth += 1
        return Result(len(self.order), time.monotonic() - began, complete, self.calls, depth, **found)

    def trace(self, j: int) -> list[str]:
        """The steps from the beginning to a state. What is alike may change places on the way."""
        path = []
        while j >= 0:
            path.append(self.order[j])
            j = self.parent[j]
        path.reverse()
        return [
            next(self.line(what, before) for what, _, packed in self.following(before) if packed == after)
            for before, after in itertools.pairwise(path)
        ]

    def _stuck(self) -> list[int]:
        """States from which the end that is hoped for cannot be reached by steps that are no faults."""
        starts, sources = self._backwards()
        good, hopeful = bytearray(len(self.order)), bytearray(len(self.order))
        stack = array("I")
        for j, packed in enumerate(self.order):
            hopeful[j], good[j] = self.ends(packed)
            if good[j]:
                stack.append(j)
        while stack:
            j = stack.pop()
            for before in sources[starts[j] : starts[j + 1]]:
                if not good[before]:
                    good[before] = 1
                    stack.append(before)
        return [j for j in range(len(self.order)) if hopeful[j] and not good[j]]

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


def describe(name: str, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    line = f"{name:58s} {result.states:9,d} states {result.seconds:7.1f} s  "
    trace = "".join(f"\n    {k:2d}. {text}" for k, text in enumerate(result.trace, 1))
    if result.violation:
        return f"{line}VIOLATED: {result.violation}{trace}"
    if result.stuck > 0:
        return f"{line}permits lost in {result.stuck:,} states{trace}"
    kept = ", nothing lost" if result.stuck == 0 else ""
    end = f"safe{kept}, exhausted" if result.complete else "safe so far, not exhausted"
    ran = f", the code ran {result.calls:,} times" if result.calls else ""
    return f"{line}{end}; {result.depth} steps deep{ran}"
