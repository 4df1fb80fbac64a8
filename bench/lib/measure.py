"""Measuring in turns: every round runs each contestant once, in another order each time.

Machines drift: they heat up, neighbours come and go. Contestants that take turns within a second drift
together, and a ratio of two of them holds although neither figure does. So nothing here
measures one contestant to the end before the next one begins.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


def turns(names: Sequence[T], rounds: int, *, collect: bool = True) -> Iterator[tuple[int, T]]:
    """(round, contestant): each contestant once in every round. Each round begins with another contestant, and
    every second round runs backwards.

    Args:
        collect: collect garbage before each turn, so that no contestant pays for another's.
    """
    for number in range(rounds):
        shift = number % len(names)
        order = [*names[shift:], *names[:shift]]
        for name in reversed(order) if number % 2 else order:
            if collect:
                gc.collect()
            yield number, name


def blocks(contestants: Mapping[str, Callable[[int], None]], rounds: int, *, size: int) -> Iterator[tuple[str, float]]:
    """(contestant, seconds per call) for short blocks of ``size`` calls. Only short blocks in quick alternation can
    tell a difference of a few percent from the machine's noise."""
    clock = time.perf_counter
    for function in contestants.values():
        function(size)
    gc.collect()
    for _, name in turns(list(contestants), rounds, collect=False):
        function = contestants[name]
        start = clock()
        function(size)
        yield name, (clock() - start) / size


def percentile(values: Sequence[float], part: float) -> float:
    """The value that so large a part (0.99) of the *sorted* values does not exceed; NaN without values."""
    if not values:
        return math.nan
    return values[min(len(values) - 1, max(0, math.ceil(part * len(values)) - 1))]


PERCENTILES: Mapping[str, float] = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
