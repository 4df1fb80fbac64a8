"""``make test``: the suite in phases, none of which skips the next.

Before the first, where pytest has written no bytecode of the suite yet, one process loads it all. That takes four
seconds of a processor; else each of eight workers takes nearly as much.

1. Most tests wait most of the time, so eight files run beside each other on two cores: with five, a fifth of the
   processors' time was left.
2. What measures time runs without them. Three of these files run at a time, since each waits nearly all of its time:
   together they want a quarter of one core.
3. What failed runs once more, alone. On two cores that eight files share, a process may get no turn for a second, and a
   bound of a second says nothing then. A test that passes alone is named in the end, with how busy the machine was: it
   is unsteady, and wants a bound that tells two behaviours apart. One that fails alone too has failed. If others kept
   the processors busy meanwhile it was not alone, and runs again, three times at most.

In the end it says how long each slice took (:mod:`tests.slices`).

Variables: ``LOAD=8`` runs as many busy processes beside the suite; ``AGAIN=0`` leaves phase 3 out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests import slices
from tests.helpers import ROOT
from tests.slices import CACHE
from tests.stopwatch import Stopwatch

MOST = 100
"""Tests that run again, of some five thousand. More are no accident of scheduling, and take long alone."""

TIMES = 3
ALONE = 0.25
"""How often what failed runs again at most, and from which share of time on in which a processor was waited for."""

NOTHING_TO_RUN = 5
"""pytest's exit status (docs.pytest.org, "Exit codes")."""

FAILED = 1

MANY = 20
"""Files of the suite that are new from which on it is loaded once more before the workers load it."""


class Phase:
    """A selection of tests; what fails of it is remembered in a cache of its own."""

    def __init__(self, name: str, *options: str) -> None:
        self._options = options
        self._cache = CACHE / name

    def run(self, arguments: list[str]) -> int:
        return self._pytest("-p", "tests.slices", *self._options, *arguments)

    def again(self, arguments: list[str]) -> int:
        """Only what has failed, and alone."""
        selection = [option for option in self._options if not option.startswith(("-n", "--dist", "--no-"))]
        return self._pytest(*selection, "--last-failed", "--last-failed-no-failures=none", *arguments)

    def failed(self) -> list[str]:
        """The tests that have failed when they were last run."""
        with contextlib.suppress(OSError, ValueError):
            return sorted(json.loads((self._cache / "v/cache/lastfailed").read_text()))
        return []

    def forget(self) -> None:
        for name in ("cache/lastfailed", slices.KEPT):
            (self._cache / "v" / name).unlink(missing_ok=True)

    def _pytest(self, *options: str) -> int:
        command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={self._cache}", *options]
        status = subprocess.call(command, cwd=ROOT)
        return 0 if status == NOTHING_TO_RUN else status


def main(arguments: list[str]) -> int:
    # A shell's ``&`` has SIGINT ignored, and all that is started from there inherits it: the tests send some.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    phases = [
        Phase(slices.PHASES[0], "-n8", "--dist=loadfile", "--no-loadscope-reorder", "-mnot timing"),
        Phase(slices.PHASES[1], "-n3", "--dist=loadfile", "-mtiming"),
    ]
    if not arguments:
        load(ROOT, CACHE / "loaded")
    with busy(int(os.environ.get("LOAD") or 0)):
        watch, times = Stopwatch(), 0
        statuses = []
        for phase in phases:
            phase.forget()
            statuses.append(phase.run(arguments))
        print(slices.table(slices.of_phases([slices.kept(CACHE / name) for name in slices.PHASES])), flush=True)
        share = watch.shortage()
        failed = [phase.failed() for phase in phases]
        again = os.environ.get("AGAIN") != "0" and 0 < sum(map(len, failed)) <= MOST
        while again and max(statuses) == FAILED:
            watch = Stopwatch()
            statuses = [
                phase.again(arguments) if status and phase.failed() else status
                for phase, status in zip(phases, statuses, strict=True)
            ]
            times += 1
            again = times < TIMES and watch.shortage() > ALONE
    unsteady = [
        test for phase, tests in zip(phases, failed, strict=True) for test in tests if test not in phase.failed()
    ]
    if unsteady:
        print(f"unsteady: failed beside others, passed alone (a processor was waited for {share:.0%} of the time)")
        print(*(f"  {test}" for test in unsteady), sep="\n", flush=True)
    return max(statuses)


def load(root: Path, stamp: Path) -> None:
    """Have pytest write the bytecode of the tests there, if they have changed since ``stamp``."""
    last = stamp.stat().st_mtime if stamp.exists() else 0.0
    if sum(path.stat().st_mtime > last for path in (root / "tests").rglob("*.py")) > MANY:
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
        subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL)  # what is wrong the first phase says
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.touch()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that use all the time they get."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
