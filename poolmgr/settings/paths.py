"""Where files lie: the directory that only this user can enter."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from poolmgr.errors import SettingsError

EMBEDDED_SUFFIX = ".redis"
"""Suffix of the supervisor's socket path that names the embedded server's socket."""


def default_directory() -> Path:
    """``/tmp/redis-poolmgr-UID``. Not below ``TMPDIR`` or ``XDG_RUNTIME_DIR``: both differ between a
    login session, cron and services, and all of them must find the same supervisor."""
    user = os.getuid() if hasattr(os, "getuid") else 0  # Windows has none, and no supervisor
    return Path("/tmp", f"redis-poolmgr-{user}")


def default_socket() -> str:
    return str(default_directory() / "supervisor")


def is_private(path: Path) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def private_directory() -> Path:
    """The default directory, made with mode 0700 if it is missing.

    Raises:
        SettingsError: something else is there, or it is another user's, or open to others.
    """
    path = default_directory()
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise SettingsError(
            f"cannot make the private directory {path} ({error.strerror}); "
            "set POOLMGR_SOCKET to a path in a directory of your own"
        ) from None
    if not is_private(path):
        raise SettingsError(
            f"{path} is not a directory of ours (uid {os.getuid()}) with mode 0700; "
            "remove it, or set POOLMGR_SOCKET to a path in a directory of your own"
        )
    return path


def how_to_make(path: str, why: str | None) -> str:
    """The error for a file ``path`` that cannot be made in the directory of ``POOLMGR_SOCKET``."""
    parent = Path(path).parent
    remedy = "" if parent.is_dir() else f"make its directory (mkdir -p -m 700 {parent}), or "
    return f"cannot make {path} ({why}); {remedy}set POOLMGR_SOCKET to a path in a directory of your own"
