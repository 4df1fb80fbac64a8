"""The token that is made when ``WORKER_TOKEN`` is not set: a file that only this user can read.

The file belongs to the service. Its master holds a shared ``flock`` on it; so does a second master
during an upgrade. Who leaves last removes it. If a master is killed the file stays, and the next one
goes on with the same token.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
from pathlib import Path

from poolmgr.settings import Settings

log = logging.getLogger("poolmgr.worker")

_held = -1
"""The master's descriptor with the shared lock; closed by exec (O_CLOEXEC)."""


def path_of(settings: Settings) -> Path:
    """Where the token is.

    Raises:
        SettingsError: the private directory is not ours.
    """
    return settings.private_directory() / "token"


def ensure(path: Path) -> str:
    """The token in the file, which is made if it is missing. Many processes may call this at once.

    Raises:
        OSError: it cannot be read or made.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            return path.read_text("ascii").strip()
        # Whole from the first moment: written aside, then given the name, unless somebody was first.
        aside = path.with_name(f".token-{os.getpid()}-{secrets.token_hex(4)}")
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.write(fd, secrets.token_urlsafe(32).encode() + b"\n")
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)
        finally:
            os.close(fd)
            os.unlink(aside)


def hold(settings: Settings) -> None:
    """From a starting master: have the token made, tell where it is, and keep it until :func:`release`.

    Raises:
        OSError: it cannot be read or made.
        SettingsError: the private directory is not ours.
    """
    global _held
    if settings.worker_token is not None or _held >= 0:
        return
    path = path_of(settings)
    while True:
        ensure(path)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            fcntl.flock(fd, fcntl.LOCK_SH)
            if _is_at(path, fd):
                break
            os.close(fd)  # a master that was leaving has just removed it
    _held = fd
    atexit.register(_release_in, os.getpid(), settings)  # gunicorn ends without on_exit as long as it does not serve
    log.info("worker.token", extra={"path": str(path), "remedy": "set WORKER_TOKEN to choose one"})


def release(settings: Settings) -> None:
    """From a master that ends: remove the token if no other master holds it."""
    global _held
    if _held < 0:
        return
    fd, _held = _held, -1
    path = path_of(settings)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(path, fd):
            path.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # if it is empty now


def _release_in(pid: int, settings: Settings) -> None:
    """Workers have their master's handlers too."""
    if os.getpid() == pid:
        release(settings)


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
