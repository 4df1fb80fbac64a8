"""Connections that callers keep, as subscribers and blocking commands do: the others share what is left.

In worlds without faults; times are virtual.
"""

from __future__ import annotations

import pytest

from tests.simulation.calm import measure, world
from tests.simulation.scenario import Worker

FOR_EVER = 10_000.0
KEEPER = Worker(1, 0.0, 0.0, kept=1, keep=FOR_EVER)


@pytest.mark.parametrize("budget", [8, 9, 10])
@pytest.mark.parametrize("worker", [Worker(1, 0.005, 0.0005), Worker(4, 0.05, 0.01), Worker(1, 0.05, 0.05)])
def test_connections_that_are_kept_do_not_hold_up_the_turns_of_the_others(budget: int, worker: Worker):
    """Six keep one each, and the supervisor one to look with; three share what is left, which is one to three."""
    made = world(budget, (KEEPER,) * 6)
    measure(made, 1.0)
    for _ in range(3):
        made.start(worker)
    measure(made, 2.0)
    measured = measure(made, 5.0)
    assert measured.longest < 1.5
    turns = measured.turns[6:]
    assert min(turns) > 0.6 * max(turns)


def test_many_that_keep_do_not_hold_up_the_first_turn():
    made = world(62, (KEEPER,) * 60)
    measure(made, 2.0)
    made.start(Worker(1, 0.005, 0.0005))
    made.start(Worker(1, 0.005, 0.0005))
    assert measure(made, 2.0).longest < 1.0


def test_slow_commands_take_turns_too():
    """Each takes longer than after which a connection is called pinned."""
    for threads in (1, 3):
        made = world(5, (Worker(threads, 0.6, 0.001),) * 8)
        measure(made, 2.0)
        measured = measure(made, 30.0)
        assert measured.longest < 3.0 * threads
        assert min(measured.turns) > 0.6 * max(measured.turns)
        assert measured.used > 0.9 * 4 / 5, "one of five is the supervisor's, to look with"


def test_what_is_not_kept_of_a_recalled_share_comes_back_at_once():
    """A process that keeps eight of eleven is told to go down to its fair share, which it cannot."""
    made = world(12, (Worker(12, 0.01, 0.0, kept=8, keep=FOR_EVER),))
    measure(made, 1.0)
    made.start(Worker(8, 0.01, 0.0))
    measure(made, 0.5)
    measured = measure(made, 1.0)
    assert measured.used > 0.85
    assert measured.turns[1] > 80


def test_a_process_whose_connection_is_kept_has_its_turns_for_its_other_callers():
    """Four processes keep one each and have callers besides; two permits are left for these."""
    made = world(6, (Worker(3, 0.005, 0.0005, kept=1, keep=FOR_EVER),) * 4)
    measure(made, 2.0)
    measured = measure(made, 10.0)
    assert measured.longest < 2.0 or all(turns > 100 for turns in measured.turns)
    assert min(measured.turns) > 0.6 * max(measured.turns)


def test_what_was_kept_is_given_to_whoever_waits_once_it_is_released():
    made = world(4, (Worker(1, 0.0, 0.0, kept=1, keep=3.0),) * 4)
    measure(made, 1.0)
    for _ in range(2):
        made.start(Worker(1, 0.005, 0.0005))
    measured = measure(made, 20.0)
    assert min(measured.turns[4:]) > 100
    assert measured.longest < 5.0


def test_whoever_keeps_the_only_permit_for_long_is_last_when_it_has_given_it_back():
    made = world(1, (Worker(4, 0.003, 0.0005, kept=2, keep=0.6), *(Worker(1, 0.003, 0.0005),) * 4))
    measure(made, 2.0)
    measured = measure(made, 30.0)
    assert measured.turns[0] > 20
    assert min(measured.turns[1:]) > 500
    assert measured.longest < 5.0
