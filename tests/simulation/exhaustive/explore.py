"""All states of a world of one host."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

from tests.simulation import walk
from tests.simulation.exhaustive import real
from tests.simulation.exhaustive.packing import Packer
from tests.simulation.exhaustive.states import State, World, beginning, violated
from tests.simulation.exhaustive.steps import steps
from tests.simulation.walk import Following, Packed, Result, Walk


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


class _Exploration(Walk):
    def __init__(self, world: World) -> None:
        self.world = world
        self.packer = Packer()
        super().__init__(self.packer.pack(beginning(world)))

    def state(self, packed: Packed) -> State:
        return self.packer.unpack(packed, self.world.members)

    def following(self, packed: Packed) -> Iterator[Following]:
        pack = self.packer.pack
        for what, ours, state in steps(self.world, self.state(packed)):
            yield what, ours, pack(state)

    def violated(self, packed: Packed) -> str:
        return violated(self.state(packed))

    def ends(self, packed: Packed) -> tuple[bool, bool]:
        """There is a living member; and one holds the whole budget."""
        state = self.state(packed)
        supervisor = state.supervisor
        whole = supervisor is not None and any(p.state == "R" and p.live >= supervisor.budget for p in state.processes)
        return any(p.state in "RS" for p in state.processes), whole


def describe(world: World, result: Result) -> str:
    """One line, and a trace if something is wrong."""
    return walk.describe(world.name, result)
