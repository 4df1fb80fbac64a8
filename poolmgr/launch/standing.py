"""How well a process is placed to be the supervisor: what it inherits from its starter and cannot improve by itself.

A limit of open files bounds how many members it can take in, and a background process answers late. So a process that
is placed better starts the successor (:func:`poolmgr.launch.succeed`).
"""

from __future__ import annotations

import os

import msgspec

from poolmgr.lazy import load

ENOUGH = 4096
"""Open files; more make no difference: each client takes two."""


ENOUGH_BYTES = 1 << 26
"""Bytes of a file; more make no difference: a snapshot has 128 KiB and grows with the processes."""


class Standing(msgspec.Struct, frozen=True):
    """The standing of one process.

    Attributes:
        bytes: the hard limit of a file's size, at most :data:`ENOUGH_BYTES`.
        files: the hard limit of open files, at most :data:`ENOUGH`.
        nice: its niceness.
        idle: whether the process runs only when no other process wants the processor.
    """

    bytes: int
    files: int
    nice: int
    idle: bool

    def exceeds(self, other: Standing) -> bool:
        """Whether this standing is better. The first field that differs decides: without a snapshot no process is
        served, and a refused process is worse off than a waiting one. So successors only get better, and that ends."""
        return self._rank() > other._rank()

    def _rank(self) -> tuple[int, int, bool, int]:
        return self.bytes, self.files, not self.idle, -self.nice


def of(pid: int = 0) -> Standing | None:
    """The standing of a process, by default of this one; None: it cannot be seen."""
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
