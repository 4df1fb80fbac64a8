"""The token that is made when neither ``WORKER_TOKEN`` nor ``WORKER_TOKEN_FILE`` is set: a file that only this user
can read.

The file belongs to the service. Its master holds a shared ``flock`` on it; so does a second master
during an upgrade. The last master to leave removes it. If a master is killed the file stays, and the next master
uses the same token.

A master knows the token too, and so do the workers that it forks. So the token is the same for as long as there is a
master, even if the file is removed; then the master writes it again.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import secrets
from pathlib import Path

from poolmgr.kernel import cleaners
from poolmgr.logs import redaction
from poolmgr.settings import Settings

log = logging.getLogger("poolmgr.worker")

REMEDY = "set WORKER_TOKEN to choose one"


class _Hold:
    """The copy of a master and its workers.

    Attributes:
        text: the token.
        fd: the descriptor with the shared lock; closed by exec (O_CLOEXEC).
        told: the other token in its file that was reported.
    """

    def __init__(self, path: Path, text: str, fd: int) -> None:
        self.path = path
        self.text = text
        self.fd = fd
        self.told = text
        self.guard = cleaners.keep_away(path.parent)
        redaction.hide(text)

    def close(self) -> None:
        for fd in (self.fd, self.guard):
            with contextlib.suppress(OSError):
                os.close(fd)
        self.fd = self.guard = -1


_hold: _Hold | None = None


def path_of(settings: Settings) -> Path:
    """Where the token is.

    Raises:
        SettingsError: the private directory is not ours.
    """
    return settings.private_directory() / "token"


def current(settings: Settings) -> str:
    """The token that the master holds, or the file's if no master holds one.

    Raises:
        OSError: it cannot be read or made.
        SettingsError: the private directory is not ours.
    """
    if _hold is not None:
        return _hold.text
    path = path_of(settings)
    text, made = ensure(path)
    redaction.hide(text)
    if made:
        log.warning("worker.token", extra={"path": str(path), "made": True, "remedy": REMEDY})
    return text


def ensure(path: Path) -> tuple[str, bool]:
    """The token in the file, and whether the file was missing and made now. Many processes may call this at once.

    Raises:
        OSError: it cannot be read or made.
    """
    made = False
    while True:
        with contextlib.suppress(FileNotFoundError):
            return path.read_text("ascii").strip(), made
        made = _write(path, secrets.token_urlsafe(32))


def _write(path: Path, text: str) -> bool:
    """Make a file with this token, unless there is one. Returns whether there was none.

    The file is whole from the first moment: it is written aside, then linked to its name, unless the name exists.
    """
    aside = path.with_name(f".token-{os.getpid()}-{secrets.token_hex(4)}")
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        os.write(fd, text.encode() + b"\n")
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        os.close(fd)
        os.unlink(aside)
    return True


def hold(settings: Settings) -> None:
    """From a starting master: make the token, report where it is, and keep it until :func:`release`.

    Raises:
        OSError: it cannot be read or made.
        SettingsError: the private directory is not ours.
    """
    global _hold
    if settings.worker_token or settings.worker_token_file or _hold is not None:
        return
    path, made = path_of(settings), False
    while True:
        made = ensure(path)[1] or made
        with contextlib.suppress(FileNotFoundError):
            fd = _lock(path)
            if _is_at(path, fd):
                break
            os.close(fd)  # a master that was leaving has just removed it
    _hold = _Hold(path, _text(fd), fd)
    atexit.register(_release_in, os.getpid())  # gunicorn ends without on_exit as long as it does not serve
    log.info("worker.token", extra={"path": str(path), "made": made, "remedy": REMEDY})


def renew() -> None:
    """From a running master that is about to have new workers, or a successor: make the file again if it is missing,
    and report a change. Does nothing if no token is held; raises nothing."""
    global _hold
    if _hold is None:
        return
    path = _hold.path
    try:
        if _is_at(path, _hold.fd):
            _tell_if_differing(_text(_hold.fd))
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        lost = _write(path, _hold.text)
        fd = _lock(path)
        found = _text(fd)
        if found != _hold.text:
            os.close(fd)
            _tell_if_differing(found)
            return
        _hold.close()
        _hold = _Hold(path, _hold.text, fd)
    except (OSError, ValueError) as error:
        log.error("worker.token_unwritable", extra={"path": str(path), "error": str(error), "remedy": REMEDY})
        return
    if lost:
        log.warning(
            "worker.token_lost",
            extra={
                "path": str(path),
                "remedy": "it was written again; exclude its directory from what removes old files",
            },
        )


def _tell_if_differing(found: str) -> None:
    if _hold is None or found in (_hold.text, _hold.told):
        return
    _hold.told = found
    log.error(
        "worker.token_differs",
        extra={"path": str(_hold.path), "remedy": "restart the service to have the file's, or set WORKER_TOKEN"},
    )


def release() -> None:
    """From a master that ends: remove the token if no other master holds it."""
    global _hold
    if _hold is None:
        return
    held, _hold = _hold, None
    try:
        fcntl.flock(held.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_at(held.path, held.fd):
            held.path.unlink()
    except BlockingIOError:
        pass
    finally:
        held.close()
    with contextlib.suppress(OSError):
        held.path.parent.rmdir()  # if it is empty now


def _release_in(pid: int) -> None:
    """Workers have their master's handlers too."""
    if os.getpid() == pid:
        release()


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


def _text(fd: int) -> str:
    return os.pread(fd, 1024, 0).decode("ascii").strip()


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False
