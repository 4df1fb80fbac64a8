"""Breadth first through all states of a world."""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Callable

import msgspec

from tests.simulation.exhaustive import real
from tests.simulation.exhaustive.packing import Packed, Packer
from tests.simulation.exhaustive.states import State, World, beginning, violated
from tests.simulation.exhaustive.steps import steps


class Result(msgspec.Struct):
    """What an exploration came to."""

    states: int
    seconds: float
    complete: bool
    violation: str = ""
    stuck: int = 0
    trace: list[str] = msgspec.field(default_factory=list)


def explore(world: World, *, limit: int = 20_000_000, told: Callable[[int, int], None] | None = None) -> Result:
    """All states of a world, or up to ``limit``; the first violation ends it.

    Args:
        told: hears now and then how many states are known, and how many of them are not explored yet.
    """
    gc.disable()  # millions of small objects, none of them in a cycle
    real.forget()
    try:
        return _Exploration(world).run(limit, told)
    finally:
        real.forget()
        gc.enable()


class _Exploration:
    def __init__(self, world: World) -> None:
        self.world = world
        self.packer = Packer()
        first = self.packer.pack(beginning(world))
        self.number: dict[Packed, int] = {first: 0}
        self.order = [first]
        self.parent = array("l", [-1])
        # Steps that are no faults, for the way back: from, to.
        self.source, self.target = array("L"), array("L")

    def state(self, j: int) -> State:
        return self.packer.unpack(self.order[j], self.world.members)

    def run(self, limit: int, told: Callable[[int, int], None] | None) -> Result:
        began = time.monotonic()
        number, order, pack, world = self.number, self.order, self.packer.pack, self.world
        at = 0
        while at < len(order) and len(order) < limit:
            for _, ours, following in steps(world, self.state(at)):
                packed = pack(following)
                j = number.get(packed)
                if j is None:
                    j = number[packed] = len(order)
                    order.append(packed)
                    self.parent.append(at)
                    wrong = violated(following)
                    if wrong:
                        return Result(len(order), time.monotonic() - began, False, wrong, 0, self.trace(j))
                if ours and j != at:
                    self.source.append(at)
                    self.target.append(j)
            at += 1
            if told is not None and at % 10_000 == 0:
                told(len(order), len(order) - at)
        complete = at >= len(order)
        stuck = self._stuck() if complete else []
        trace = self.trace(stuck[0]) if stuck else []
        return Result(len(order), time.monotonic() - began, complete, "", len(stuck), trace)

    def trace(self, j: int) -> list[str]:
        """The steps from the beginning to a state. Members may change places on the way."""
        lines = []
        while (before := self.parent[j]) >= 0:
            lines.append(
                next(
                    what
                    for what, _, following in steps(self.world, self.state(before))
                    if self.packer.pack(following) == self.order[j]
                )
            )
            j = before
        return lines[::-1]

    def _stuck(self) -> list[int]:
        """States with a living member from which nobody can ever hold the whole budget again."""
        starts, sources = self._backwards()
        good = bytearray(len(self.order))
        hopeful = bytearray(len(self.order))
        stack = array("L")
        for j in range(len(self.order)):
            state = self.state(j)
            hopeful[j] = any(p.state in "RS" for p in state.processes)
            supervisor = state.supervisor
            if supervisor is not None and any(p.state == "R" and p.live >= supervisor.budget for p in state.processes):
                good[j] = 1
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
        starts = array("L", bytes(8 * (len(self.order) + 1)))
        for j in self.target:
            starts[j + 1] += 1
        for j in range(1, len(starts)):
            starts[j] += starts[j - 1]
        at = array("L", starts)
        sources = array("L", bytes(8 * len(self.source)))
        for before, j in zip(self.source, self.target, strict=True):
            sources[at[j]] = before
            at[j] += 1
        return starts, sources


def describe(world: World, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    line = f"{world.name:52s} {result.states:9,d} states {result.seconds:7.1f} s  "
    if result.violation:
        return line + f"VIOLATED: {result.violation}\n" + "\n".join(f"    {text}" for text in result.trace)
    if result.stuck:
        return line + f"permits lost in {result.stuck} states\n" + "\n".join(f"    {text}" for text in result.trace)
    return line + ("safe, nothing lost, exhausted" if result.complete else "safe so far, not exhausted")
