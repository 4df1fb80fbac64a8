"""A lock that is a file. It is held while its ``flock`` is held and its name leads to its inode. Its time of
modification is its holder's sign of life, which every process can read."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from poolmgr.native import at_fork, monotonic

STEP = 0.005
"""Seconds between two looks at something that sends no notification."""


STOPPED = 3.0
"""Seconds after which other processes take the holder of the launchers' lock for stopped and no longer wait for it. If
the holder is only slow, two supervisors start, and one of them ends at once."""


A_LOOK = 0.5
"""Seconds that a process waits for a lock in any case."""


def give_sign(file: int | str) -> None:
    """Write a sign of life into a file's time of modification (a descriptor, or a path), for every process to read.
    The time is the monotonic clock's, which cannot be set. The other times stay the wall clock's: cleaners use them."""
    with contextlib.suppress(OSError):  # a file system that has become read-only
        os.utime(file, ns=(os.stat(file).st_ctime_ns, int(monotonic() * 1e9)))


def silence(path: str) -> float:
    """Seconds since the last sign at a file, the same for every process; infinity where there is no file, 0 where none
    was given. In another time namespace the number is wrong: ask the holder before acting on it."""
    try:
        return max(0.0, monotonic() - os.stat(path).st_mtime)
    except OSError:
        return float("inf")


_held: set[int] = set()
"""Descriptors of locks that this process holds or waits for."""


def _close_in_child() -> None:
    """If its parent is killed meanwhile, a child's copy would hold the lock for as long as the child lives."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(path: str, deadline: float, opened: Callable[[str], int], late: Exception) -> Iterator[None]:
    """Hold the ``flock`` on a file, which is made if it is missing.

    A cleaner may remove the file while this process waits for it, and then two processes could hold "the" lock. So
    the lock counts only if the name still leads to the same inode. A holder that gave no sign for :data:`STOPPED`
    seconds loses the lock: this process replaces the file.

    Args:
        deadline: of the monotonic clock; ``late`` is raised when it has passed.
        opened: opens the file, or makes it; its error says why it cannot.
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
                    fcntl.flock(handle, fcntl.LOCK_UN)  # also if another process has a copy
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
    """Whether a process holds the ``flock`` on a file."""
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

    For a supervisor that was stopped for so long that its queue of connections is full: then no connection
    can name the process.
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
