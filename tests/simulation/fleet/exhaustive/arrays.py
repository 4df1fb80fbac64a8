"""Numbers in arrays: groups of places with the same values, what follows from each group, and sets of states."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints: TypeAlias = NDArray[np.int64]
States: TypeAlias = NDArray[np.uint64]


class Group(NamedTuple):
    """Which places have the same values.

    Attributes:
        first: a place of each group. of: the group of each place.
    """

    first: Ints
    of: Ints


def group(*columns: Ints) -> Group:
    key = columns[0].astype(np.int64)
    size = len(key)
    span = int(key.max()) + 1 if size else 1
    for column in columns[1:]:
        width = int(column.max()) + 1 if size else 1
        if span * width > 1 << 62:
            _, key = np.unique(key, return_inverse=True)
            span = int(key.max()) + 1
        key = key * width + column
        span *= width
    if span <= 16 * size + 1024:
        at = np.full(span, -1, np.int64)
        at[key] = np.arange(size)
        used = np.flatnonzero(at >= 0)
        first = at[used]
        at[used] = np.arange(len(used))
        return Group(first, at[key])
    _, first, of = np.unique(key, return_index=True, return_inverse=True)
    return Group(first, of)


def spread(starts: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """So many numbers from each of these on: whose they are, and the numbers."""
    of = np.repeat(np.arange(len(starts)), counts)
    return of, np.arange(len(of)) + np.repeat(starts - np.cumsum(counts) + counts, counts)


class Outcomes:
    """What follows from each of the keys that were asked for: so many rows of numbers of each."""

    def __init__(self, columns: int) -> None:
        self._known: dict[Any, int] = {}
        self._starts = array("q", [0])
        self._columns = [array("q") for _ in range(columns)]

    def spread(
        self, grouped: Group, keys: Iterable[Any], make: Callable[..., Iterable[tuple[int, ...]]]
    ) -> tuple[Ints, list[Ints]]:
        """For each outcome of each place: the place, and the columns."""
        known = self._known
        found = np.empty(len(grouped.first), np.int64)
        for i, key in enumerate(keys):
            number = known.get(key)
            if number is None:
                for made in make(*key):
                    for column, value in zip(self._columns, made, strict=True):
                        column.append(value)
                number = known[key] = len(self._starts) - 1
                self._starts.append(len(self._columns[0]))
            found[i] = number
        starts = np.array(self._starts)
        of = found[grouped.of]
        at, which = spread(starts[of], starts[of + 1] - starts[of])
        return at, [np.array(column)[which] for column in self._columns]


class Known:
    """A set of states: sorted arrays, each at least twice as long as the next."""

    def __init__(self) -> None:
        self._runs: list[States] = []

    def add(self, states: States) -> None:
        """They are sorted, and new."""
        runs = self._runs
        runs.append(states)
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs.append(merged(runs.pop(), runs.pop()))

    def new(self, states: States) -> States:
        """Those of these that are not in it."""
        for run in self._runs:
            states = states[run[np.minimum(np.searchsorted(run, states), len(run) - 1)] != states]
        return states

    def one(self) -> States:
        """All of them."""
        while len(self._runs) > 1:
            self._runs.append(merged(self._runs.pop(), self._runs.pop()))
        return self._runs[0]


def distinct(states: States) -> States:
    """Sorted. :func:`numpy.unique` takes ten times as long."""
    states.sort()
    first: NDArray[np.bool_] = np.append(True, states[1:] != states[:-1])
    return states[first]


def merged(one: States, other: States) -> States:
    """Of two sorted arrays without a common state."""
    if len(one) < len(other):
        one, other = other, one
    both = np.empty(len(one) + len(other), np.uint64)
    places = np.searchsorted(one, other) + np.arange(len(other))
    rest = np.ones(len(both), bool)
    rest[places] = False
    both[places], both[rest] = other, one
    return both
