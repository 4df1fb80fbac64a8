"""``make test``: the suite in phases, none of which skips the next.

1. Most tests wait most of the time, so several files run beside each other.
2. What measures time runs alone.
3. What failed runs once more, alone. On two cores that five files share, a process may get no turn for a second, and a
   bound of a second says nothing then. A test that passes alone is named in the end, with how busy the machine was: it
   is unsteady, and wants a bound that tells two behaviours apart. One that fails alone too has failed.

Variables: ``LOAD=8`` runs as many busy processes beside the suite; ``AGAIN=0`` leaves phase 3 out.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

from tests.helpers import ROOT
from tests.stopwatch import scarcity

CACHE = ROOT / ".pytest_cache"

MOST = 20
"""Tests that may be unsteady. More are no accident of scheduling."""

NOTHING_TO_RUN = 5
"""pytest's exit status (docs.pytest.org, "Exit codes")."""

FAILED = 1


class Phase:
    """A selection of tests; what fails of it is remembered in a cache of its own."""

    def __init__(self, name: str, *options: str) -> None:
        self._options = options
        self._cache = CACHE / name

    def run(self, arguments: list[str]) -> int:
        return self._pytest(*self._options, *arguments)

    def again(self, arguments: list[str]) -> int:
        """Only what has failed, and alone."""
        selection = [option for option in self._options if not option.startswith(("-n", "--dist"))]
        return self._pytest(*selection, "--last-failed", "--last-failed-no-failures=none", *arguments)

    def failed(self) -> list[str]:
        """The tests that have failed when they were last run."""
        with contextlib.suppress(OSError, ValueError):
            return sorted(json.loads((self._cache / "v/cache/lastfailed").read_text()))
        return []

    def forget(self) -> None:
        (self._cache / "v/cache/lastfailed").unlink(missing_ok=True)

    def _pytest(self, *options: str) -> int:
        command = [sys.executable, "-m", "pytest", "-o", f"cache_dir={self._cache}", *options]
        status = subprocess.call(command, cwd=ROOT)
        return 0 if status == NOTHING_TO_RUN else status


def main(arguments: list[str]) -> int:
    # A shell's ``&`` has SIGINT ignored, and all that is started from there inherits it: the tests send some.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    phases = [
        Phase("beside", "-n5", "--dist=loadfile", "-mnot timing"),
        Phase("alone", "-mtiming"),
    ]
    with busy(int(os.environ.get("LOAD") or 0)):
        began, waited = time.monotonic(), scarcity()
        statuses = []
        for phase in phases:
            phase.forget()
            statuses.append(phase.run(arguments))
        share = (scarcity() - waited) / (time.monotonic() - began)
        failed = [phase.failed() for phase in phases]
        if all(status in (0, FAILED) for status in statuses) and os.environ.get("AGAIN") != "0":
            if 0 < sum(map(len, failed)) <= MOST:
                statuses = [phase.again(arguments) if tests else 0 for phase, tests in zip(phases, failed, strict=True)]
    unsteady = [
        test for phase, tests in zip(phases, failed, strict=True) for test in tests if test not in phase.failed()
    ]
    if unsteady:
        print(f"unsteady: failed beside others, passed alone (a processor was waited for {share:.0%} of the time)")
        print(*(f"  {test}" for test in unsteady), sep="\n", flush=True)
    return max(statuses)


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
