"""The same walk, a layer at a time: for worlds of a hundred million states.

A state is one number of 64 bits, exactly: the number of its heads, fencers and faults, and the numbers of its rows.
What follows is asked of the same code as in :mod:`explore`, once for all states of a layer that agree in what a step
reads; numpy does the rest. Nothing is kept of a state but its number, in sorted arrays; a trace is found backwards,
layer by layer, and what is lost for ever by a second walk, which keeps the steps: eight bytes of each.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.simulation.fleet.exhaustive.arrays import Ints, Known, Outcomes, States, distinct, group, spread
from tests.simulation.fleet.exhaustive.explore import Exploration, Numbers
from tests.simulation.fleet.exhaustive.states import CURRENT, OLD, World
from tests.simulation.walk import Packed, Result

CHUNK = 1 << 21
"""States that are looked at together."""

FEW = 60_000_000
"""Up to so many states, the walk keeps the steps too. They take eight gigabytes."""

ROW = {1: 24, 2: 22, 3: 15}
"""Bits for the number of a row, by how many rows a state has; the rest of 64 is for what they share."""


class Following(NamedTuple):
    """Steps: from which place in the states given, whether they need no fault, and to which state."""

    source: Ints
    ours: bool
    state: States


class Layers:
    """One walk."""

    def __init__(self, world: World, edit: Callable[[str], str] = lambda text: text) -> None:
        self.world = world
        self.walk = Exploration(world, edit, progress=False)
        self.hosts = world.hosts
        self.bits = ROW[world.hosts]
        self.frames: Numbers[tuple[int, int, int]] = Numbers()
        """Heads, fencers and faults of a state."""
        self._local = Outcomes(2)
        self._executed = Outcomes(3)
        self._rounds = Outcomes(2 + world.hosts)
        self._servers = Outcomes(4)
        self._maps: dict[str, dict[Any, int]] = {}
        self.known = Known()
        self.layers = [self._pack_one(self.walk.order[0])]
        self.known.add(self.layers[0])

    # ---- numbers -----------------------------------------------------------------------------------

    def _pack_one(self, packed: Packed) -> States:
        frame = np.array([self.frames(packed[:3])])
        return self._pack(frame, [np.array([row]) for row in packed[3:]])

    def _pack(self, frame: Ints, rows: list[Ints]) -> States:
        assert len(self.walk.rows.at) <= 1 << self.bits, "more rows than have a number"
        assert len(self.frames.at) <= 1 << (64 - self.bits * self.hosts), "more frames than have a number"
        if len(rows) == 2:
            rows = [np.minimum(*rows), np.maximum(*rows)]
        elif len(rows) > 2:
            rows = list(np.sort(np.stack(rows), axis=0))
        states = frame.astype(np.uint64)
        for row in rows:
            states = states << np.uint64(self.bits) | row.astype(np.uint64)
        return states

    def _unpack(self, states: States) -> tuple[Ints, list[Ints]]:
        rows = []
        for _ in range(self.hosts):
            rows.append((states & np.uint64((1 << self.bits) - 1)).astype(np.int64))
            states = states >> np.uint64(self.bits)
        return states.astype(np.int64), rows[::-1]

    def _unpack_one(self, state: np.uint64) -> Packed:
        frame, rows = self._unpack(np.array([state]))
        return (*self.frames.at[int(frame[0])], *(int(row[0]) for row in rows))

    def _mapped(self, name: str, make: Callable[..., int], *columns: Ints) -> Ints:
        """A function of numbers, called once for each of its arguments."""
        known = self._maps.setdefault(name, {})
        grouped = group(*columns)
        found = np.empty(len(grouped.first), np.int64)
        for i, key in enumerate(zip(*(column[grouped.first].tolist() for column in columns), strict=True)):
            number = known.get(key)
            if number is None:
                number = known[key] = make(*key)
            found[i] = number
        return found[grouped.of]

    # ---- what follows --------------------------------------------------------------------------------

    def following(self, states: States) -> Iterator[Following]:
        """All steps from these."""
        frame, rows = self._unpack(states)
        shared = np.array(self.frames.at)[frame]
        heads, fencers, faults = shared[:, 0], shared[:, 1], shared[:, 2]
        records = np.array(self.walk._records)
        for i in range(self.hosts):
            places = np.flatnonzero(rows[i] != rows[i - 1]) if i else np.arange(len(states))
            rest = rows[:i] + rows[i + 1 :]
            yield from self._local_steps(places, frame, heads, faults, rows[i], rest)
            for place in (CURRENT, OLD):
                waiting = places[records[rows[i][places], 2 + place] != 0]
                if len(waiting):
                    yield self._executions(waiting, place, frame, heads, rows[i], rest, records)
        yield self._duty(frame, heads, fencers, faults, rows)
        if self.walk._has_faults_of_servers:
            yield from self._faults_of_servers(frame, heads, fencers, faults, rows)

    def _local_steps(
        self, places: Ints, frame: Ints, heads: Ints, faults: Ints, row: Ints, rest: list[Ints]
    ) -> Iterator[Following]:
        walk = self.walk
        grouped = group(heads[places], row[places])
        first = places[grouped.first]
        keys = zip(row[first].tolist(), heads[first].tolist(), strict=True)
        at, (fault, new) = self._local.spread(
            grouped, keys, lambda row, heads: [(fault, new) for _, fault, new in walk._make_local(row, heads)]
        )
        at = places[at]
        ours = fault < 0
        calm = at[ours]
        yield Following(calm, True, self._pack(frame[calm], [new[ours], *(r[calm] for r in rest)]))
        left = np.array(walk.faults.at)
        possible = np.flatnonzero(~ours)
        possible = possible[left[faults[at[possible]], fault[possible]] > 0]
        if len(possible):
            new, fault, at = new[possible], fault[possible], at[possible]
            yield Following(at, False, self._pack(self._fewer(frame[at], fault), [new, *(r[at] for r in rest)]))

    def _fewer(self, frame: Ints, fault: Ints) -> Ints:
        """This fault has happened."""

        def fewer(frame: int, fault: int) -> int:
            heads, fencers, faults = self.frames.at[frame]
            return self.frames((heads, fencers, self.walk._with(faults, fault)))

        return self._mapped("fewer", fewer, frame, fault)

    def _executions(
        self, places: Ints, place: int, frame: Ints, heads: Ints, row: Ints, rest: list[Ints], records: Ints
    ) -> Following:
        walk = self.walk
        others = [records[r[places], place] for r in rest]
        grouped = group(heads[places], row[places], *others)
        first = places[grouped.first]
        there = walk._there.at

        def make(_: int, heads: int, row: int, *others: int) -> list[tuple[int, int, int]]:
            at = walk.heads.at[heads]
            found = walk.steps.execute(walk.rows.at[row], at, tuple(there[o] for o in others), place)
            return [(walk.heads(s.heads), walk._row(s.row), int(s.heads.tables > at.tables)) for s in found]

        keys = zip(
            [place] * len(first), heads[first].tolist(), row[first].tolist(),
            *(o[grouped.first].tolist() for o in others), strict=True,
        )  # fmt: skip
        at, (new_heads, new, made) = self._executed.spread(grouped, keys, make)
        at = places[at]
        others = [r[at] for r in rest]
        emptied = np.flatnonzero(made)
        if len(emptied):
            for other in others:
                other[emptied] = self._mapped(f"emptied {place}", lambda r: walk._empty(r, place), other[emptied])
        return Following(at, True, self._pack(self._headed(frame[at], new_heads), [new, *others]))

    def _headed(self, frame: Ints, heads: Ints) -> Ints:
        return self._mapped(
            "headed", lambda frame, heads: self.frames((heads, *self.frames.at[frame][1:])), frame, heads
        )

    def _framed(self, heads: Ints, fencers: Ints, faults: Ints) -> Ints:
        return self._mapped("framed", lambda *shared: self.frames(shared), heads, fencers, faults)

    def _duty(self, frame: Ints, heads: Ints, fencers: Ints, faults: Ints, rows: list[Ints]) -> Following:
        walk = self.walk
        viewed = np.array(walk._viewed)
        views = [viewed[row] for row in rows]
        grouped = group(heads, fencers, *views)
        first = grouped.first
        keys = zip(
            heads[first].tolist(), fencers[first].tolist(), *(v[first].tolist() for v in views), strict=True
        )  # fmt: skip
        example = iter(zip(*(row[first].tolist() for row in rows), strict=True))
        examples = dict(zip(keys, example, strict=True))

        def make(heads: int, fencers: int, *views: int) -> list[tuple[int, ...]]:
            rows = examples[heads, fencers, *views]
            found = walk._make_rounds((heads, fencers, 0, *rows))
            return [(new_heads, new_fencers, *views) for _, new_heads, new_fencers, views in found]

        at, (new_heads, new_fencers, *views) = self._rounds.spread(grouped, examples, make)
        changed = [self._mapped("changed", walk._change, row[at], view) for row, view in zip(rows, views, strict=True)]
        return Following(at, True, self._pack(self._framed(new_heads, new_fencers, faults[at]), changed))

    def _faults_of_servers(
        self, frame: Ints, heads: Ints, fencers: Ints, faults: Ints, rows: list[Ints]
    ) -> Iterator[Following]:
        """What happens to a row does not depend on another one, and what may happen on none."""
        walk = self.walk

        def steps(heads: int, fencers: int, *rows: int) -> list[Any]:
            at = tuple(walk.rows.at[row] for row in rows)
            return list(walk.together.servers(walk.heads.at[heads], walk.fencers.at[fencers], at))

        def make(heads: int, fencers: int) -> list[tuple[int, int, int, int]]:
            return [
                (n, fault, walk.heads(new_heads), walk.fencers(new_fencers))
                for n, (_, fault, new_heads, new_fencers, _) in enumerate(steps(heads, fencers))
            ]

        grouped = group(heads, fencers)
        first = grouped.first
        keys = zip(heads[first].tolist(), fencers[first].tolist(), strict=True)
        at, (which, fault, new_heads, new_fencers) = self._servers.spread(grouped, keys, make)
        left = np.array(walk.faults.at)
        possible = np.flatnonzero(left[faults[at], fault] > 0)
        if not len(possible):
            return
        at, which, fault = at[possible], which[possible], fault[possible]
        new = [
            self._mapped(
                "servers",
                lambda heads, fencers, row, n: walk.row(steps(heads, fencers, row)[n][4][0]),
                heads[at], fencers[at], row[at], which,
            )
            for row in rows
        ]  # fmt: skip
        after = self._fewer(self._framed(new_heads[possible], new_fencers[possible], faults[at]), fault)
        yield Following(at, False, self._pack(after, new))

    # ---- what must hold ------------------------------------------------------------------------------

    def _violating(self, states: States) -> States:
        _, rows = self._unpack(states)
        held = np.array(self.walk._held)
        wrong = np.array([bool(text) for text in self.walk._wrong])
        bad = np.zeros(len(states), bool)
        counted = np.zeros((len(states), 2), np.int64)
        for row in rows:
            bad |= wrong[row]
            counted += held[row]
        bad |= counted.max(axis=1) > self.world.budget
        return states[bad]

    def _ends(self, states: States) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """There is a living host; and one holds the whole budget."""
        _, rows = self._unpack(states)
        alive = np.array([row.alive for row in self.walk.rows.at])
        whole = np.array(self.walk._whole)
        hopeful, good = np.zeros(len(states), bool), np.zeros(len(states), bool)
        for row in rows:
            hopeful |= alive[row]
            good |= whole[row]
        return hopeful, good

    # ---- the walk ------------------------------------------------------------------------------------

    def run(self, limit: int, told: Callable[[int, int, int], None] | None = None, *, progress: bool = True) -> Result:
        """Walk, until no state is new, or one is wrong, or there are so many.

        Args:
            told: hears now and then how many states are known, in how many layers, and how many of the last were seen.
            progress: look, if all states were seen and are :data:`FEW`, for those in which a permit is lost.
        """
        began = time.monotonic()
        total, result = 1, Result(1, 0.0, complete=False)
        while len(self.layers[-1]) and total < limit:
            layer, fresh = self.layers[-1], np.empty(0, np.uint64)
            for start in range(0, len(layer), CHUNK):
                found = [step.state for step in self.following(layer[start : start + CHUNK])]
                new = self.known.new(distinct(np.concatenate(found)))
                fresh = distinct(np.concatenate([fresh, new])) if len(fresh) else new
                if told is not None:
                    told(total + len(fresh), len(self.layers), len(layer) - start)
            self.layers.append(fresh)
            total += len(fresh)
            if len(fresh):
                self.known.add(fresh)
            bad = self._violating(fresh)
            if len(bad):
                result.violation = self.walk.violated(self._unpack_one(bad[0]))
                result.trace = self.trace(bad[0], len(self.layers) - 1)
                break
        result.states, result.calls = total, self.walk.calls
        result.complete = not len(self.layers[-1])
        result.depth = len(self.layers) - 1 - result.complete
        result.seconds = time.monotonic() - began
        if told is not None:
            told(total, result.depth, 0)
        if result.complete and progress and total <= FEW:
            stuck = self._stuck(told)
            result.stuck = len(stuck)
            if len(stuck):
                depth = next(d for d, layer in enumerate(self.layers) if stuck[0] in layer)
                result.trace = self.trace(stuck[0], depth)
        result.seconds = time.monotonic() - began
        return result

    def trace(self, state: np.uint64, depth: int) -> list[str]:
        """The steps from the beginning to a state of this layer."""
        path = [state]
        for layer in reversed(self.layers[:depth]):
            path.append(self._before(path[-1], layer))
        packed = [self._unpack_one(each) for each in reversed(path)]
        walk = self.walk
        return [
            next(walk.line(what, before) for what, _, after in walk.following(before) if after == wanted)
            for before, wanted in itertools.pairwise(packed)
        ]

    def _before(self, state: np.uint64, layer: States) -> np.uint64:
        for start in range(0, len(layer), CHUNK):
            states = layer[start : start + CHUNK]
            for step in self.following(states):
                found = np.flatnonzero(step.state == state)
                if len(found):
                    return states[step.source[found[0]]]  # type: ignore[no-any-return]
        raise AssertionError("no state of the layer before leads to this one")

    def _stuck(self, told: Callable[[int, int, int], None] | None) -> States:
        """States from which the end that is hoped for cannot be reached by steps that are no faults."""
        known = self.known.one()
        sources, targets = [], []
        for depth, layer in enumerate(self.layers):
            for start in range(0, len(layer), CHUNK):
                states = layer[start : start + CHUNK]
                at = np.searchsorted(known, states)
                for step in self.following(states):
                    if step.ours:
                        sources.append(at[step.source].astype(np.uint32))
                        targets.append(np.searchsorted(known, step.state).astype(np.uint32))
                if told is not None:
                    told(len(known), depth, len(layer) - start)
        to = np.concatenate(targets)
        before = np.concatenate(sources)[np.argsort(to, kind="stable")]
        counts = np.bincount(to, minlength=len(known))
        starts = np.cumsum(counts) - counts
        hopeful, good = self._ends(known)
        reached = np.flatnonzero(good)
        while len(reached):
            _, which = spread(starts[reached], counts[reached])
            reached = np.unique(before[which[~good[before[which]]]])
            good[reached] = True
        stuck: NDArray[np.bool_] = hopeful & ~good
        return known[stuck]


def explore(
    world: World,
    *,
    limit: int = 1_000_000_000,
    edit: Callable[[str], str] = lambda text: text,
    told: Callable[[int, int, int], None] | None = None,
    progress: bool = True,
) -> Result:
    """As :func:`tests.simulation.fleet.exhaustive.explore`, but to the end."""
    gc.disable()
    try:
        return Layers(world, edit).run(limit, told, progress=progress)
    finally:
        gc.enable()
