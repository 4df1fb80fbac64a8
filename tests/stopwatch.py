"""How long something takes, on a machine that may be short of processors."""

from __future__ import annotations

import os
import time


class Stopwatch:
    """Runs from when it is made."""

    SHARE = 1 / 6
    """What counts at least of a time in which processors were short: something takes six times as long there, not more.
    Two behaviours that are further apart than that are told apart on any machine."""

    def __init__(self) -> None:
        self._began, self._short = time.monotonic(), scarcity()

    def seconds(self) -> float:
        """That have passed."""
        return time.monotonic() - self._began

    def fair(self) -> float:
        """The seconds in which whoever wanted a processor had one. The others say more of the machine than of the code,
        so what takes "less than" takes less of these."""
        passed = self.seconds()
        return max(passed * self.SHARE, passed - (scarcity() - self._short))

    def exceeds(self, seconds: float) -> bool:
        """Whether more fair seconds than these have passed. The kernel is asked only if it matters."""
        return self.seconds() > seconds and self.fair() > seconds

    def shortage(self) -> float:
        """The share of the time in which somebody waited for a processor."""
        return (scarcity() - self._short) / max(self.seconds(), 1e-9)


def scarcity() -> float:
    """Seconds so far in which a process has waited for a processor (docs.kernel.org, "PSI"), or this machine for one of
    its host's (proc(5), steal). Where nobody counts the first: all seconds."""
    try:
        waited = int(beginning_of("/proc/pressure/cpu").split(b"total=")[1].split()[0]) / 1e6
    except (OSError, ValueError, IndexError):
        return time.monotonic()
    stolen = int(beginning_of("/proc/stat").split(maxsplit=9)[8]) / os.sysconf("SC_CLK_TCK")
    return waited + stolen / (os.cpu_count() or 1)


def beginning_of(path: str) -> bytes:
    """Of a file. Each wait of a test reads two: a path object and a text file take longer than the kernel."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 512)
    finally:
        os.close(descriptor)
