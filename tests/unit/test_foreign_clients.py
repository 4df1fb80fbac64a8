"""How many clients are none of ours, by counts: growth of our own never looks foreign, nothing foreign stays unseen."""

from __future__ import annotations

from hypothesis import given, strategies as st

from poolmgr.budget.foreign_clients import LATE, Others

CHARGED = 1000


def test_what_is_above_everything_charged_is_foreign_at_once() -> None:
    assert Others().read(everyone=130, opened=10, charged=100, now=0) == 30


def test_what_lasts_for_two_readings_is_foreign_though_more_may_be_ours() -> None:
    others = Others()
    assert others.read(everyone=40, opened=10, charged=100, now=0) == 0
    assert others.read(everyone=40, opened=10, charged=100, now=0.01) == 0, "nobody has reported between the two"
    assert others.read(everyone=40, opened=10, charged=100, now=LATE) == 30
    assert others.read(everyone=40, opened=10, charged=100, now=LATE + 0.01) == 30


@given(st.lists(st.floats(0.001, 3.0), min_size=3, max_size=30), st.integers(1, 60))
def test_however_often_it_is_read_growth_does_not_look_foreign(gaps: list[float], speed: int) -> None:
    """Ours grow all the time, and what is reported is as late as it may be."""
    others, now = Others(), 0.0
    for gap in gaps:
        now += gap
        ours, said = int(now * speed), int(max(0.0, now - LATE) * speed)
        assert others.read(everyone=ours, opened=said, charged=max(CHARGED, ours), now=now) <= 1


def test_what_has_left_is_gone_at_once() -> None:
    others = Others()
    others.read(everyone=40, opened=10, charged=100, now=0)
    assert others.read(everyone=15, opened=10, charged=100, now=LATE) == 5


# One step is the time between two readings; what members say is up to one step old.
grown = st.lists(st.integers(0, 50), min_size=3, max_size=12)
late = st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12)


@given(grown, late, st.lists(st.integers(0, 300), min_size=12, max_size=12))
def test_growth_of_our_own_never_looks_foreign(growth: list[int], lag: list[float], foreign: list[int]) -> None:
    others, ours, before = Others(), 0, 0
    for step, more in enumerate(growth):
        ours += more
        said = ours - int(lag[step] * more)  # at least what was open a step ago
        found = others.read(everyone=ours + foreign[step], opened=said, charged=CHARGED, now=step * LATE)
        assert found <= max(foreign[step], before)
        before = foreign[step]


@given(st.integers(0, 300), st.integers(0, 300))
def test_what_stays_is_counted_exactly(ours: int, foreign: int) -> None:
    others = Others()
    others.read(everyone=ours + foreign, opened=ours, charged=CHARGED, now=0)
    assert others.read(everyone=ours + foreign, opened=ours, charged=CHARGED, now=LATE) == foreign
