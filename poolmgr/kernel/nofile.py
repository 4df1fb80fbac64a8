"""The process's limit of open files (RLIMIT_NOFILE, getrlimit(2)): what it leaves, and raising it.

The soft limit protects programs that use select(2), which cannot take a descriptor above 1023. The hard limit is
what the administrator means. So we raise the soft limit to the hard one, but only when it leaves too few connections:
a process that never holds that many stays as it was.
"""

from __future__ import annotations

import os
import resource

MARGIN = 32
"""Descriptors left to everything else."""

ENOUGH = 1 << 20
"""Stands for a hard limit where there is none: by default no Linux kernel lets a process have more."""


_refused = False
"""The system does not let us raise the soft limit, so the soft limit holds."""


def left(ours: int, each: int = 1) -> int:
    """How many connections the hard limit allows; 0: no bound.

    Args:
        ours: connections that are open now; their descriptors are among those in use.
        each: descriptors that a further connection takes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = soft if _refused else hard
    return 0 if limit == resource.RLIM_INFINITY else _leaves(limit, ours, each)


def make_room(ours: int, wanted: int, each: int = 1) -> bool:
    """Raise the soft limit if it leaves fewer than ``wanted`` connections. Whether it has been raised."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or wanted <= _leaves(soft, ours, each):
        return False
    return raise_limit() > soft


def raise_limit() -> int:
    """Raise the soft limit to the hard one; the limit that holds now."""
    global _refused
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, ENOUGH)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
        except (OSError, ValueError):
            _refused = True
    return soft if soft != resource.RLIM_INFINITY else wanted


def _leaves(limit: int, ours: int, each: int) -> int:
    try:
        used = len(os.listdir("/proc/self/fd"))
    except OSError:
        return limit
    return max(1, ours + (limit - used - MARGIN) // each)
