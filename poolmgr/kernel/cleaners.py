"""Keeping the cleaners of ``/tmp`` away from a directory of ours.

systemd-tmpfiles removes files that were not touched for days, sockets and locked files among them. It skips a directory
that a process has locked with ``flock``, and everything below it (tmpfiles.d(5)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os


def keep_away(directory: str | os.PathLike[str]) -> int:
    """Lock a directory that only this user may write. Any number of processes may hold the lock.

    Returns:
        The descriptor that keeps the cleaners away while this process, or a process that it forks, has it; -1: none.
    """
    handle = -1
    with contextlib.suppress(OSError):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        found = os.fstat(handle)
        if found.st_uid == os.getuid() and not found.st_mode & 0o022:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return handle
    if handle >= 0:
        os.close(handle)
    return -1
