"""Whose files lie beside the supervisor's socket. These files decide budgets, and which server is ours.

So we must trust every user who can write there. Call :func:`objection` before reading or making anything there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

FILES = ("", ".lock", ".launch", ".snapshot", ".scope", ".redis", ".redis.lock")
"""Suffixes of the socket's path: all the files that we trust."""

REMEDY = "set POOLMGR_SOCKET to a path in a directory that only you can write to"


def objection(path: str) -> str:
    """Why what lies beside the socket ``path`` cannot be trusted; empty if it can.

    Only root and this user may be able to put a file there, or to replace a directory above it. A directory that does
    not exist yet does not matter: the process that makes it gets the error.

    ``POOLMGR_VOLUME`` names one directory whose mode is not asked, but whose owner is. A pod's volume is root's, with
    mode 0777, and only the pod's containers write to it. A relative path names none: what it means would depend on the
    process that reads it.
    """
    volume = os.environ.get("POOLMGR_VOLUME", "").strip()
    volume = os.path.realpath(volume) if os.path.isabs(volume) else ""
    directory = Path(os.path.realpath(os.path.dirname(os.path.abspath(path))))
    for above in (directory, *directory.parents):
        try:
            found = above.lstat()
        except OSError:
            continue
        ours = found.st_uid in (os.getuid(), 0) or (
            above != directory and str(above) != volume and found.st_uid == _unmapped()
        )
        mode = stat.S_IMODE(found.st_mode)
        if not ours:
            return f"{above} belongs to {_user(found.st_uid)}, who could forge what lies in it: {REMEDY}"
        if str(above) == volume:
            continue
        if above == directory and mode & 0o022:
            return f"{above} (of {_user(found.st_uid)}, mode {mode:04o}) can be written to by others: {REMEDY}"
        if mode & 0o002 and not mode & stat.S_ISVTX:
            return (
                f"{above} (of {_user(found.st_uid)}, mode {mode:04o}) can be written to by others, who could put "
                f"another directory in the place of {directory}: {REMEDY}, or POOLMGR_VOLUME={above} in a container "
                "whose volume that is"
            )
    for suffix in FILES:
        try:
            owner = os.lstat(path + suffix).st_uid
        except OSError:
            continue
        if owner not in (os.getuid(), 0):
            return f"{path}{suffix} belongs to {_user(owner)}: remove it, or {REMEDY}"
    return ""


def _unmapped() -> int:
    """The uid by which a user namespace shows the root outside of it, who owns ``/``."""
    try:
        return int(Path("/proc/sys/kernel/overflowuid").read_text())
    except (OSError, ValueError):
        return 0


def _user(number: int) -> str:
    """The user's name, for an error message. ``pwd`` is loaded only when something is wrong."""
    import pwd

    try:
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    except KeyError:
        return f"uid {number}"
