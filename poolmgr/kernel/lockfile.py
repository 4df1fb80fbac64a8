"""A lock that is a file: held while its ``flock`` is, and while its name leads to its inode; its time of modification
is its holder's sign of life, for all to see."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from poolmgr.native import at_fork, monotonic

STEP = 0.005
"""Seconds between two looks at something that has no notification."""


STOPPED = 3.0
"""Seconds after which whoever holds the launchers' lock is taken for stopped: nobody waits for it any longer. Should it
be slow only, two supervisors are started, of which one ends at once."""


A_LOOK = 0.5
"""Seconds for which a lock is waited for in any case."""


def give_sign(file: int | str) -> None:
    """Note in a file's time of modification (a descriptor, or a path) that whoever keeps it is alive, for all to see.
    By the monotonic clock, which nobody sets; its other times stay the wall clock's, for those who clean up by them."""
    with contextlib.suppress(OSError):  # a file system that has become read-only
        os.utime(file, ns=(os.stat(file).st_ctime_ns, int(monotonic() * 1e9)))


def silence(path: str) -> float:
    """Seconds since the last sign at a file, for everybody the same; infinity where there is no file, 0 where none was
    given. In another time namespace it is wrong: who acts upon it asks first."""
    try:
        return max(0.0, monotonic() - os.stat(path).st_mtime)
    except OSError:
        return float("inf")


_held: set[int] = set()
"""Descriptors of locks that this process holds or waits for."""


def _close_in_child() -> None:
    """A child's copy would keep the lock for as long as it lives, should its parent be killed meanwhile."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(path: str, deadline: float, opened: Callable[[str], int], late: Exception) -> Iterator[None]:
    """Hold the ``flock`` on a file, which is made if it is missing.

    Whoever cleans up may have removed the file while this process waited for it, and then two could
    hold "the" lock: so the lock counts only if the name still leads to the same inode. Nor does it count for whoever
    has held it for :data:`STOPPED` seconds: the file is replaced.

    Args:
        deadline: of the monotonic clock; ``late`` is raised when it has passed.
        opened: opens the file, or makes it, and raises what says why it cannot.
    """
    began = monotonic()
    while True:
        handle = opened(path)
        _held.add(handle)
        try:
            while not _lock(handle) and _leads_to(path, handle):
                now = monotonic()
                if now > began + A_LOOK and silence(path) > STOPPED:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                elif now > deadline:
                    raise late
                else:
                    time.sleep(STEP)
            if _leads_to(path, handle):
                give_sign(handle)
                yield
                return
        finally:
            if handle in _held:  # not in a child that was forked in the middle of it
                _held.discard(handle)
                with contextlib.suppress(OSError):
                    fcntl.flock(handle, fcntl.LOCK_UN)  # whatever else may have a copy
                os.close(handle)


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _leads_to(path: str, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def is_locked(path: str) -> bool:
    """Whether somebody holds the ``flock`` on a file."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def holder(path: str) -> int:
    """The process that holds the ``flock`` on a file, by ``/proc/locks`` (proc(5)); 0 if unknown.

    For a supervisor that has been stopped so long that its queue of connections is full: then there is
    no connection that could tell.
    """
    try:
        inode = os.stat(path).st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode):
            return max(0, int(words[4]))
    return 0
