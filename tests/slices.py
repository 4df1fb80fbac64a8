"""Where the time of ``.ci/run`` goes, slice by slice, and what each slice may take.

As a plugin of pytest (``-p tests.slices``) it counts for each file: tests, their seconds, and the seconds of processors
that the file and its children used (getrusage(2); a supervisor is init's child and is not counted). Files run beside
each other, so their seconds sum up to more than the suite takes: a slice takes its share of that.

``make test`` prints the table of its slices, ``.ci/run`` that of all its steps; ``python -m tests.slices`` prints the
files of the last run, the longest first.
"""

from __future__ import annotations

import contextlib
import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".pytest_cache"
PHASES = ("beside", "alone")
KEPT = "slices/files"

BUDGETS: dict[str, int] = {
    "lint": 45,
    "types": 20,
    "agents": 15,
    "unit": 25,
    "integration": 340,
    "systemd": 30,
    "simulation": 50,
    "chaos": 10,
    "servers": 35,
    "upstream": 130,
    "docs": 15,
    "release": 15,
    "fuzz": 35,
    "guard": 15,
    "fleet": 60,
    "containers": 60,
}
"""Seconds on two cores that do nothing else, for each slice of ``.ci/run``. The tests of asyncio are in
``integration``. ``containers`` is for a machine that has the image's layers already; the first run takes a minute and a
half more."""

ALL = 900
"""What they may sum up to."""


class Cost(NamedTuple):
    """What some tests took: how many, their seconds, and those of processors."""

    tests: int = 0
    seconds: float = 0.0
    processor: float = 0.0

    def plus(self, other: Cost) -> Cost:
        return Cost(self.tests + other.tests, self.seconds + other.seconds, self.processor + other.processor)


class Phase(NamedTuple):
    """A run of pytest: how long it took, and the costs of its files."""

    wall: float
    files: Mapping[str, Cost]


def shares(phase: Phase) -> dict[str, Cost]:
    """The slices of a run. Their seconds sum up to the run's."""
    found: dict[str, Cost] = {}
    for file, cost in phase.files.items():
        name = Path(file).parts[1]
        found[name] = found.get(name, Cost()).plus(cost)
    total = sum(cost.seconds for cost in found.values()) or 1.0
    return {name: cost._replace(seconds=phase.wall * cost.seconds / total) for name, cost in found.items()}


def kept(directory: Path) -> Phase:
    """What a run has left in its cache."""
    with contextlib.suppress(OSError, ValueError):
        found = json.loads((directory / "v" / KEPT).read_text())
        return Phase(found["wall"], {file: Cost(*cost) for file, cost in found["files"].items()})
    return Phase(0.0, {})


def table(slices: Mapping[str, Cost]) -> str:
    """One line for each slice, and their sum."""
    lines = [f"{'slice':12}{'tests':>7}{'seconds':>9}{'processor':>11}{'budget':>8}"]
    for name, cost in slices.items():
        tests, processor = (str(cost.tests), f"{cost.processor:.0f}") if cost.tests else ("", "")
        lines.append(f"{name:12}{tests:>7}{cost.seconds:9.0f}{processor:>11}{BUDGETS.get(name, ''):>8}")
    lines.append(f"{'all':12}{'':7}{sum(cost.seconds for cost in slices.values()):9.0f}")
    return "\n".join(lines)


def of_phases(phases: list[Phase]) -> dict[str, Cost]:
    found: dict[str, Cost] = {}
    for phase in phases:
        for name, cost in shares(phase).items():
            found[name] = found.get(name, Cost()).plus(cost)
    return found


# ---- the plugin ----------------------------------------------------------------------------------------


class _Counted:
    """What this process counts: its processors' seconds, in a worker; the files, where all reports arrive."""

    began = time.monotonic()
    spent = 0.0
    files: dict[str, Cost] = {}


def _spent() -> float:
    """Seconds of processors since the last time."""
    mine, childrens = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    now = mine.ru_utime + mine.ru_stime + childrens.ru_utime + childrens.ru_stime
    _Counted.spent, before = now, _Counted.spent
    return now - before


def pytest_collection_finish() -> None:
    _spent()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    report.user_properties.append(("processor", _spent()))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    file = report.nodeid.partition("::")[0]
    processor = dict(report.user_properties).get("processor", 0.0)
    cost = Cost(report.when == "teardown", report.duration, float(str(processor)))
    _Counted.files[file] = _Counted.files.get(file, Cost()).plus(cost)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if not hasattr(session.config, "workerinput") and session.config.cache is not None:
        wall = time.monotonic() - _Counted.began
        session.config.cache.set(KEPT, {"wall": wall, "files": _Counted.files})


# ---- the command ---------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """With a file of lines "step seconds", as ``.ci/run`` writes it: the table. Without: the files of the last run."""
    phases = [kept(CACHE / name) for name in PHASES]
    if arguments:
        steps = {name: float(seconds) for name, seconds in map(str.split, Path(arguments[0]).read_text().splitlines())}
        of_tests = of_phases(phases)
        slices: dict[str, Cost] = {}
        for name, seconds in steps.items():
            slices |= of_tests if name == "test" else {name: Cost(seconds=seconds)}
        print(table(slices))
        return 0
    files = sorted((cost[1:], file) for phase in phases for file, cost in phase.files.items())
    print(f"{'seconds':>8}{'processor':>11}")
    print(*(f"{cost[0]:8.1f}{cost[1]:11.1f}  {file}" for cost, file in reversed(files)), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
