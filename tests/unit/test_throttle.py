"""What lists may cost a server: the first one at once, and never more than a hundredth of its time for long."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poolmgr.supervisor.upstreams import throttle
from poolmgr.supervisor.upstreams.throttle import BURST, SAMPLES, SHARE, Throttle


def test_the_first_one_is_made_at_once_and_the_next_when_it_is_paid_for() -> None:
    lists = Throttle()
    assert lists.free_at <= 100.0
    lists.made(10_000, 0.015, 100.0)
    assert lists.cost == pytest.approx(0.015)
    assert lists.free_at == pytest.approx(100.0 - BURST + 0.015 / SHARE)
    assert lists.left(100.4) == 0.0
    assert lists.left(100.7) == pytest.approx(0.002)


def test_small_lists_wait_for_nothing() -> None:
    """Nor do those that took long because the machine is busy, once one was quick."""
    lists = Throttle()
    lists.made(10, 0.0001, 100.0)
    for number in range(50):
        now = 100.0 + number * 0.05
        assert lists.free_at <= now
        lists.made(10, 0.03 if number % 8 else 0.0001, now)


def test_a_server_that_has_become_slow_is_believed_after_some_lists() -> None:
    lists = Throttle()
    for number in range(SAMPLES + 1):
        lists.made(10_000, 0.015 if number == 0 else 0.15, 100.0 * (number + 1))
    assert lists.cost == pytest.approx(0.15)


def test_a_small_list_that_had_to_wait_does_not_keep_the_next_proof_waiting() -> None:
    """The first one, of which nothing quicker is known, on a machine that is overloaded."""
    lists = Throttle()
    lists.made(12, 0.3, 100.0)
    assert lists.free_at < 100.0


def test_what_was_not_used_is_kept_for_a_second_only() -> None:
    lists = Throttle()
    lists.made(10_000, 0.01, 100.0)
    assert lists.left(10_000.0) == pytest.approx(BURST * SHARE)


costs = st.lists(st.tuples(st.integers(1, 20_000), st.floats(0.0, 0.2), st.floats(0.0, 30.0)), min_size=1, max_size=60)


def spent(wanted: list[tuple[int, float, float]]) -> list[tuple[float, float]]:
    """Lists as a supervisor makes them that never has enough: (when, cost)."""
    lists, now, made = Throttle(), 50.0, []
    for rows, seconds, pause in wanted:
        now = max(now + pause, lists.free_at)
        lists.made(rows, seconds, now)
        made.append((now, lists.cost))
    return made


def is_within_the_share(made: list[tuple[float, float]]) -> bool:
    """In every stretch of time: a hundredth of it, the burst, and the list with which it began."""
    for first, (begin, _) in enumerate(made):
        total = 0.0
        for at, cost in made[first:]:
            if total > SHARE * (at - begin + BURST) + 1e-9:
                return False
            total += cost
    return True


@given(costs)
def test_in_no_stretch_of_time_is_it_more_than_a_hundredth(wanted: list[tuple[int, float, float]]) -> None:
    assert is_within_the_share(spent(wanted))


@pytest.mark.parametrize("rule", ["SHARE", "BURST"])
def test_a_rule_that_is_broken_is_noticed(rule: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times as much is found by the check above."""
    wanted = [(10_000, 0.01, 0.0)] * 20
    assert is_within_the_share(spent(wanted))
    monkeypatch.setattr(throttle, rule, 10 * getattr(throttle, rule))
    made = spent(wanted)
    assert not is_within_the_share(made)
