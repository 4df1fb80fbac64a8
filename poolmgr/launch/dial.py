"""The supervisor's socket and the launchers' lock beside it: dialling and locking.

Used by processes that look for the supervisor, and by the supervisor itself. Nothing here starts or
ends a process; :mod:`poolmgr.launch` does.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from poolmgr.errors import SupervisorError
from poolmgr.kernel import lockfile
from poolmgr.kernel.lockfile import STEP, STOPPED, silence
from poolmgr.kernel.peer import peer
from poolmgr.native import monotonic
from poolmgr.settings.paths import default_directory, how_to_make, private_directory

SILENT = 2.0
"""Seconds without a sign of life after which a supervisor counts as silent; it gives two signs a second."""


class StaysLockedError(SupervisorError):
    """Another process holds the lock for too long."""


@contextlib.contextmanager
def locked(path: str, deadline: float) -> Iterator[None]:
    """Hold the launchers' lock (:func:`poolmgr.kernel.lockfile.locked`).

    Raises:
        SupervisorError: the file cannot be made.
        StaysLockedError: ``deadline`` (monotonic) has passed.
    """
    late = StaysLockedError(f"{path} stays locked: another process is starting a supervisor")
    with lockfile.locked(path, deadline, _open_lock, late):
        yield


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
    """A connection to the process that listens at ``path``, or None if no process listens.

    Raises:
        SupervisorError: the socket or its listener is not ours, or its queue of connections stays full.
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
    """Refuse a file that is not a socket, or a socket of another user. We trust root's, since systemd makes it as root.

    Raises:
        SupervisorError: the file is refused.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SupervisorError(
            f"cannot inspect {path} as uid {os.getuid()} ({error.strerror}); check POOLMGR_SOCKET"
        ) from None
    if not stat.S_ISSOCK(found.st_mode):
        raise SupervisorError(f"{path} is not a socket: remove it, or set POOLMGR_SOCKET to another path")
    if found.st_uid not in (os.getuid(), 0):
        raise SupervisorError(
            f"{path} belongs to uid {found.st_uid}, not to us (uid {os.getuid()}): "
            "run this as that user, or set POOLMGR_SOCKET to a path in a directory of your own"
        )
