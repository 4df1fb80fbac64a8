"""What runs in a system: README's first minute, its tests, and some files once more with each server."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.matrix import outcomes
from tests.matrix.machine import SHARED, Machine
from tests.matrix.packages import OFFLINE
from tests.matrix.results import Figures
from tests.matrix.served import FILES, paths


class Runner:
    """Runs parts in one machine.

    Args:
        python: what ``make`` is to use, as the machine names it.
        arguments: of the caller's, for pytest.
    """

    def __init__(self, machine: Machine, python: str, log: Path, arguments: list[str]) -> None:
        self._machine, self._python, self.log = machine, python, log
        self._arguments = arguments

    def minute(self) -> Figures:
        """``make run``, as README's first minute has it; ``seconds`` is how long it takes until it serves."""
        began = time.monotonic()
        status = self._call(["python3", "-m", "tests.matrix.minute", f"PYTHON={self._python}"])
        words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        said = words[0] if words else ""
        took = float(said.split()[2]) if said.startswith("served after ") else time.monotonic() - began
        return Figures(passed=int(not status), failed=int(bool(status)), seconds=took, status=status)

    def tests(self, *paths: str) -> tuple[dict[str, Figures], list[str]]:
        """``make test``: figures by folder, and the tests that have failed."""
        words = ["-p", "tests.matrix.outcomes", *paths, *self._arguments]
        found, failed, status, seconds = self._counted(
            ["make", "test", f"PYTHON={self._python}", f"ARGS={' '.join(map(quoted, words))}"]
        )
        figures = {folder: _figures(counter) for folder, counter in found.items()}
        if status and not failed:
            figures.setdefault("tests", Figures()).status = status
        for each in figures.values():
            each.seconds = seconds
        return figures, failed

    def served(self, server: str) -> tuple[Figures, list[str]]:
        """:data:`tests.matrix.served.FILES` with that program as the tests' server."""
        words = ["-n3", "--dist=loadfile", "-p", "tests.matrix.outcomes", *paths(FILES), *self._arguments]
        found, failed, status, seconds = self._counted(
            [".venv/bin/python", "-m", "pytest", *words], POOLMGR_TEST_SERVER=server
        )
        figures = _figures(sum(found.values(), Counter()))
        figures.seconds, figures.status = seconds, status
        return figures, failed

    def install(self) -> int:
        """What the tests need, and no more: ``make`` does it by itself before the tests."""
        return self._call(["make", "--no-print-directory", f"PYTHON={self._python}", ".venv/.have-test"])

    def _counted(self, command: list[str], **environ: str) -> tuple[dict[str, Counter[str]], list[str], int, float]:
        file = self._machine.shared / "outcomes"
        file.unlink(missing_ok=True)
        began = time.monotonic()
        status = self._call(command, **environ, **{outcomes.VARIABLE: f"{SHARED}/outcomes"})
        seconds = time.monotonic() - began
        last = outcomes.last_outcomes(file.read_text().splitlines()) if file.exists() else {}
        failed = sorted(test for test, outcome in last.items() if outcome == "failed")
        return outcomes.count(last), failed, status, seconds

    def _call(self, command: list[str], **environ: str) -> int:
        return self._machine.call(command, self.log, environ={**OFFLINE, **environ})


def _figures(counter: Counter[str]) -> Figures:
    return Figures(passed=counter["passed"], skipped=counter["skipped"], failed=counter["failed"])


def quoted(word: str) -> str:
    """For a shell, and for make, which the word goes through before."""
    return "'" + word.replace("'", "'\\''").replace("$", "$$") + "'"
