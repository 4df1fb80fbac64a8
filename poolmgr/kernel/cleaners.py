"""Keeping the cleaners of ``/tmp`` away from a directory of ours.

systemd-tmpfiles removes what nobody has touched for days, sockets and locked files among it. It leaves out a directory,
with all that is below it, that somebody has locked with ``flock`` (tmpfiles.d(5)).
"""

from __future__ import annotations

import contextlib
import fcntl
import os


def keep_away(directory: str | os.PathLike[str]) -> int:
    """Lock a directory that only this user may write; any number of processes may.

    Returns:
        The descriptor that keeps them away as long as this process, or one that it forks, has it; -1: there is none.
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
