"""Find the supervisor, or start one: the only place that knows how.

There is one supervisor for each socket path. Whoever finds none takes the ``flock`` on ``S.launch``
(``S`` is the path), looks again, and starts ``python -m poolmgr.supervisor``; the others wait for the
lock and find it. Nothing here decides who *is* the supervisor: that is the ``flock`` on ``S.lock``
which the supervisor itself holds for life, and a second one that cannot get it exits at once.

A started supervisor is nobody's child. It must not be the child of a gunicorn master, whose
``waitpid(-1)`` would reap it, nor a zombie of a process that never waits; nor may it keep a descriptor
of whoever happened to start it. So a short-lived Python between closes everything, makes a session
of its own, forks and ends, and the kernel hands the supervisor to init.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from poolmgr import wire
from poolmgr.errors import SupervisorError
from poolmgr.rendezvous import STEP, StaysLockedError, dial, holder, is_locked, locked, peer
from poolmgr.settings import Settings

MODULE = "poolmgr.supervisor"

STARTUP_FD = "POOLMGR_STARTUP_FD"
"""Names the descriptor on which a supervisor tells its starter why it could not start."""

SILENT = 10.0
"""Seconds of silence after which a supervisor counts as hung."""

_BETWEEN = """\
import os, signal, sys
os.umask(0o77)
os.chdir("/")
os.setsid()
handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
signal.signal(signal.SIGINT, handler)
for fd in [int(name) for name in os.listdir("/dev/fd")]:
    if fd > 3:
        try:
            os.close(fd)
        except OSError:
            pass
if os.fork() == 0:
    os.execv(sys.argv[1], sys.argv[1:])
"""
"""What the short-lived Python runs; descriptor 3 is the pipe of :data:`STARTUP_FD`. SIGINT is blocked when it
starts, so that Ctrl-C does not strike it before it has left the terminal's group; one that has come is dropped."""

_NOT_FOR_IT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""systemd meant these for the process that starts the supervisor."""


_shows_output = False
"""Whether a supervisor started from here writes its log to this process's standard error."""


def show_output() -> None:
    """A supervisor started from here, or from a child of this process, logs to our standard error.

    For a service, whose log that is. Nobody else's: a supervisor outlives whoever happened to start it, and
    a caller that reads a script's standard error to its end would wait for the supervisor's.
    """
    global _shows_output
    _shows_output = True


def connect(settings: Settings, *, start: bool = True, timeout: float = SILENT) -> socket.socket:
    """A connected, blocking Unix stream socket to the supervisor.

    If none answers, one is started, provided ``start`` and the setting ``autostart`` say so. That the
    socket is connected does not prove that the supervisor is not hung: see :func:`replace_hung`.

    Args:
        timeout: seconds for everything together.

    Raises:
        SupervisorError: there is none, it cannot be started, or what is there is not ours.
        SettingsError: the default directory is not ours.
    """
    path = settings.socket
    deadline = time.monotonic() + timeout
    found = dial(path, deadline)
    if found is not None:
        return found
    if not start:
        raise SupervisorError(f"no supervisor answers at {path}: {_why_none(path)}")
    if not settings.autostart:
        raise SupervisorError(
            f"no supervisor answers at {path} and POOLMGR_AUTOSTART is 0: start it (systemctl start poolmgr.socket)"
        )
    try:
        with locked(path + ".launch", time.monotonic() + timeout / 2):
            return dial(path, deadline) or _start(path, deadline)
    except StaysLockedError:
        # Whoever starts one was stopped in the middle of it. The lock only spares all others from starting one too.
        found = dial(path, deadline)
        if found is None and is_locked(path + ".lock"):
            raise
        return found or _start(path, deadline)


def _why_none(path: str) -> str:
    """For whoever only looks: whether that is a fault, and whose."""
    if Path(f"{path}.snapshot").exists():
        return "the last one was ended, and its ledger is kept for the next, which whoever needs a connection starts"
    return "none runs while nothing uses a pool; if something does, give its POOLMGR_SOCKET"


def replace_hung(settings: Settings, sock: socket.socket | None = None) -> bool:
    """Kill a supervisor that has been silent for :data:`SILENT` seconds, if it still is.

    It is named by the kernel's credentials of ``sock``, a connection to it, and killed through a
    pidfd, so that no other process can be hit by a reused number. Nobody ever goes around a hung
    supervisor: it holds the ledger, and so it has to be gone before another one reads the snapshot.

    Args:
        sock: the silent connection; None if not even a connection could be had.

    Returns:
        True if it was killed; call :func:`connect` again in either case.

    Raises:
        SupervisorError: it is not one that may be killed from here; the message says what to do.
    """
    path = settings.socket
    who = peer(sock) if sock is not None else None
    pid = who.pid if who is not None else holder(path + ".lock")
    if pid <= 0 or not hasattr(os, "pidfd_open"):
        raise SupervisorError(f"the supervisor at {path} does not answer: end it by hand")
    with locked(path + ".launch", time.monotonic() + SILENT):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Another process may have replaced it while we waited for the lock: only the one that
            # listens now may be hung, and only if it does not answer a new connection either.
            if not _hangs(path, pid):
                return False
            if pid == 1 or pid == os.getpid() or MODULE not in _command(pid):
                raise SupervisorError(
                    f"the supervisor at {path} (process {pid}) does not answer and was not started by us: "
                    "restart it (systemctl restart poolmgr)"
                )
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            return _ends(pidfd, SILENT)
        except ProcessLookupError:
            return False
        except PermissionError:
            raise SupervisorError(
                f"the supervisor at {path} (process {pid}) does not answer and is another user's: end it as that user"
            ) from None
        finally:
            os.close(pidfd)


def _ends(pidfd: int, timeout: float) -> bool:
    """Wait until a process has ended: its pidfd is readable then (pidfd_open(2))."""
    poll = select.poll()  # not select(): a process may have more than 1024 descriptors
    poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + timeout
    while not poll.poll(0):
        if time.monotonic() > deadline:
            return False
        time.sleep(STEP)
    return True


def report_start(error: str = "") -> None:
    """For the supervisor: tell whoever started it that it listens, or why it cannot (one line)."""
    text = os.environ.pop(STARTUP_FD, "")
    if not text.isdigit():
        return
    with contextlib.suppress(OSError):
        try:
            os.write(int(text), error.strip().replace("\n", " ")[:1000].encode())
        finally:
            os.close(int(text))


def _start(path: str, deadline: float) -> socket.socket:
    """Start a supervisor and wait until it accepts. Called with the launchers' lock held.

    Raises:
        SupervisorError: it ended, or ``deadline`` has passed.
    """
    reader, writer = os.pipe()
    said, ended = b"", False
    try:
        os.set_blocking(reader, False)
        try:
            _spawn(path, writer)
        finally:
            os.close(writer)
        while True:
            if not ended:
                with contextlib.suppress(BlockingIOError):
                    piece = os.read(reader, 4096)
                    said, ended = said + piece, not piece
            found = dial(path, deadline)
            if found is not None:
                return found
            if ended and said:
                raise SupervisorError(f"the supervisor could not start: {said.decode(errors='replace')}")
            if ended and not is_locked(path + ".lock"):
                raise SupervisorError(
                    "the supervisor ended as soon as it was started; to see why, start it by hand: "
                    f"{sys.executable} -m {MODULE}"
                )
            if time.monotonic() > deadline:
                raise SupervisorError(f"the supervisor was started and does not listen at {path} yet")
            time.sleep(STEP)
    finally:
        os.close(reader)


def _spawn(path: str, writer: int) -> None:
    """Run the short-lived Python and wait until it has ended.

    ``posix_spawn`` and not ``fork``: it runs none of this process's fork handlers, and is safe in a
    process with threads. Not :mod:`subprocess`: gevent replaces its waiting by a child watcher that
    works in one thread only.

    Raises:
        SupervisorError: there is no Python to run.
    """
    environ = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_IT}
    environ["POOLMGR_SOCKET"] = path
    environ[STARTUP_FD] = "3"
    environ["PYTHONPATH"] = os.pathsep.join(_search_path(environ.get("PYTHONPATH", "")))
    python = _python()
    command = [python, "-I", "-S", "-c", _BETWEEN, python, "-P", "-m", MODULE]
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, writer, 3),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    if not _shows_output or not _is_open(2):
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    try:
        between = os.posix_spawn(python, command, environ, file_actions=actions, setsigmask=[signal.SIGINT])
    except OSError as error:
        raise SupervisorError(f"the supervisor cannot be started: {python}: {error.strerror}") from None
    with contextlib.suppress(ChildProcessError):  # a master's waitpid(-1) may be quicker
        os.waitpid(between, 0)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _python() -> str:
    """The interpreter; where ``sys.executable`` is an embedding program, the one beside its library."""
    here = sys.executable
    if here and Path(here).name.startswith(("python", "pypy")):
        return here
    return str(Path(sys.exec_prefix, "bin", "python3"))


def _search_path(given: str) -> list[str]:
    """PYTHONPATH for the supervisor: it runs in ``/``, and must find this very package."""
    entries = [str(Path(entry).absolute()) for entry in given.split(os.pathsep) if entry]
    root = str(Path(__file__).absolute().parent.parent)
    if Path(root).name not in ("site-packages", "dist-packages") and root not in entries:
        entries.append(root)
    return entries


def _hangs(path: str, pid: int) -> bool:
    """Whether this process listens at ``path`` and does not answer. Any sign of life counts, an end of
    file too."""
    try:
        sock = dial(path, time.monotonic())
    except SupervisorError:
        return True  # its queue is full
    if sock is None:
        return False
    with sock:
        who = peer(sock)
        if who is None or who.pid != pid:
            return False
        sock.settimeout(1.0)
        try:
            sock.sendall(wire.encode(wire.Ping()))
            sock.recv(1)
        except TimeoutError:
            return True
        except OSError:
            return False
    return False


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
