"""One name's look-ups: which thread may begin one, and when."""

from __future__ import annotations

from poolmgr.pool.names import AGAIN, LONGEST, Name


def test_one_look_up_at_a_time_and_a_pause_between_two() -> None:
    name = Name("redis.example")
    assert name.may_look(10.0)
    assert not name.may_look(12.0)
    name.looked(13.0)
    assert not name.may_look(13.0 + 0.9 * AGAIN)
    assert name.may_look(13.0 + AGAIN)


def test_a_look_up_that_never_ends_keeps_no_other_one_away_for_ever() -> None:
    """Its thread was struck by a signal handler's exception, or is the parent's of a forked child."""
    name = Name("redis.example")
    assert name.may_look(10.0)
    assert not name.may_look(10.0 + 0.9 * LONGEST)
    assert name.may_look(10.0 + LONGEST)
