"""Start Python programs from one that has loaded everybody's packages already: a start takes a fifth of the time.

A suite of thousands of processes spends most of its time on loading redis, asyncio, gunicorn and so on, and again on
unloading them. So each process of pytest has a *warm* Python beside it that has loaded these packages, and nothing of
ours, and forks for each program. What it forks is a child of pytest's process (``CLONE_PARENT``, clone(2)), and has the
program's own arguments and environment, also in ``/proc``. A program under ``-X dev`` comes from a second one.

What is different: the packages are there already, their modules are old for the garbage collector, and no interpreter
was started. A test that is about one of these starts a real one: ``cold=True``. So does everything that a warm Python
cannot do: other options of the interpreter, other locales, other interpreters, systems without that call.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import inspect
import io
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent

UNDERSTOOD = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE"}
"""Variables of the interpreter's that a warm one obeys too."""

DECIDES_A_START = (
    "PYTHON", "LANG", "LC_", "TZ", "LD_", "MALLOC_", "GLIBC_", "OPENSSL_", "SSL_",
    "NO_COLOR", "FORCE_COLOR", "TERM",
)  # fmt: skip
"""What else is read when a process starts, by how its names begin. Others than ours: a cold start."""

ABOUT_A_START = re.compile(
    r"gevent|eventlet|freezegun|time_machine|monkey|importlib|interpreters|sys\.(modules|path|flags)|site|atexit|__del__"
    r"|gc\.|finaliz|weakref|fork|exec|multiprocessing|limit|stack_size|faulthandler|ctypes|asyncio|warnings"
)
"""A program that has one of these words in its text is a cold start: it is about what is loaded when, or about the
interpreter's beginning or end."""

CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
CLONE_PARENT = 0x8000
PR_SET_NAME, PR_SET_MM, PR_SET_MM_MAP = 15, 35, 14
DEV = ["-X", "dev"]
LONGEST = 100_000
"""Bytes of a job; a packet on a Unix socket takes 200,000."""


class Popen(subprocess.Popen[Any]):
    """As :class:`subprocess.Popen`, from the warm Python where that makes no difference.

    Args:
        cold: start a real interpreter.
    """

    def __init__(self, args: Sequence[str | os.PathLike[str]], *, cold: bool = False, **options: Any) -> None:
        self._cold = cold or bool(options.keys() - {"cwd", "env", "stdin", "stdout", "stderr", "text"})
        super().__init__(args, **options)

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(super()._execute_child).bind(*arguments).arguments  # type: ignore[misc]
        program = None if self._cold else _program([os.fspath(word) for word in given["args"]])
        environ = os.environ if given["env"] is None else given["env"]
        pid = 0
        if program is not None and _usual(environ):
            standard = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
            job = {
                **program,
                "argv": [os.fspath(word) for word in given["args"]],
                "environ": dict(environ),
                "cwd": os.fspath(given["cwd"] or os.getcwd()),
                "umask": _umask(),
            }
            pid = fork(job, [number if pipe == -1 else pipe for number, pipe in enumerate(standard)])
        if not pid:
            return super()._execute_child(*arguments)  # type: ignore[misc, no-any-return]
        self.pid = pid
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in names))  # type: ignore[attr-defined]
        return None


def run(
    args: Sequence[str | os.PathLike[str]], *, cold: bool = False, timeout: float, check: bool, **options: Any
) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with ``capture_output`` and ``text``."""
    with Popen(args, cold=cold, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def _program(words: list[str]) -> dict[str, Any] | None:
    """What the warm Python is to run; None where it cannot."""
    if words[1:3] == DEV:
        found = _program([words[0], *words[3:]])
        return found and {**found, "dev": True}
    if words[0] == sys.executable and len(words) > 1:
        if words[1] in ("-c", "-m") and len(words) > 2:
            return {"-c": {"code": words[2]}, "-m": {"module": words[2]}}[words[1]]
        return {"script": words[1]} if words[1].endswith(".py") else None
    with contextlib.suppress(OSError, UnicodeError):
        with open(words[0]) as script:
            return {"script": words[0]} if script.readline() == f"#!{sys.executable}\n" else None
    return None


def _usual(environ: Mapping[str, str]) -> bool:
    return all(
        os.environ.get(name) == environ.get(name)
        for name in environ.keys() | os.environ.keys()
        if name.startswith(DECIDES_A_START) and name not in UNDERSTOOD
    )


def _umask() -> int:
    os.umask(found := os.umask(0o77))
    return found


class _Warm:
    """The warm Python, as pytest's process sees it."""

    _ours: ClassVar[dict[bool, _Warm | None]] = {}
    _pid = 0

    def __init__(self, dev: bool) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Its path is that of a start without PYTHONPATH, after the working directory.
        theirs_not = ("POOLMGR_", "REDIS_", "PYTHONPATH")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(theirs_not)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *(DEV if dev else ()), "-m", "tests.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environ, cwd=ROOT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.able = self._link.recv(16) == b"able"

    @classmethod
    def ours(cls, dev: bool = False) -> _Warm | None:
        """This process's own, if it can be had."""
        if cls._pid != os.getpid():
            cls._pid, cls._ours = os.getpid(), {}
        if dev not in cls._ours:
            cls._ours[dev] = None
            if CLONE is not None and sys.platform == "linux":
                made = cls(dev)
                cls._ours[dev] = made if made.able else None
                atexit.register(made.end, os.getpid())
        return cls._ours[dev]

    @classmethod
    def forget(cls) -> None:
        cls._ours = {False: None, True: None}

    def end(self, pid: int) -> None:
        if pid == os.getpid():
            self._link.close()
            self._process.wait(10)

    def fork(self, data: bytes, standard: list[int]) -> int:
        socket.send_fds(self._link, [b"%d" % len(data)], standard)
        self._link.sendall(data)
        return int(self._link.recv(32))


_lock = threading.Lock()


def _unlocked() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlocked)


def fork(job: dict[str, Any], standard: list[int]) -> int:
    """The new process's pid; 0 where there is no warm Python, or none any more."""
    data = json.dumps(job).encode()
    with _lock:
        warm = _Warm.ours(job.get("dev", False)) if len(data) < LONGEST else None
        try:
            return warm.fork(data, standard) if warm is not None else 0
        except (OSError, ValueError):  # a test has killed it
            _Warm.forget()
            return 0


# ---- the warm Python -----------------------------------------------------------------------------------

_libc: Any = None
_kept: list[Any] = []
_loaded: list[str] = []
"""Names of modules that the warm Python has loaded, as each start does or before the program could."""

STAYS = {"__main__", "builtins", "sys", "warnings", "linecache"}
"""What an interpreter that ends needs: the last two for a warning about what it frees then."""


def _load() -> None:
    import importlib

    atexit.register(_leave)  # the first of all, so the last one to run
    sys.modules["rich"] = None  # type: ignore[assignment]  # as a supervisor has it
    names = ["structlog"]
    names += [
        "secrets",
        "asyncio",
        "redis",
        "redis.asyncio",
        "redis.sentinel",
        "redis.cluster",
        "hiredis",
        "msgspec",
        "psutil",
    ]
    # Of gunicorn what reads no variable of the environment while it is loaded, as its config does.
    names += ["gunicorn.util", "gunicorn.sock", "gunicorn.http", "gunicorn.reloader", "argparse", "grp", "pwd"]
    names += ["uvloop"] if sys.flags.dev_mode else []  # these programs are about tasks
    names += ["falcon", "ssl", "runpy", "subprocess", "logging.config", "queue", "http.client"]
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    del sys.modules["rich"]
    assert "gunicorn.config" not in sys.modules and "poolmgr" not in sys.modules
    _loaded.extend(sys.modules.keys() - STAYS)
    for name in _loaded:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(sys.modules[name]))
    _keep_code()


def _keep_code() -> None:
    """Keep the code objects of our modules. Each program still executes them itself, and does not unmarshal them again.

    Only the same bytes, of the same file, are the same code.
    """
    import importlib._bootstrap_external as machinery
    from importlib.util import cache_from_source

    before: Any = machinery._compile_bytecode  # type: ignore[attr-defined]
    kept: dict[str, tuple[bytes, Any]] = {}

    def compile_bytecode(data: Any, name: Any = None, bytecode_path: Any = None, source_path: Any = None) -> Any:
        found = kept.get(bytecode_path)
        if found is not None and found[0] == data:
            return found[1]
        return before(data, name, bytecode_path, source_path)

    for package in ("poolmgr", "worker"):
        for source in (ROOT / package).rglob("*.py"):
            place = cache_from_source(str(source))
            with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
                data = Path(place).read_bytes()[16:]
                kept[place] = data, before(data, None, place, str(source))
    machinery._compile_bytecode = compile_bytecode  # type: ignore[attr-defined]


def _leave() -> None:
    """Leave what was loaded here to the kernel: to free each object takes longer than the start did. What else a
    program has is freed as ever, after its own last calls."""
    for name in _loaded:
        sys.modules.pop(name, None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):  # the interpreter finds that too, and ends with another status
        _Last.status = None


class _Last:
    """What is freed when all else is, and then ends the process: to clear the interpreter itself, and OpenSSL, takes as
    long as all before.

    It is an attribute of ``sys``: modules are freed before, and of ``sys`` what was there first.
    """

    status: ClassVar[int | None] = None
    """With which the program has ended, if that is known."""

    def __del__(self, leave: Any = os._exit) -> None:
        if self.status is not None:
            leave(self.status)


class _Map(ctypes.Structure):
    """``struct prctl_mm_map`` of linux/prctl.h."""

    _fields_ = [
        *((name, ctypes.c_uint64) for name in (
            "start_code", "end_code", "start_data", "end_data", "start_brk", "brk", "start_stack",
            "arg_start", "arg_end", "env_start", "env_end", "auxv",
        )),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]  # fmt: skip


def _rename(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Have ``/proc`` show these (prctl(2), PR_SET_MM_MAP); whether it does."""
    words = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items())
    place = ctypes.create_string_buffer(words + variables)
    _kept.append(place)
    begin = ctypes.addressof(place)
    # From proc(5): the numbers there begin with 1, and the first two are left of the bracket.
    stat = [int(word) for word in Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[1:]]
    start_code, end_code, start_stack = stat[22:25]
    start_data, end_data, start_brk = stat[41:44]
    _libc.sbrk.restype = ctypes.c_void_p
    wanted = _Map(
        start_code, end_code, start_data, end_data, start_brk, _libc.sbrk(0), start_stack,
        begin, begin + len(words), begin + len(words), begin + len(words + variables), 0, 0, 0xFFFFFFFF,
    )  # fmt: skip
    return bool(_libc.prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.byref(wanted), ctypes.sizeof(wanted), 0) == 0)


def _serve(link: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each job; returns in the child, with its job and its standard descriptors."""
    while True:
        size, standard, _, _ = socket.recv_fds(link, 64, 3)
        if not size:
            os._exit(0)
        data = b""
        while len(data) < int(size):
            data += link.recv(LONGEST)
        ctypes.pythonapi.PyOS_BeforeFork()
        pid = _libc.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
        if pid == 0:
            ctypes.pythonapi.PyOS_AfterFork_Child()
            return json.loads(data), standard
        ctypes.pythonapi.PyOS_AfterFork_Parent()
        link.send(b"%d" % pid)
        for descriptor in standard:
            os.close(descriptor)


def _become(job: dict[str, Any], standard: list[int]) -> None:
    """A process as if it had been started so."""
    for number, descriptor in enumerate(standard):
        os.dup2(descriptor, number)
    os.closerange(3, 1024)
    os.chdir(job["cwd"])
    os.umask(job["umask"])
    environ = job["environ"]
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)
    _rename(
        job["argv"] if "script" not in job or job["argv"][0] == sys.executable else [sys.executable, *job["argv"]],
        environ,
    )
    name = os.path.basename(job["script"] if "script" in job and job["argv"][0] != sys.executable else sys.executable)
    _libc.prctl(PR_SET_NAME, name.encode()[:15], 0, 0, 0)
    sys.dont_write_bytecode = bool(environ.get("PYTHONDONTWRITEBYTECODE"))
    if environ.get("PYTHONFAULTHANDLER"):
        import faulthandler

        faulthandler.enable()
    _open_standard(bool(environ.get("PYTHONUNBUFFERED")))
    words = job["argv"] if job["argv"][0] != sys.executable else job["argv"][3 if "dev" in job else 1 :]
    if "script" in job:
        first = str(Path(job["script"]).resolve().parent)
        sys.argv = words
    else:
        first = "" if "code" in job else os.getcwd()
        sys.argv = [words[0], *words[2:]]
    given = [os.path.abspath(entry) for entry in environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [first, *given, *(entry for entry in sys.path[1:] if entry not in given)]
    for entry in [entry for entry, finder in sys.path_importer_cache.items() if finder is None]:
        del sys.path_importer_cache[entry]  # it may be there now; a finder sees for itself that its directory is newer


def _open_standard(unbuffered: bool) -> None:
    """As a start does, from what the descriptors are now."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        before = getattr(sys, f"__{name}__")
        raw = io.FileIO(number, mode, closefd=False)
        raw.name = f"<{name}>"
        buffer = io.BufferedReader(raw) if mode == "r" else raw if unbuffered else io.BufferedWriter(raw)
        lines = not unbuffered and (name == "stderr" or os.isatty(number))
        opened = io.TextIOWrapper(
            buffer, before.encoding, before.errors, line_buffering=lines, write_through=unbuffered
        )
        opened.mode = mode  # type: ignore[misc]
        setattr(sys, name, opened)
        setattr(sys, f"__{name}__", opened)


def _main() -> Any:
    """In each child: what it is to run."""
    global _libc
    import gc

    gc.disable()
    _libc = ctypes.CDLL(None, use_errno=True)
    _load()
    with socket.socket(fileno=int(sys.argv[1])) as link:
        able = _rename(["tests.warm"], os.environ)
        link.send(b"able" if able else b"not")
        if not able:
            os._exit(0)
        gc.collect()
        gc.freeze()
        job, standard = _serve(link)
        link.detach()
    gc.enable()
    _become(job, standard)
    return job


def _end(job: dict[str, Any]) -> None:
    """Run it, and see how it ends."""
    sys.tests_warm_last = _Last()  # type: ignore[attr-defined]
    try:
        _run(job)
    except SystemExit as ended:
        _Last.status = (ended.code or 0) & 0xFF if isinstance(ended.code, int | None) else 1
        raise
    except Exception:
        _Last.status = 1
        raise
    _Last.status = 0


def _run(job: dict[str, Any]) -> None:
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    main.__dict__.update(__builtins__=__builtins__, __annotations__={})
    if "module" in job:
        import runpy

        runpy._run_module_as_main(job["module"])  # type: ignore[attr-defined]  # as -m does
    elif "code" in job:
        exec(compile(job["code"], "<string>", "exec"), main.__dict__)
    else:
        main.__dict__.update(__file__=job["script"], __cached__=None)
        exec(compile(Path(job["script"]).read_bytes(), job["script"], "exec"), main.__dict__)


if __name__ == "__main__":
    _end(_main())
