"""A storm of one event does not flood the log, and what was left out is told."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from poolmgr import settings
from poolmgr.logs import structured
from poolmgr.logs.flood import BURST, KINDS, FloodFilter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def record(event: str = "outage.began", name: str = "poolmgr.supervisor", level: int = logging.WARNING):
    return logging.LogRecord(name, level, __file__, 1, event, (), None)


def test_the_first_lines_of_an_event_are_written_and_the_last_of_them_says_so():
    flood = FloodFilter(3, 10.0, clock=Clock())
    records = [record() for _ in range(5)]
    assert [flood.filter(found) for found in records] == [True, True, True, False, False]
    assert [getattr(found, "more", None) for found in records[:3]] == [None, None, "not written"]


def test_a_later_line_tells_how_many_were_left_out():
    clock = Clock()
    flood = FloodFilter(3, 10.0, clock=clock)
    for _ in range(8):
        flood.filter(record())
    clock.now += 10
    later = [record(), record()]
    assert all(flood.filter(found) for found in later)
    assert [getattr(found, "suppressed", None) for found in later] == [5, None]


def test_one_event_takes_nothing_from_another():
    flood = FloodFilter(1, 10.0, clock=Clock())
    assert flood.filter(record("a.b"))
    assert not flood.filter(record("a.b"))
    assert flood.filter(record("c.d"))


@pytest.mark.parametrize(
    ("name", "level"),
    [("gunicorn.access", logging.INFO), ("shop.views", logging.ERROR), ("poolmgr.supervisor", logging.DEBUG)],
)
def test_what_is_not_ours_and_what_was_asked_for_passes(name: str, level: int):
    flood = FloodFilter(1, 10.0, clock=Clock())
    assert all(flood.filter(record("same", name, level)) for _ in range(50))


def test_names_made_from_data_cost_bounded_memory():
    flood = FloodFilter(clock=Clock())
    for number in range(3 * KINDS):
        flood.filter(record(f"event {number}"))
    assert len(flood._quota._seen) <= KINDS


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    before, level = list(logger.handlers), logger.level
    yield logger
    logger.handlers[:] = before
    logger.setLevel(level)


def test_the_configured_log_is_protected(root: logging.Logger):
    stream = io.StringIO()
    structured.configure(settings.load({"POOLMGR_LOG_FORMAT": "json"}), stream)
    for _ in range(10 * BURST):
        logging.getLogger("poolmgr.test").warning("worker.unavailable", extra={"error": "x"})
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == BURST
    assert lines[-1]["more"] == "not written"
