"""What a pool does not need, and when that is known."""

from __future__ import annotations

import math

import msgspec

from poolmgr.member.core.demand import Demand
from poolmgr.member.ports import Usage

USED = Usage(lent=1, idle=0, waiting=0, low=0, quiet=0.0, ceiling=10, timeout=math.inf)
IDLE = msgspec.structs.replace(USED, lent=0, idle=1)
GUARD = 0.008


def used_until_a_moment_ago() -> Demand:
    """A pool whose only connection was in use for a while and came back a millisecond ago."""
    demand = Demand()
    demand.observe(USED, 10.0)
    demand.start_window(GUARD)
    demand.observe(msgspec.structs.replace(IDLE, quiet=0.001), 10.1)
    return demand


def test_a_long_window_in_which_it_was_used_at_first_says_nothing_of_now():
    demand = used_until_a_moment_ago()
    assert demand.unneeded(GUARD) == 0
    assert not demand.certain(GUARD)


def test_a_new_window_of_the_guards_length_finds_it_unneeded():
    demand = used_until_a_moment_ago()
    demand.start_window(GUARD)
    demand.observe(msgspec.structs.replace(IDLE, low=1, quiet=0.004), 10.2)
    assert demand.certain(GUARD)
    assert demand.unneeded(GUARD) == 1


def test_what_was_idle_all_the_time_is_certain():
    demand = Demand()
    demand.observe(IDLE, 10.0)
    demand.start_window(GUARD)
    demand.observe(msgspec.structs.replace(IDLE, low=1, quiet=0.001), 10.1)
    assert demand.certain(GUARD)
    assert demand.unneeded(GUARD) == 1
