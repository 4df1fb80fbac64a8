"""An event loop of virtual time: no selector, no thread, and one callback at a time."""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

from tests.simulation.clock import Clock


class Loop(asyncio.BaseEventLoop):
    """asyncio's own bookkeeping of callbacks, timers, futures and tasks; who drives it decides what happens next."""

    _ready: Any
    _scheduled: Any

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._virtual = clock
        self.set_exception_handler(lambda loop, context: None)  # of tasks that are thrown away with their loop

    def time(self) -> float:
        return self._virtual.now

    def _write_to_self(self) -> None:
        """Nothing sleeps that would have to be woken."""

    def busy(self) -> bool:
        """Whether there is something to do at this time."""
        timers = self._scheduled
        while timers and (timers[0]._cancelled or timers[0]._when <= self._virtual.now):
            timer = heapq.heappop(timers)
            timer._scheduled = False
            if not timer._cancelled:
                self._ready.append(timer)
        return bool(self._ready)

    def due(self) -> float:
        """When there is something to do next."""
        return float(self._scheduled[0]._when) if self._scheduled else float("inf")

    def turn(self) -> None:
        """The next callback."""
        handle = self._ready.popleft()
        if not handle._cancelled:
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(None)

    def close(self) -> None:
        """As it is when a loop is closed in the middle of its work."""
        self._ready.clear()
        self._scheduled.clear()
        super().close()
