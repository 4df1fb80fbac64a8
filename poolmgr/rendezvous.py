"""The supervisor's socket and the locks beside it: dialling, locking, and who is on the other side.

What a process needs that looks for the supervisor, and the supervisor itself. Nothing here starts or
ends a process; that is :mod:`poolmgr.launch`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
import time
from collections.abc import Iterator
from pathlib import Path

from poolmgr.errors import SupervisorError
from poolmgr.native import monotonic
from poolmgr.settings import how_to_make, private_directory
from poolmgr.variables import default_directory

STEP = 0.005
"""Seconds between two looks at something that has no notification."""


SILENT = 2.0
"""Seconds without a sign of life after which all can see that a supervisor gives none; it gives two a second."""

STOPPED = 3.0
"""Seconds after which whoever holds the launchers' lock is taken for stopped: nobody waits for it any longer. Should it
be slow only, two supervisors are started, of which one ends at once."""

A_LOOK = 0.5
"""Seconds for which a lock is waited for in any case."""


class Peer(tuple[int, int, int]):
    """``(pid, uid, gid)`` of whoever listens on the other side, as the kernel saw it (unix(7))."""

    __slots__ = ()

    @property
    def pid(self) -> int:
        return self[0]

    @property
    def uid(self) -> int:
        return self[1]


def peer(sock: socket.socket) -> Peer | None:
    """Who listens on the other end; None where the system cannot tell."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    return Peer(struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i"))))


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


class StaysLockedError(SupervisorError):
    """Another process holds the lock for too long."""


_held: set[int] = set()
"""Descriptors of locks that this process holds or waits for."""


def _close_in_child() -> None:
    """A child's copy would keep the lock for as long as it lives, should its parent be killed meanwhile."""
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


os.register_at_fork(after_in_child=_close_in_child)


@contextlib.contextmanager
def locked(path: str, deadline: float) -> Iterator[None]:
    """Hold the ``flock`` on a file, which is made if it is missing.

    Whoever cleans up may have removed the file while this process waited for it, and then two could
    hold "the" lock: so the lock counts only if the name still leads to the same inode. Nor does it count for whoever
    has held it for :data:`STOPPED` seconds: the file is replaced.

    Raises:
        SupervisorError: the file cannot be made.
        StaysLockedError: ``deadline`` (monotonic) has passed.
    """
    began = monotonic()
    while True:
        handle = _open_lock(path)
        _held.add(handle)
        try:
            while not _lock(handle) and _leads_to(path, handle):
                now = monotonic()
                if now > began + A_LOOK and silence(path) > STOPPED:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(path)
                elif now > deadline:
                    raise StaysLockedError(f"{path} stays locked: another process is starting a supervisor")
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


def _open_lock(path: str) -> int:
    for attempt in range(10):
        if Path(path).parent == default_directory():
            private_directory()
        try:
            return os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError as error:
            if attempt == 9 or Path(path).parent != default_directory():
                raise SupervisorError(how_to_make(path, error.strerror)) from None
        except OSError as error:
            raise SupervisorError(how_to_make(path, error.strerror)) from None
    raise AssertionError("unreachable")


def dial(path: str, deadline: float) -> socket.socket | None:
    """A connection to whoever listens at ``path``, or None if nobody does.

    Raises:
        SupervisorError: what is there is not ours, or its queue of connections stays full.
    """
    while True:
        _inspect(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)  # a Unix socket connects at once or not at all
            sock.connect(path)
            who = peer(sock)
            if who is not None and who.uid not in (os.getuid(), 0):
                raise SupervisorError(
                    f"the process listening at {path} belongs to uid {who.uid}, not to us (uid {os.getuid()}): "
                    "run this as that user, or set POOLMGR_SOCKET to a path in a directory of your own"
                )
            sock.setblocking(True)
            return sock
        except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError):
            sock.close()
            return None
        except BlockingIOError:  # its queue is full: it is busy, or hung
            sock.close()
            if monotonic() > deadline or silence(path + ".lock") > STOPPED:
                raise SupervisorError(f"the supervisor at {path} does not accept connections") from None
            time.sleep(STEP)
        except PermissionError:
            sock.close()
            raise SupervisorError(f"this user (uid {os.getuid()}) may not connect to {path}") from None
        except BaseException:
            sock.close()
            raise


def _inspect(path: str) -> None:
    """Refuse what is no socket or another user's; root's is trusted, since systemd makes it as root.

    Raises:
        SupervisorError: it is one of these.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SupervisorError(f"{path} cannot be looked at ({error.strerror}): check POOLMGR_SOCKET") from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SupervisorError(f"{path} is no socket: remove it, or set POOLMGR_SOCKET to another path")
    if found.st_uid not in (os.getuid(), 0):
        raise SupervisorError(
            f"{path} belongs to uid {found.st_uid}, not to us (uid {os.getuid()}): "
            "run this as that user, or set POOLMGR_SOCKET to a path in a directory of your own"
        )


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
