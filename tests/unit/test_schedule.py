"""When a server is looked at: lists when something is to be proven and they are paid for, and hardly ever otherwise."""

from __future__ import annotations

import pytest

from poolmgr import wire
from poolmgr.budget.ceilings import Facts, derive
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams.schedule import ASK_EVERY, ASKS, LIST_AGAIN, LIST_EVERY, LOOK_EVERY, LOOKS, Schedule
from poolmgr.supervisor.upstreams.upstream import Upstream

R = "tcp://r:6379"
GONE = frozenset({"pm1.0123abcd.00ff11.41.1000.abcdef"})
NOTHING: frozenset[str] = frozenset()


class Look:
    """A upstream that is known and was just looked at, and the time."""

    def __init__(self, budget: int = 100) -> None:
        ledger = Ledger()
        ledger.server(R, run_id="x")
        ledger.set_budget(R, budget, 0.0)
        self.upstream = Upstream(R)
        self.upstream.resolved = True
        self.upstream.ways.learn(wire.Endpoint(key=R, host="r", port=6379))
        self.hosts = 0
        self.table = Schedule(self.upstream, ledger, 7.0, lambda: self.hosts > 0, lambda: self.hosts)
        self.now = 1000.0
        self.table.looked(self.now)
        self.table.listed(self.now)

    def lists(self, targets: frozenset[str] = NOTHING) -> bool:
        """Whether a list is made now."""
        work = self.table.due(self.now, targets, frozenset(), stopping=False, stalled=False, holding=True)
        return work is not None and (bool(work.targets) or work.listing)

    def until(self, targets: frozenset[str] = NOTHING) -> float:
        return self.table.until(self.now, targets, stopping=False, held_until=float("inf")) - self.now


@pytest.mark.parametrize(("hosts", "every"), [(0, LOOK_EVERY), (3, LOOK_EVERY), (1000, 1000 / LOOKS)])
def test_all_hosts_of_a_large_fleet_together_look_at_a_bounded_rate(hosts: int, every: float) -> None:
    look = Look()
    look.hosts = hosts
    look.table.looked(look.now)
    assert look.until() == pytest.approx(every)


@pytest.mark.parametrize(("hosts", "every"), [(0, ASK_EVERY), (3, ASK_EVERY), (1000, 1000 / ASKS)])
def test_all_hosts_of_a_large_fleet_together_ask_for_identity_at_a_bounded_rate(hosts: int, every: float) -> None:
    look = Look()
    look.hosts = hosts
    look.table.asked(look.now)  # the first time after a tenth
    look.table.asked(look.now)
    assert not look.table.is_to_ask(look.now + every - 0.1)
    assert look.table.is_to_ask(look.now + every)


def test_a_gate_that_was_shut_asks_for_identity_as_often_as_in_a_small_fleet() -> None:
    look = Look()
    look.hosts = 1000
    look.table.asked(look.now)
    look.table.asked(look.now)
    look.table.ask_sooner()
    assert not look.table.is_to_ask(look.now + ASK_EVERY - 0.1)
    assert look.table.is_to_ask(look.now + ASK_EVERY)


def test_a_quiet_server_is_listed_once_a_minute() -> None:
    look = Look()
    made = 0
    for _ in range(300):
        look.now += 1.0
        if look.lists():
            made += 1
            look.table.listed(look.now)
    assert made == 300 / LIST_EVERY


def test_a_large_one_more_seldom() -> None:
    look = Look()
    look.table.throttle.made(100_000, 0.2, look.now)
    look.table.listed(look.now)
    look.now += 2 * LIST_EVERY
    assert not look.lists()
    look.now += 2 * LIST_EVERY
    assert look.lists()


def test_what_is_to_be_proven_is_looked_for_at_once_and_then_when_it_is_paid_for() -> None:
    look = Look()
    look.now += 0.5
    assert look.lists(GONE)
    look.table.throttle.made(10_000, 0.015, look.now)
    assert not look.lists(GONE)
    assert look.until(GONE) == pytest.approx(0.5)
    look.now += 0.51
    assert look.lists(GONE)


def test_where_there_are_no_lists_nothing_has_to_be_paid_for() -> None:
    look = Look()
    look.table.throttle.made(10_000, 0.5, look.now)
    assert not look.lists(GONE)
    look.upstream.forbidden["CLIENT LIST"] = "NOPERM"
    assert look.lists(GONE)
    assert look.until(GONE) <= 0.0


def test_a_list_is_borne_out_by_another_one_soon_but_not_for_ever() -> None:
    look = Look()
    look.table.list_again()
    look.now += LIST_AGAIN
    assert look.lists()
    look.table.listed(look.now)
    look.table.list_again()
    look.now += 2 * LIST_AGAIN
    assert not look.lists(), "that was one out of turn already"
    look.now += LIST_EVERY
    assert look.lists()


def test_while_the_budget_may_rise_it_is_looked_at_more_often() -> None:
    for budget, seconds in ((100, LOOK_EVERY / 2), (5, LOOK_EVERY)):
        look = Look(budget)
        governor = look.upstream.governor
        governor.follow(budget, look.now)
        governor.refused(2, look.now)
        look.table.looked(look.now)
        assert look.until() == pytest.approx(seconds)
        governor.follow(budget, look.now, fits=100)
        look.table.looked(look.now)
        assert look.until() == pytest.approx(LOOK_EVERY / 2)


def test_others_that_have_made_it_small_may_leave() -> None:
    look = Look(2)
    look.table.looked(look.now)
    assert look.until() > 3 * LOOK_EVERY
    look.upstream.governor.follow(2, look.now)
    look.upstream.derivation = derive(Facts(maxclients=60, others=54, used=2))
    look.table.looked(look.now)
    assert look.until() == pytest.approx(LOOK_EVERY)


def test_a_budget_that_is_small_by_a_refusal_only_keeps_its_connection() -> None:
    look = Look(2)
    assert look.table.sparing
    look.upstream.governor.follow(200, look.now)
    look.upstream.governor.refused(2, look.now)
    assert not look.table.sparing
