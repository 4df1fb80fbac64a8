"""The tests' own stopwatch: what it leaves out, and what it does not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests import run, stopwatch
from tests.helpers import wait_for
from tests.stopwatch import Stopwatch


@pytest.mark.parametrize(
    ("passed", "short", "fair"), [(6.0, 0.0, 6.0), (6.0, 2.0, 4.0), (6.0, 6.0, 1.0), (60.0, 60.0, 10.0)]
)
def test_seconds_in_which_a_processor_was_waited_for_count_a_sixth_at_least(
    monkeypatch: pytest.MonkeyPatch, passed: float, short: float, fair: float
) -> None:
    now = {"clock": 100.0, "short": 7.0}
    monkeypatch.setattr(stopwatch, "scarcity", lambda: now["short"])
    monkeypatch.setattr(time, "monotonic", lambda: now["clock"])
    watch = Stopwatch()
    now["clock"] += passed
    now["short"] += short
    assert watch.seconds() == pytest.approx(passed)
    assert watch.fair() == pytest.approx(fair)
    assert watch.shortage() == pytest.approx(short / passed)
    assert watch.exceeds(fair - 0.1) and not watch.exceeds(fair + 0.1)


@pytest.mark.skipif(not Path("/proc/pressure/cpu").exists(), reason="needs the kernel's pressure figures")
def test_more_processes_than_processors_are_a_shortage() -> None:
    with run.busy(2 * (os.cpu_count() or 1) + 1):
        wait_for(shortage, 20)


def shortage() -> bool:
    watch = Stopwatch()
    time.sleep(0.2)
    return watch.shortage() > 0.5 and watch.fair() < 0.75 * watch.seconds()


def test_where_nobody_counts_all_seconds_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopwatch, "beginning_of", lambda *_: (_ for _ in ()).throw(FileNotFoundError()))
    watch = Stopwatch()
    time.sleep(0.05)
    assert watch.shortage() == pytest.approx(1, abs=0.1)
