"""How well a process is placed to be the supervisor: what it has from whoever started it, and cannot better by itself.

A limit of open files bounds whom it can take in, a background process answers late. So whoever is placed better starts
the successor (:func:`poolmgr.launch.succeed`).
"""

from __future__ import annotations

import os

import msgspec

from poolmgr.loading import load

ENOUGH = 4096
"""Open files of which more make no difference: each client takes two."""


class Standing(msgspec.Struct, frozen=True):
    """One process's.

    Attributes:
        files: the hard limit of open files, at most :data:`ENOUGH`.
        nice: its niceness.
        idle: it gets the processor when nobody else wants it.
    """

    files: int
    nice: int
    idle: bool

    def exceeds(self, other: Standing) -> bool:
        """Whether it is better: in the first of these that differs, for who is refused is worse off than who waits. So
        successors only become better, and come to an end."""
        return (self.files, not self.idle, -self.nice) > (other.files, not other.idle, -other.nice)


def of(pid: int = 0) -> Standing | None:
    """A process's, by default this one's; None: it cannot be seen."""
    try:
        resource = load("resource")
        hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
        files = ENOUGH if hard == resource.RLIM_INFINITY else min(hard, ENOUGH)
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        return Standing(files, nice, os.sched_getscheduler(pid) == os.SCHED_IDLE)
    except (AttributeError, ImportError, OSError, ValueError):
        return None
