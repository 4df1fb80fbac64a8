"""A plugin of pytest that writes each test's outcome to a file, a line each: ``-p tests.matrix.outcomes``.

pytest's own summary counts a phase; :mod:`tests.run` has several, and what failed beside others runs once more alone.
Here the last outcome of a test counts.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

VARIABLE = "POOLMGR_MATRIX_OUTCOMES"


class Writer:
    def __init__(self, path: Path) -> None:
        self._path = path

    def _write(self, test: str, when: str, outcome: str) -> None:
        with self._path.open("a") as out:
            out.write(json.dumps([test, when, outcome]) + "\n")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._write(report.nodeid, report.when or "", report.outcome)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.outcome != "passed":
            self._write(report.nodeid, "setup", report.outcome)


def pytest_configure(config: pytest.Config) -> None:
    path = os.environ.get(VARIABLE)
    if path and not hasattr(config, "workerinput"):  # xdist's workers report to the process that writes
        config.pluginmanager.register(Writer(Path(path)))


def last_outcomes(lines: Iterable[str]) -> dict[str, str]:
    """Each test's last outcome: ``passed``, ``skipped`` or ``failed``."""
    found: dict[str, str] = {}
    for line in lines:
        test, when, outcome = json.loads(line)
        if when != "teardown" or outcome == "failed":
            found[test] = outcome
    return found


def count(outcomes: dict[str, str]) -> dict[str, Counter[str]]:
    """How many of each outcome, by the folder of ``tests`` that the test is in."""
    found: dict[str, Counter[str]] = {}
    for test, outcome in outcomes.items():
        folder = test.split("/")[1] if test.startswith("tests/") and test.count("/") > 1 else "tests"
        found.setdefault(folder, Counter())[outcome] += 1
    return found
