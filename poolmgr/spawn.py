"""Start a supervisor as a child of init, and learn whether it serves.

The supervisor must not be the child of a gunicorn master, whose ``waitpid(-1)`` would reap it, nor a zombie of a
process that never waits. It must not keep a descriptor of its starter. So a short-lived Python in between closes
everything, makes its own session, starts the supervisor and ends, and the kernel hands the supervisor to init. The
supervisor must not be as slow as its starter wants to be: scheduling class, niceness and soft limits are reset as far
as the system allows.

The supervisor needs this package and its dependencies, wherever this process found them: a path that a script added
(``addsitedir``, ``activate_this``), an unpacked PEX, an embedding program's home. So it gets this process's
``sys.path`` after its own, so that another Python's standard library does not precede the right one. Until it serves,
its standard error goes to the process that waits for it. So the reason why it cannot start, an import error above all,
reaches the caller's exception.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import site
import sys
from pathlib import Path

from poolmgr import gil
from poolmgr.errors import SupervisorError
from poolmgr.native import read, write

STARTUP_FD = "POOLMGR_STARTUP_FD"
"""Names the descriptor on which a supervisor reports to its starter that it serves, or why it cannot."""

STARTUP_PATH = "POOLMGR_STARTUP_PATH"
"""The starter's ``sys.path``."""

STARTUP_OUTPUT = "POOLMGR_STARTUP_OUTPUT"
"""Names the descriptor that becomes a supervisor's standard error when it serves."""

_REPORT, _OUTPUT = 3, 4
"""The numbers of these two descriptors in a supervisor that is started from here."""

_SERVES = b"\n"
"""The whole report of a supervisor that serves."""

_BETWEEN = """\
import os, resource, sys
try:
    import _signal as signal
except ImportError:
    import signal
os.umask(0o77)
os.chdir("/")
os.setsid()
for better in (
    lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
    lambda: os.sched_setaffinity(0, range(os.cpu_count() or 1)),
    lambda: os.getpriority(os.PRIO_PROCESS, 0) > 0 and os.setpriority(os.PRIO_PROCESS, 0, 0),
    lambda: [
        resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)
        for limit in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE)
    ],
):
    try:
        better()
    except (AttributeError, OSError, ValueError):
        pass
handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_SETMASK, ())
signal.signal(signal.SIGINT, handler)
for fd in [int(name) for name in os.listdir("/dev/fd")]:
    if fd > 4:
        try:
            os.close(fd)
        except OSError:
            pass
os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
os._exit(0)
"""
"""What the short-lived Python runs. SIGINT is blocked when it starts, so that Ctrl-C does not strike it before it
has left the terminal's group; a SIGINT that has arrived is dropped. Nothing else happens meanwhile, so it does without
the names of numbers that ``signal`` makes, a copy of its memory (``fork``) and the interpreter's orderly end: together
they take as long as all the rest of it."""

_FROM_ELSEWHERE = """\
import runpy, sys
sys.path.append(sys.argv[1])
module = sys.argv[2]
del sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""``-m`` for a module that this interpreter would not find by itself."""

_NOT_FOR_IT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""systemd meant these for the process that starts the supervisor."""

EXHAUSTED = os.strerror(errno.EAGAIN), os.strerror(errno.ENOMEM), "can't start new thread"
"""Texts of errors that mean: a limit of the system forbids the start."""

MORE = "raise the limit of processes (ulimit -u, TasksMax=, pids.max) or of memory, or end what uses it up"

_path = sys.path
"""Kept here, because ``sys.path`` is None at the interpreter's end."""

_shows_output = False
"""Whether a supervisor started from here writes its log to this process's standard error."""


def show_output() -> None:
    """Let a supervisor that this process or its child starts log to our standard error.

    For a service only, since that is its log. A supervisor outlives the process that started it, and a caller that
    reads a script's standard error to its end would wait for the supervisor's.
    """
    global _shows_output
    _shows_output = True


class Pipe:
    """The reading half of a pipe that a starting supervisor writes to."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        # Out of the way of the numbers that the child is to have.
        self.writer = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 10)
        os.close(writer)
        os.set_blocking(self._reader, False)
        self.said, self.ended = b"", False

    def read(self) -> None:
        """Read what was written. Afterwards :attr:`ended` says whether all writers are gone."""
        with contextlib.suppress(BlockingIOError):
            while not self.ended:
                piece = read(self._reader, 4096)
                self.said, self.ended = (self.said + piece)[-16384:], not piece

    def close_writer(self) -> None:
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def close(self) -> None:
        self.close_writer()
        os.close(self._reader)


class Birth:
    """A supervisor that is starting, as its starter sees it. Close it."""

    def __init__(self, module: str, path: str) -> None:
        """Run the short-lived Python, and wait until it has ended.

        Args:
            module: what ``python -m`` runs.
            path: the supervisor's socket.

        Raises:
            SupervisorError: there is no Python to run.
        """
        self._module = module
        self._report, self._words = Pipe(), Pipe()
        try:
            _spawn(module, path, self._report.writer, self._words.writer)
        except BaseException:
            self.close()
            raise
        self._report.close_writer()
        self._words.close_writer()

    def close(self) -> None:
        self._report.close()
        self._words.close()

    def is_over(self) -> bool:
        """Whether it serves, or has failed; raises nothing."""
        self._report.read()
        self._words.read()
        return self._report.ended and (self._report.said == _SERVES or bool(self._report.said) or self._words.ended)

    @property
    def serves(self) -> bool:
        return self._report.said == _SERVES

    @property
    def said_nothing(self) -> bool:
        """After :meth:`is_over`: it ended without a word, as a killed process does."""
        return not self._report.said and not self._words.said.strip()

    def why_not(self) -> str:
        """After :meth:`is_over`: why it does not serve, in its own words if it wrote any."""
        report = self._report.said.decode(errors="replace").strip()
        if report:
            return f"the supervisor could not start: {report}"
        words = [line.strip() for line in self._words.said.decode(errors="replace").splitlines() if line.strip()]
        fatal = [line for line in words if line.startswith("Fatal Python error")]  # what follows says less
        last = f": {(fatal or words)[-1]}" if words else ""
        if any(sign in last for sign in EXHAUSTED):
            return f"the supervisor cannot be started{last}; {MORE}"
        return (
            f"the supervisor ended as soon as it was started{last}; to see more, start it by hand: "
            f"{interpreter()} -m {self._module}"
        )


def report_start(error: str = "") -> None:
    """For the supervisor: report to its starter that it serves, or why it cannot (one line)."""
    report, output = os.environ.pop(STARTUP_FD, ""), os.environ.pop(STARTUP_OUTPUT, "")
    said = error.strip().replace("\n", " ")[:1000].encode() or _SERVES
    if report.isdigit():
        with contextlib.suppress(OSError):
            write(int(report), said)
            os.close(int(report))
    if output.isdigit():
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            if said == _SERVES:
                os.dup2(int(output), 2)
            os.close(int(output))


def output() -> int:
    """For the supervisor, before :func:`report_start`: the descriptor that is its standard error once it serves."""
    given = os.environ.get(STARTUP_OUTPUT, "")
    return int(given) if given.isdigit() else 2


def extend_path() -> None:
    """For the supervisor, before it loads any other package: search its starter's path too, after its own."""
    found = os.environ.pop(STARTUP_PATH, "")
    sys.path += [entry for entry in found.split(os.pathsep) if entry and entry not in sys.path]


def interpreter() -> str:
    """A Python's path; where ``sys.executable`` is an embedding program, the one beside its library."""
    here = sys.executable
    if here and Path(here).name.startswith(("python", "pypy")):
        return here
    return str(Path(sys.exec_prefix, "bin", "python3"))


def _spawn(module: str, path: str, report: int, words: int) -> None:
    """``posix_spawn`` and not ``fork``: it runs none of this process's fork handlers, and is safe in a
    process with threads. Not :mod:`subprocess`: gevent replaces its waiting by a child watcher that
    works in one thread only.
    """
    environ = {name: value for name, value in os.environ.items() if not _is_kept_from_it(name)}
    environ["POOLMGR_SOCKET"] = path
    environ[STARTUP_FD], environ[STARTUP_OUTPUT] = str(_REPORT), str(_OUTPUT)
    environ["PYTHONPATH"] = os.pathsep.join(_search_path(environ.get("PYTHONPATH", "")))
    environ[STARTUP_PATH] = os.pathsep.join(os.path.abspath(entry) for entry in sys.path or _path if entry)
    python = interpreter()
    run = ["-m", module] if _is_found() else ["-c", _FROM_ELSEWHERE, _root(), module]
    user_site = ["-s"] if sys.flags.no_user_site else []
    command = [python, "-I", "-S", "-c", _BETWEEN, python, "-P", *gil.options(), *user_site, *run]
    shown = _shows_output and _is_open(2)
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, report, _REPORT),
        (os.POSIX_SPAWN_DUP2, 2, _OUTPUT) if shown else (os.POSIX_SPAWN_OPEN, _OUTPUT, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
    ]
    if not _is_earlier():
        actions.append((os.POSIX_SPAWN_DUP2, words, 2))
    elif not shown:
        actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
    try:
        between = os.posix_spawn(python, command, environ, file_actions=actions, setsigmask=[signal.SIGINT])
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.ENOMEM):
            raise SupervisorError(f"the supervisor cannot be started: {error.strerror}; {MORE}") from None
        raise SupervisorError(
            f"the supervisor cannot be started: {python}: {error.strerror}; start it by hand with a Python that has "
            f"this package: python -m {module}"
        ) from None
    with contextlib.suppress(ChildProcessError):  # a master's waitpid(-1) may be quicker
        os.waitpid(between, 0)


def _is_kept_from_it(name: str) -> bool:
    """Whether a variable is not for the supervisor. It also ignores what this interpreter ignores (``-E``, ``-I``)."""
    return name in _NOT_FOR_IT or bool(sys.flags.ignore_environment and name.startswith("PYTHON"))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _is_earlier() -> bool:
    """Whether the files of this package have been replaced by those of version 0.1.0. A supervisor of 0.1.0 logs
    to the standard error that it is started with, and reports that it serves by closing the report without a word."""
    return Path(_root()).is_dir() and not Path(__file__).exists()


def _root() -> str:
    """The directory, or the archive, that this package was loaded from."""
    return _ROOT


_ROOT = str(Path(sys.modules[__name__.partition(".")[0]].__file__ or "").absolute().parents[1])
"""Found while the package is loaded: at the interpreter's end there are no modules any more."""


def _is_packages(directory: str) -> bool:
    return Path(directory).name in ("site-packages", "dist-packages")


def _is_found() -> bool:
    """Whether the interpreter finds this package by itself, given :func:`_search_path`."""
    root = _root()
    if not _is_packages(root):
        return Path(root).is_dir()
    usual = [*site.getsitepackages(), site.getusersitepackages() if site.ENABLE_USER_SITE else ""]
    return interpreter() == sys.executable and root in usual


def _search_path(given: str) -> list[str]:
    """PYTHONPATH for the supervisor: it runs in ``/``, and must find this very package.

    PYTHONPATH precedes the standard library. So a directory for packages, which may be another Python's, is not added.
    """
    entries = [str(Path(entry).absolute()) for entry in given.split(os.pathsep) if entry]
    root = _root()
    if not _is_packages(root) and root not in entries:
        entries.append(root)
    return entries
