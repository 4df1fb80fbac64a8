"""Promise P2 in worlds without faults: nobody waits for a permit that another does not use, shares are
fair, and permits move no more than they must. Times are virtual; so are the numbers exact."""

from __future__ import annotations

from tests.simulation.calm import measure, world
from tests.simulation.scenario import Worker

BUSY = Worker(4, 0.005, 0.0005)
HOT = Worker(64, 0.005, 0.0)
IDLE = Worker(1, 0.001, 1.0)


def test_a_hot_worker_gets_all_that_the_idle_ones_do_not_use():
    made = world(32, (*[IDLE] * 7, HOT))
    measure(made, 0.5)
    measured = measure(made, 2.0)
    assert measured.limits[-1] >= 30
    assert measured.used >= 0.9
    assert measured.longest < 0.02


def test_busy_workers_have_fair_shares_within_200_milliseconds():
    made = world(32, (HOT,))
    measure(made, 0.5)
    for _ in range(7):
        made.start(HOT)
    measured = measure(made, 0.2)
    assert min(measured.limits) >= 3
    assert max(measured.limits) <= 4
    settled = measure(made, 1.0)
    assert settled.reconnects == 0
    assert settled.used > 0.95


def test_permits_rotate_calmly_when_there_are_fewer_than_busy_workers():
    made = world(38, (BUSY,) * 64)
    measure(made, 1.0)
    measured = measure(made, 3.0)
    assert measured.used > 0.93
    assert measured.reconnects < 300
    assert measured.longest < 0.5
    assert min(measured.turns) > 0.8 * max(measured.turns)


def test_nobody_waits_for_two_seconds_when_six_workers_share_two_permits():
    for worker in (BUSY, Worker(1, 0.005, 0.0005)):
        made = world(2, (worker,) * 6)
        measure(made, 0.5)
        measured = measure(made, 5.0)
        assert measured.longest < 2
        assert min(measured.turns) > 0.7 * max(measured.turns)


def test_three_workers_share_a_single_permit():
    made = world(1, (Worker(1, 0.005, 0.0005),) * 3)
    measure(made, 0.5)
    measured = measure(made, 5.0)
    assert measured.longest < 1
    assert min(measured.turns) > 0.7 * max(measured.turns)


def test_two_bursts_in_turn_do_not_tear_permits_from_each_other():
    period = 0.005
    first = Worker(10, 0.001, 0.0001, on=period, off=period)
    second = Worker(10, 0.001, 0.0001, on=period, off=period, phase=period)
    made = world(12, (first, second))
    measure(made, 1.0)
    assert measure(made, 4.0).reconnects < 10


def test_with_enough_for_all_nothing_moves():
    made = world(24, (Worker(2, 0.003, 0.003),) * 8)
    measure(made, 2.0)
    measured = measure(made, 2.0)
    assert measured.reconnects == 0
    assert measured.longest == 0


def test_idle_workers_give_their_permits_to_one_that_becomes_hot_within_50_milliseconds():
    made = world(31, (Worker(3, 0.003, 0.001),) * 8)
    measure(made, 1.0)
    made.working = False
    measure(made, 1.0)
    made.working = True
    made.start(HOT)
    measured = measure(made, 0.05)
    assert sum(measured.limits[:-1]) == 0
    assert measured.limits[-1] >= 28
