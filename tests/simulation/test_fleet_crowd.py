"""Many hosts of 64 workers: permits reach those who need them within two renewals, and a renewal costs the server the
same, however many hosts there are. ``make simulate-fleet`` looks at a thousand.
"""

from __future__ import annotations

import functools

import pytest

from tests.simulation.fleet.crowd import QUIET_INTERVAL, Cost, Moved, busy, cost, moved

FEW, MANY = 10, 200


@functools.cache
def found(hosts: int, old: str = "", new: str = "") -> tuple[Cost, Moved | None]:
    """With ``old`` replaced in the script's text."""
    crowd = busy(hosts, lambda text: _replaced(text, old, new) if old else text)
    return cost(crowd), moved(crowd) if hosts >= 100 else None


def _replaced(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"{text.count(old)} times in the script: {old}"
    return text.replace(old, new)


def test_permits_reach_those_who_need_them_within_two_renewals_of_each():
    _, went = found(MANY)
    assert went is not None
    assert went.seconds <= 2 * QUIET_INTERVAL
    assert went.renewals <= 2
    assert went.handed <= 10 * MANY - MANY // 5


def test_a_renewal_costs_the_same_however_many_hosts_there_are():
    (few, _), (many, _) = found(FEW), found(MANY)
    assert few.commands == many.commands == 3  # TIME, HMGET, HSET
    assert many.size < 1.15 * few.size
    assert many.renewals < 1 / (QUIET_INTERVAL * 0.7)
    assert many.passes <= 1.1  # one a second, whoever renews


def test_hosts_that_are_not_asked_back_would_be_noticed():
    with pytest.raises(AssertionError):
        found(MANY, "local wanted = grant > target and is_wanted(t, grant, target) and 1 or 0", "local wanted = 0")


def test_a_pass_with_every_renewal_would_be_noticed():
    many, _ = found(MANY, "t.ticked, t.due = now, now + TICK", "t.ticked, t.due = now, now + 0")
    assert many.passes > 10
