"""How well a process is placed to be the supervisor: what it has from whoever started it, and cannot better by itself.

A limit of open files bounds whom it can take in, a background process answers late. So whoever is placed better starts
the successor (:func:`poolmgr.launch.succeed`).
"""

from __future__ import annotations

import os

import msgspec

from poolmgr.lazy import load

ENOUGH = 4096
"""Open files of which more make no difference: each client takes two."""


ENOUGH_BYTES = 1 << 26
"""Of a file, of which more make no difference: a snapshot has 128 KiB and grows with the processes."""


class Standing(msgspec.Struct, frozen=True):
    """One process's.

    Attributes:
        bytes: the hard limit of a file's size, at most :data:`ENOUGH_BYTES`.
        files: the hard limit of open files, at most :data:`ENOUGH`.
        nice: its niceness.
        idle: it gets the processor when nobody else wants it.
    """

    bytes: int
    files: int
    nice: int
    idle: bool

    def exceeds(self, other: Standing) -> bool:
        """Whether it is better: in the first of these that differs, for where no snapshot can be written nobody is
        served, and who is refused is worse off than who waits. So successors only become better, and come to an end."""
        return self._rank() > other._rank()

    def _rank(self) -> tuple[int, int, bool, int]:
        return self.bytes, self.files, not self.idle, -self.nice


def of(pid: int = 0) -> Standing | None:
    """A process's, by default this one's; None: it cannot be seen."""
    try:
        resource = load("resource")
        size, files = (
            most if (hard := resource.prlimit(pid, limit)[1]) == resource.RLIM_INFINITY else min(hard, most)
            for limit, most in ((resource.RLIMIT_FSIZE, ENOUGH_BYTES), (resource.RLIMIT_NOFILE, ENOUGH))
        )
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        return Standing(size, files, nice, os.sched_getscheduler(pid) == os.SCHED_IDLE)
    except (AttributeError, ImportError, OSError, ValueError):
        return None
