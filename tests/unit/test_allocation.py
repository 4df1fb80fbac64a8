"""Fair shares in whole permits, as a specification."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from poolmgr.budget.allocation import Claim, shares


def of(capacity: int, *demands: int) -> list[int]:
    return shares(capacity, [Claim(demand) for demand in demands])


def test_with_enough_for_all_everyone_gets_its_demand():
    assert of(10, 3, 0, 7) == [3, 0, 7]


def test_who_wants_little_gets_it_and_the_others_share_the_rest():
    assert of(10, 2, 8, 8) == [2, 4, 4]


def test_nobody_gets_more_than_it_wants():
    assert of(100, 1, 2, 3) == [1, 2, 3]


def test_nothing_to_share_is_nothing_for_everyone():
    assert of(0, 3, 4) == [0, 0]
    assert of(-5, 3, 4) == [0, 0]


def test_nobody_is_no_share():
    assert of(5) == []


def test_a_ceiling_bounds_a_share():
    assert shares(10, [Claim(9, ceiling=2), Claim(9)]) == [2, 8]


def test_the_last_permit_stays_with_who_holds_it():
    assert shares(5, [Claim(4, holding=2), Claim(4, holding=3)]) == [2, 3]
    assert shares(5, [Claim(4, holding=3), Claim(4, holding=2)]) == [3, 2]


def test_among_those_who_hold_nothing_the_smaller_rank_wins_the_tie():
    assert shares(1, [Claim(1, rank=2.0), Claim(1, rank=1.0)]) == [0, 1]


def test_a_floor_comes_before_any_weight():
    assert shares(10, [Claim(10, weight=100.0), Claim(10, floor=3)]) == [7, 3]


def test_a_floor_is_soft_it_gives_nothing_to_who_has_no_demand():
    assert shares(4, [Claim(0, floor=3), Claim(9)]) == [0, 4]


def test_with_fewer_permits_than_floors_the_floors_are_shared():
    assert shares(2, [Claim(9), Claim(1), Claim(5)]) == [1, 1, 0]


def test_shares_rise_in_proportion_to_weights():
    assert shares(9, [Claim(99, weight=2.0), Claim(99, weight=1.0)]) == [6, 3]


def test_a_weight_must_be_positive():
    with pytest.raises(ValueError, match="more than 0"):
        shares(3, [Claim(1, weight=0.0)])


# ---- for all inputs ------------------------------------------------------------------------------

claims = st.lists(
    st.builds(
        Claim,
        demand=st.integers(0, 40),
        floor=st.integers(0, 3),
        ceiling=st.none() | st.integers(0, 30),
        holding=st.integers(0, 40),
        rank=st.integers(0, 5).map(float),
    ),
    max_size=12,
)
capacities = st.integers(-3, 120)


def upper(claim: Claim) -> int:
    return claim.demand if claim.ceiling is None else min(claim.demand, claim.ceiling)


@given(capacities, claims)
def test_everything_that_is_wanted_and_there_is_given_and_no_more(capacity: int, of_all: list[Claim]):
    assert sum(shares(capacity, of_all)) == min(max(0, capacity), sum(map(upper, of_all)))


@given(capacities, claims)
def test_every_share_is_between_nothing_and_the_demand(capacity: int, of_all: list[Claim]):
    assert all(0 <= share <= upper(claim) for share, claim in zip(shares(capacity, of_all), of_all, strict=True))


@given(capacities, claims)
def test_floors_hold_whenever_they_can(capacity: int, of_all: list[Claim]):
    floors = [min(claim.floor, upper(claim)) for claim in of_all]
    if sum(floors) <= capacity:
        assert all(share >= floor for share, floor in zip(shares(capacity, of_all), floors, strict=True))


@given(capacities, claims)
def test_max_min_nobody_short_has_less_than_another_above_its_floor(capacity: int, of_all: list[Claim]):
    """A permit moved from anybody to one who is short would leave the giver with less than that one has
    then: except below floors, and for the tie of one permit."""
    result = shares(capacity, of_all)
    floors = [min(claim.floor, upper(claim)) for claim in of_all]
    if sum(floors) > capacity:
        return
    for i, share in enumerate(result):
        if share < upper(of_all[i]):
            for j, other in enumerate(result):
                if other > floors[j]:
                    assert other <= share + 1


def test_a_floor_above_the_level_wins_no_tie():
    assert shares(4, [Claim(demand=4, floor=3), Claim(demand=1, floor=0), Claim(demand=1, floor=0)]) == [3, 1, 0]


@given(capacities, claims)
def test_a_tie_goes_to_a_holder(capacity: int, of_all: list[Claim]):
    """Who misses the last permit although it holds it has lost it to another who holds it too."""
    result = shares(capacity, of_all)
    floors = [min(claim.floor, upper(claim)) for claim in of_all]
    if sum(floors) > capacity:
        return
    for i, share in enumerate(result):
        if share < upper(of_all[i]) and of_all[i].holding > share:
            for j, other in enumerate(result):
                if other == share + 1 and other > floors[j]:
                    assert of_all[j].holding >= other


@given(capacities, claims, st.randoms(use_true_random=False))
def test_the_order_of_the_claims_does_not_matter_but_for_ties(capacity: int, of_all: list[Claim], rng):
    mixed = list(of_all)
    rng.shuffle(mixed)
    assert sorted(shares(capacity, of_all)) == sorted(shares(capacity, mixed)) or any(
        a.rank == b.rank for i, a in enumerate(of_all) for b in of_all[:i]
    )


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 30), st.floats(0.1, 10)), max_size=8))
def test_with_weights_the_sum_and_the_bounds_hold_too(capacity: int, of_all: list[tuple[int, float]]):
    weighted = [Claim(demand, weight=weight) for demand, weight in of_all]
    result = shares(capacity, weighted)
    assert sum(result) == min(capacity, sum(demand for demand, _ in of_all))
    assert all(0 <= share <= claim.demand for share, claim in zip(result, weighted, strict=True))
