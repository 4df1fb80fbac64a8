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

import contextlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tests.warm.link import DEV, fork

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
