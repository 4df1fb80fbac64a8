"""Wakes one waiting task, from any thread. What :class:`poolmgr.member.waker.Parker` is for threads."""

from __future__ import annotations

import asyncio


class TaskParker:
    """For the task that makes it. A ring before the wait is not lost."""

    __slots__ = ("__weakref__", "_future", "_loop", "_rung")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._future: asyncio.Future[None] | None = None
        self._rung = False

    def ring(self) -> None:
        """Does not block. A loop that is closed has no task left to wake."""
        if asyncio._get_running_loop() is self._loop:
            self._ring()
            return
        try:
            self._loop.call_soon_threadsafe(self._ring)
        except RuntimeError:
            pass

    def _ring(self) -> None:
        self._rung = True
        self._settle()

    def _settle(self) -> None:
        future = self._future
        if future is not None and not future.done():
            future.set_result(None)

    async def wait(self, seconds: float) -> bool:
        """Wait until it rings, or for so many seconds; whether it rang."""
        if not self._rung:
            self._future = future = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._settle)
            try:
                await future
            finally:
                self._future = None
                timer.cancel()
        rung, self._rung = self._rung, False
        return rung
