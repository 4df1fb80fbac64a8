"""What each member costs its host: processor time, resident memory, descriptors, threads.

psutil reads them, in a thread, at most :data:`MOST` processes in :data:`EVERY` seconds, in turn. So a host with a
thousand members pays no more than one with forty, and the event loop pays nothing.

This module must never decide anything: the figures are for people.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import msgspec

from poolmgr.supervisor.executor import DaemonExecutor

EVERY = 5.0
"""Seconds between two rounds, and before the first one: most supervisors that a script starts have ended by then, and
psutil takes longer to load than all that they do."""

MOST = 40
"""Processes that one round reads: each takes some 0.2 ms."""


class Footprint(msgspec.Struct, frozen=True):
    """One process's cost.

    Attributes:
        processor: seconds of processor time since its start, in user mode and in the kernel.
        memory: bytes that are resident (``VmRSS`` of proc(5)).
        descriptors: open files, sockets included; None where the system does not tell.
        threads: how many.
    """

    processor: float
    memory: int
    descriptors: int | None
    threads: int


class Footprints:
    """All members' footprints, by pid. Used in the event loop.

    Args:
        began: when the supervisor did, in monotonic seconds.
    """

    def __init__(self, began: float) -> None:
        self.of: dict[int, Footprint] = {}
        self._turn: list[int] = []
        self._due = began + EVERY
        self._thread = DaemonExecutor("footprints")
        self._reading: asyncio.Task[None] | None = None

    def tick(self, pids: Collection[int], now: float) -> None:
        """Begin a round if one is due. Called a few times a second.

        Args:
            pids: of the members that are there.
            now: monotonic seconds.
        """
        if now < self._due or not pids or (self._reading is not None and not self._reading.done()):
            return
        self._due = now + EVERY
        self.of = {pid: found for pid, found in self.of.items() if pid in pids}
        self._turn = [pid for pid in self._turn if pid in pids] or sorted(pids)
        chosen, self._turn = self._turn[:MOST], self._turn[MOST:]
        self._reading = asyncio.get_running_loop().create_task(self._read(chosen))

    async def _read(self, pids: Sequence[int]) -> None:
        found = await self._thread.run(read, pids)
        for pid in pids:
            self.of.pop(pid, None)
        self.of.update(found)

    def close(self) -> None:
        """No more rounds."""
        self._due = float("inf")
        self._thread.stop()


def read(pids: Sequence[int]) -> dict[int, Footprint]:
    """The readable ones of these processes. Slow: not for the event loop."""
    import psutil  # too slow to load at the supervisor's start

    found: dict[int, Footprint] = {}
    for pid in pids:
        try:
            process = psutil.Process(pid)
            with process.oneshot():
                times = process.cpu_times()
                memory, threads = process.memory_info().rss, process.num_threads()
            try:
                descriptors: int | None = process.num_fds()
            except psutil.AccessDenied:
                descriptors = None
        except psutil.Error:
            continue
        found[pid] = Footprint(times.user + times.system, memory, descriptors, threads)
    return found
