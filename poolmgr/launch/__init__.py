"""Find the supervisor, or start one: the only place that knows how.

There is one supervisor for each socket path. A process that finds none takes the ``flock`` on ``S.launch``
(``S`` is the path), looks again, and starts ``python -m poolmgr.supervisor``. The others wait for the lock and find
the new supervisor. Nothing here decides which process *is* the supervisor: the supervisor itself holds the ``flock``
on ``S.lock`` for life, and a second one that cannot get it exits at once. :mod:`poolmgr.spawn` starts the process.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from pathlib import Path

from poolmgr import wire
from poolmgr.errors import SupervisorError
from poolmgr.kernel import processes
from poolmgr.kernel.lockfile import STEP, STOPPED, holder, is_locked, silence
from poolmgr.kernel.peer import peer
from poolmgr.launch import dial, remedies, standing
from poolmgr.launch.dial import SILENT, StaysLockedError, locked
from poolmgr.native import monotonic, poll
from poolmgr.settings import Settings
from poolmgr.spawn import STARTUP_FD, Birth

MODULE = "poolmgr.supervisor"

STARTING = 10.0
"""Seconds for the start of a supervisor, or for the end of one that was killed. After that a supervisor that is linked
and silent counts as hung, even if it gives signs of life."""

PONG = 1.0
"""Seconds that a supervisor without a sign of life has to answer, before it is killed."""

ANOTHER_LOOK = 0.25
"""Seconds between two looks for a supervisor that another process has started meanwhile."""

DYING = 3.0
"""Seconds that a killed supervisor has to end. A process that is frozen, or waits in the kernel, takes longer."""


class NoSupervisorError(SupervisorError):
    """There is no supervisor, and the caller asked not to start one."""


def connect(settings: Settings, *, start: bool = True, timeout: float = STARTING) -> socket.socket:
    """A connected, blocking Unix stream socket to the supervisor.

    If none answers, this process starts one, provided ``start`` and the setting ``autostart`` say so. A
    connected socket does not prove that the supervisor is not hung: see :func:`replace_hung`.

    Args:
        timeout: seconds for everything together.

    Raises:
        SupervisorError: there is no supervisor, it cannot be started, or the one that listens is not ours.
        SettingsError: the default directory is not ours.
    """
    path = settings.socket
    deadline = monotonic() + timeout
    found = dial.dial(path, deadline)
    if found is not None:
        return found
    if not start:
        raise NoSupervisorError(f"no supervisor is listening on {path}: {_why_none(path)}")
    if not settings.autostart:
        raise SupervisorError(
            f"no supervisor is listening on {path}, and POOLMGR_AUTOSTART=0 forbids starting one; {remedies.start()}"
        )
    try:
        with locked(path + ".launch", monotonic() + timeout / 2):
            return dial.dial(path, deadline) or _start(path, deadline)
    except StaysLockedError:
        # The process that was starting one is stopped. The lock only spares the others from starting one too.
        found = dial.dial(path, deadline)
        if found is None and is_locked(path + ".lock"):
            raise
        return found or _start(path, deadline)


def _why_none(path: str) -> str:
    """For a caller that only looks: whether the absence is a fault, and whose."""
    if Path(f"{path}.snapshot").exists():
        return "the last one has ended; the next process that needs a connection starts one, which restores its ledger"
    return "none runs while no process uses a pool; if one does, set POOLMGR_SOCKET as it is set there"


def replace_hung(settings: Settings, sock: socket.socket | None = None) -> bool:
    """Kill a supervisor that gave no sign of life for :data:`SILENT` seconds, and does not answer now either.

    Every process can read the supervisor's signs (:func:`poolmgr.kernel.lockfile.silence`), so even a short-lived
    process sees a silence that it did not wait for. The kernel's credentials of ``sock``, a connection to the
    supervisor, name its pid. We kill it through a pidfd, so that a reused number cannot hit another process. A process
    must never go around a hung supervisor: it holds the ledger, so it has to be gone before another reads the snapshot.

    Args:
        sock: the silent connection; None if connecting failed.

    Returns:
        True if it was killed; call :func:`connect` again in either case.

    Raises:
        SupervisorError: this process may not kill it; the message says what to do.
    """
    path = settings.socket
    who = peer(sock) if sock is not None else None
    pid = who.pid if who is not None else holder(path + ".lock")
    if pid <= 0:
        raise SupervisorError(
            f"the supervisor at {path} does not answer, and its process is unknown; restart the service that started it"
        )
    with locked(path + ".launch", monotonic() + STARTING):
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
                    f"the supervisor at {path} (process {pid}) does not answer and was not started by us; "
                    f"{remedies.restart()}"
                )
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if _ends(pidfd, pid, DYING):
                return True
            raise SupervisorError(
                f"the supervisor at {path} (process {pid}) did not answer, was killed and does not end: it is frozen "
                "(thaw its cgroup) or waits for a device (ps: state D)"
            )
        except ProcessLookupError:
            return False
        except PermissionError:
            raise SupervisorError(
                f"the supervisor at {path} (process {pid}) does not answer and belongs to another user; "
                f"run as that user: kill {pid}"
            ) from None
        finally:
            os.close(pidfd)


def succeed(settings: Settings, pid: int) -> bool:
    """Replace a supervisor that is placed worse than this process by one that is placed as well as this process.

    The old one ends as on every SIGTERM: its successor restores the ledger from the snapshot, and members keep what
    they have. This replaces only a supervisor that a process like this one started. One that was started by hand or by
    systemd stays: its starter chose its place.

    Returns:
        Whether it was replaced.

    Raises:
        SupervisorError: the successor cannot be started; the next process that needs one tries again.
    """
    path, mine = settings.socket, standing.of()
    if mine is None:
        return False
    deadline = monotonic() + STARTING
    with locked(path + ".launch", deadline):
        theirs = standing.of(pid)
        if holder(path + ".lock") != pid or theirs is None or not mine.exceeds(theirs) or not _was_started(pid):
            return False
        try:
            pidfd = os.pidfd_open(pid)
            try:
                if not _was_started(pid):
                    return False
                signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                if not _ends(pidfd, pid, STARTING):
                    return False
            finally:
                os.close(pidfd)
        except OSError:  # it has ended, or it is another user's
            return False
        _start(path, deadline + STARTING).close()
    return True


def _was_started(pid: int) -> bool:
    """Whether a process is a supervisor that :mod:`poolmgr.spawn` has started."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    return MODULE in _command(pid) and any(entry.startswith(f"{STARTUP_FD}=".encode()) for entry in environ)


def _ends(pidfd: int, pid: int, timeout: float) -> bool:
    """Wait until a process has ended: its pidfd is readable then (pidfd_open(2)). Under a debugger the pidfd becomes
    readable only when the debugger has taken note of each thread's end, at whatever time."""
    poller = poll()  # not select(): a process may have more than 1024 descriptors
    poller.register(pidfd, select.POLLIN)
    deadline = monotonic() + timeout
    while not poller.poll(0):
        if processes.is_over(pid):
            return True
        if monotonic() > deadline:
            return False
        time.sleep(STEP)
    return True


def _start(path: str, deadline: float) -> socket.socket:
    """Start a supervisor and wait until it serves. Called with the launchers' lock held.

    A supervisor listens before it has loaded all that it needs. So a socket that accepts does not prove that it will
    serve. A supervisor that ends without a word was killed, which says nothing about the next one: we start another,
    once.

    Raises:
        SupervisorError: it ended, or ``deadline`` has passed.
    """
    killed = 0
    while True:
        birth = Birth(MODULE, path)
        try:
            found = _await(birth, path, deadline, may_be_killed=not killed)
            killed += found is None and birth.said_nothing
        finally:
            birth.close()
        if found is not None:
            return found


def _await(birth: Birth, path: str, deadline: float, *, may_be_killed: bool) -> socket.socket | None:
    """A connection to the supervisor that is starting, or to another one; None if that one has ended since.

    After :data:`STOPPED` seconds other processes start one too. From then on a supervisor that answers is the right
    one, even if the one that was started here said nothing.

    Args:
        may_be_killed: whether to return None, too, when the supervisor that is starting ends without a word.

    Raises:
        SupervisorError: as :func:`_start`.
    """
    look_at = monotonic() + STOPPED
    while True:
        over, late, another = birth.is_over(), monotonic() > deadline, False
        if monotonic() > look_at:
            look_at = monotonic() + ANOTHER_LOOK
            another = _answers(path)
        found = dial.dial(path, deadline) if over or late or another else None
        taken = is_locked(path + ".lock")
        if found is not None and (birth.serves or late or another or taken):
            return found
        if found is not None:
            found.close()
        if over and not birth.serves and not taken:
            if may_be_killed and birth.said_nothing and not late:
                return None
            raise SupervisorError(birth.why_not())
        if late:
            raise SupervisorError(f"the supervisor was started and does not listen at {path} yet")
        if over and not taken:
            return None  # the other one was about to end
        time.sleep(STEP)


def _hangs(path: str, pid: int) -> bool:
    """Whether this process listens at ``path`` and does not answer. Any sign of life counts as an answer, an
    end-of-file too."""
    if silence(path + ".lock") < SILENT:
        return False
    try:
        sock = dial.dial(path, monotonic())
    except SupervisorError:
        return True  # its queue is full
    if sock is None:  # it may have been stopped before it listened
        return holder(path + ".lock") == pid and silence(path + ".lock") > STARTING
    with sock:
        who = peer(sock)
        if who is None or who.pid != pid:
            return False
        sock.settimeout(PONG)
        try:
            sock.sendall(wire.encode(wire.Ping()))
            sock.recv(1)
        except TimeoutError:
            return silence(path + ".lock") >= SILENT
        except OSError:
            return False
    return False


def _answers(path: str) -> bool:
    """Whether a supervisor serves at ``path``. One that is still loading only listens."""
    try:
        sock = dial.dial(path, monotonic())
        if sock is None:
            return False
        with sock:
            sock.settimeout(ANOTHER_LOOK)
            sock.sendall(wire.encode(wire.Ping()))
            return bool(sock.recv(1))
    except (OSError, SupervisorError):
        return False


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
