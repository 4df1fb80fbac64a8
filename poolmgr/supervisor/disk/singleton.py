"""There is one supervisor for each socket path: the lock, the socket file, and their end.

The ``flock`` on ``S.lock`` is the singleton; a process that cannot get it ends at once. The lock's owner makes the
socket file new, since a killed supervisor leaves its own behind. It also makes the file again if it is removed or
replaced while we run: otherwise a new process could neither find us nor start another supervisor. Files are removed
only while the lock is held and its name still leads to it, the lock file last: so nothing of a successor's is ever
removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat

from poolmgr.kernel.cleaners import keep_away
from poolmgr.kernel.lockfile import give_sign
from poolmgr.launch.ownership import objection

BACKLOG = 4096


class TakenError(Exception):
    """Another supervisor has the lock."""


class UnfitError(Exception):
    """The socket cannot be made here. One line, with the remedy."""


class Singleton:
    """The lock of one socket path, held from construction on.

    Raises:
        TakenError: another one holds it.
        UnfitError: the lock file cannot be made, or others may write there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = path + ".lock"
        self.passed = False
        """The socket is systemd's: its file is neither made nor removed here."""
        self._bound: os.stat_result | None = None
        foreign = objection(path)
        if foreign:
            raise UnfitError(foreign)
        while True:
            try:
                self._fd = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError as error:
                raise _cannot_make(self.lock, error) from None
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._fd)
                raise TakenError(path) from None
            if self.ours():
                self.give_sign()
                self._guard = keep_away(os.path.dirname(self.path))
                return
            os.close(self._fd)  # our predecessor removed it between our open and lock

    def give_sign(self) -> None:
        """Show a sign of life (:func:`poolmgr.kernel.lockfile.silence`)."""
        give_sign(self._fd)

    def ours(self) -> bool:
        """Whether the lock's name still leads to the file that we have locked."""
        try:
            return os.path.samestat(os.stat(self.lock), os.fstat(self._fd))
        except OSError:
            return False

    def identity(self) -> tuple[int, int]:
        """Device and inode of the lock file."""
        found = os.fstat(self._fd)
        return found.st_dev, found.st_ino

    def noted(self) -> bytes:
        """What the previous supervisor kept in the lock file."""
        return os.pread(self._fd, 1024, 0)

    def note(self, text: bytes) -> None:
        """Keep text in the lock file, which exists while anything is charged."""
        os.pwrite(self._fd, text, 0)
        self.give_sign()  # the write has overwritten it

    def listen(self) -> socket.socket:
        """The listening socket: systemd's if it passed one, else a new one in place of a stale one.

        Raises:
            UnfitError: the path holds something else, or no socket can be made.
        """
        passed = _from_systemd(self.path)
        if passed is not None:
            self.passed = True
            with contextlib.suppress(OSError):
                self._bound = os.lstat(self.path)
            return passed
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
        except OSError as error:  # no descriptor is left
            raise _cannot_make(self.path, error) from None
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                    raise UnfitError(f"{self.path} is not a socket: remove it, or set POOLMGR_SOCKET to another path")
                os.unlink(self.path)
            mask = os.umask(0o177)
            try:
                sock.bind(self.path)
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
            self._bound = os.lstat(self.path)
        except OSError as error:
            sock.close()
            raise _cannot_make(self.path, error) from None
        except UnfitError:
            sock.close()
            raise
        return sock

    def astray(self) -> bool:
        """Whether the socket's path no longer leads to our socket. The kernel holds on to the file's inode number while
        we listen (unix(7)), so no other file gets it."""
        if self._bound is None:
            return False
        try:
            return not os.path.samestat(os.lstat(self.path), self._bound)
        except OSError:
            return True

    def remove(self) -> None:
        """Remove all files. Only with nothing charged; the caller ends right after it."""
        if not self.ours():
            return
        if not self.passed and not self.astray():
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._remove_launch_lock()
        with contextlib.suppress(OSError):
            os.unlink(self.lock)
        directory = os.path.dirname(self.path)
        if os.path.basename(directory) == f"redis-poolmgr-{os.getuid()}":  # it is made again when needed
            with contextlib.suppress(OSError):
                os.rmdir(directory)

    def _remove_launch_lock(self) -> None:
        """Remove the lock for starting supervisors (see :mod:`poolmgr.launch`), unless a process holds it."""
        try:
            fd = os.open(self.path + ".launch", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(self.path + ".launch")
        except OSError:
            pass
        finally:
            os.close(fd)


def _cannot_make(path: str, error: OSError) -> UnfitError:
    from poolmgr.settings.paths import how_to_make  # slow to load, and clients wait for the socket

    return UnfitError(how_to_make(path, error.strerror or str(error)))


def _from_systemd(path: str) -> socket.socket | None:
    """The socket that systemd passed (sd_listen_fds(3)), the first if there are several."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    count = int(os.environ.get("LISTEN_FDS", "0"))
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if count < 1:
        return None
    try:
        for fd in range(3, 3 + count):
            os.set_inheritable(fd, False)
        sock = socket.socket(fileno=3)
    except OSError as error:
        raise UnfitError(f"descriptor 3, which systemd should pass, is not a socket ({error.strerror})") from None
    if sock.family != socket.AF_UNIX:
        raise UnfitError("the socket that systemd passed is not a Unix socket: ListenStream must be a path")
    if os.path.abspath(sock.getsockname()) != path:
        raise UnfitError(f"systemd listens at {sock.getsockname()}, but POOLMGR_SOCKET is {path}: make them the same")
    return sock
