"""Virtual time: events in the order of their times, and nothing happens in between."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Clock:
    """A heap of events. Equal times keep the order in which they were asked for."""

    __slots__ = ("_heap", "_order", "now", "steps")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = 0
        self.steps = 0
        """How many events there were."""

    def at(self, when: float, call: Callable[..., Any], *args: Any) -> None:
        """Call at this time, or now if that has passed."""
        self._order = order = self._order + 1
        heappush(self._heap, (max(self.now, when), order, call, args))

    def after(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        self._order = order = self._order + 1
        heappush(self._heap, (self.now + max(0.0, seconds), order, call, args))

    def step(self, until: float) -> bool:
        """Do the next event; False if there is none before ``until``, which it then is."""
        heap = self._heap
        if not heap or heap[0][0] > until:
            self.now = until
            return False
        self.now, _, call, args = heappop(heap)
        call(*args)
        self.steps += 1
        return True

    def until(self, when: float, check: Callable[[], None]) -> None:
        """Do all events up to a time, which it then is, and check after each."""
        heap, take = self._heap, heappop
        while heap and heap[0][0] <= when:
            self.now, _, call, args = take(heap)
            call(*args)
            self.steps += 1
            check()
        self.now = when
