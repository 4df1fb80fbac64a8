"""Virtual time: events in the order of their times, and nothing happens in between."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """A heap of events. Equal times keep the order in which they were asked for."""

    __slots__ = ("_heap", "_order", "now")

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._order = 0

    def at(self, when: float, call: Callable[..., Any], *args: Any) -> None:
        """Call at this time, or now if that has passed."""
        self._order += 1
        heapq.heappush(self._heap, (max(self.now, when), self._order, call, args))

    def after(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        self.at(self.now + seconds, call, *args)

    def step(self, until: float) -> bool:
        """Do the next event; False if there is none before ``until``, which it then is."""
        heap = self._heap
        if not heap or heap[0][0] > until:
            self.now = until
            return False
        self.now, _, call, args = heapq.heappop(heap)
        call(*args)
        return True
