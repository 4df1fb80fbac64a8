"""One part of the benchmarks runs in its own process: ``python -m bench.lib.part KEY FILE``.

So all parts start equally cold, a part that fails or hangs does not affect the others, and its imports and
patches cannot slow the next part down. Progress goes to standard output, a line for each step; the
result goes to the file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import msgspec

from bench.lib import servers
from bench.lib.results import Part
from poolmgr.settings.table import BY_NAME
from tests.helpers import ROOT

PARTS = (
    "clients",
    "checkout",
    "get",
    "instructions",
    "burst",
    "fairness",
    "skew",
    "service",
    "moves",
    "scale",
    "crowded",
    "fleet",
    "lag",
    "tasks",
    "moment",
)
"""In the order in which they run: the modules of :mod:`bench.parts`."""


class Progress(Protocol):
    def steps(self, count: int, what: str) -> None: ...
    def step(self, what: str = "") -> None: ...


class Context:
    """The surroundings of a part.

    Attributes:
        directory: private and with a short path; for servers and the supervisor's socket.
        quick: a short run that shows that everything works; its figures mean little.
    """

    def __init__(self, directory: Path, quick: bool) -> None:
        self.directory = directory
        self.quick = quick

    def rounds(self, count: int) -> int:
        return 2 if self.quick else count

    def seconds(self, value: float) -> float:
        """How long to measure; a quick run takes a fifth."""
        return value / 5 if self.quick else value

    def steps(self, count: int, what: str) -> None:
        _say("steps", count, what)

    def step(self, what: str = "") -> None:
        _say("step", what)


def _say(*words: object) -> None:
    print(json.dumps(words), flush=True)


def module(key: str) -> ModuleType:
    """A part: ``TITLE``, ``SECONDS`` (how long it takes, about) and ``run(context) -> Part``."""
    return importlib.import_module(f"bench.parts.{key}")


def _heard(line: bytes) -> list[Any] | None:
    """What the part has said with :func:`_say`; None: another has written this."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, list) and said and said[0] in Progress.__dict__ else None


# ---- in the parent ---------------------------------------------------------------------------------


def run(key: str, *, quick: bool, progress: Progress) -> Part:
    """Run one part; what went wrong is in the result, never raised."""
    found = module(key)
    started = time.monotonic()
    with _private_directory() as directory:
        target = directory / "result.json"
        environ = {name: value for name, value in os.environ.items() if name not in BY_NAME}
        environ["POOLMGR_SOCKET"] = str(directory / "s")
        command = [sys.executable, "-m", "bench.lib.part", key, str(target), str(directory), str(int(quick))]
        log = directory / "log"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors,
                start_new_session=True,
            )  # fmt: skip
        watchdog = threading.Timer(60 + 3 * found.SECONDS, _end_session, (process.pid,))
        watchdog.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                said = _heard(line)
                if said is None:  # a log line, of what the part runs
                    with log.open("ab") as file:
                        file.write(line)
                else:
                    what, *words = said
                    getattr(progress, what)(*words)
            process.wait()
        finally:
            watchdog.cancel()
            _end_session(process.pid)
            process.wait()
            for socket in directory.glob("*.lock"):
                servers.end_supervisor(socket.with_suffix(""))
        try:
            part = msgspec.json.decode(target.read_bytes(), type=Part)
        except (OSError, msgspec.DecodeError):
            tail = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it was ended"]
            part = Part(key=key, title=found.TITLE, error=f"status {process.returncode}: {tail[0]}")
        if part.error:
            keep = Path(tempfile.gettempdir()) / f"poolmgr-bench-{key}.log"
            shutil.copy(log, keep)
            part.facts["log"] = str(keep)
    part.seconds = round(time.monotonic() - started, 1)
    return part


def _end_session(pid: int) -> None:
    """End the part and all that it has started; what made a session of its own is ended elsewhere."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@contextlib.contextmanager
def _private_directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="pmb-", dir="/tmp"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


# ---- in the child ----------------------------------------------------------------------------------


def main(key: str, target: str, directory: str, quick: str) -> int:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    found = module(key)
    try:
        part: Part = found.run(Context(Path(directory), quick == "1"))
    except BaseException as error:
        traceback.print_exc()
        text = str(error).strip().splitlines()
        part = Part(key=key, title=found.TITLE, error=f"{type(error).__name__}: {text[0] if text else ''}")
    Path(target).write_bytes(msgspec.json.encode(part))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # not at the mercy of a peer's threads


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
