"""A lease between its events: what goes to the ledger, and how often."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from poolmgr import settings
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.fleet import script
from poolmgr.fleet.script import Refused, Renewed
from poolmgr.supervisor.fleet import remarks
from poolmgr.supervisor.fleet.fencing import Done
from poolmgr.supervisor.fleet.leaseholder import ABLE_AGAIN, KNOCK, Leaseholder
from poolmgr.supervisor.fleet.renewals import Renewals
from poolmgr.supervisor.upstreams.findings import Asked, Findings, Work
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.wire import Gate, Report

GOOD = Renewed(
    table="1.a.2", now=1_000, grant=4, target=4, end=11_000, wanted=False, budget=24, slack=2, hosts=1, others=0,
    duty="", learning=False,
)  # fmt: skip


class Scene:
    """One server, one member, and what is asked of the rest."""

    def __init__(self) -> None:
        self.now = 100.0
        self.touched = self.woken = self.applied = 0
        self.ledger = Ledger(fleet=script.key("web"))
        self.ledger.server("s", run_id="r")
        self.ledger.hold_raises("s", False)
        self.ledger.register(Identity("tag", 1), 1, {}, self.now)
        self.ledger.attach("tag", "s", self.now)
        upstream = Upstream("s")
        upstream.resolved, upstream.run_id = True, "r"
        committer = SimpleNamespace(clock=lambda: self.now, touch=self.touch)
        values = settings.load({"REDIS_FLEET": "web", "REDIS_FLEET_BUDGET": "24"})
        context: Any = SimpleNamespace(settings=values, committer=committer, ledger=self.ledger)
        self.holder = Leaseholder(upstream, context, self.apply, self.wake)
        self.holder.learned(Findings(info={"redis_mode": "standalone"}))

    def touch(self) -> None:
        self.touched += 1

    def wake(self) -> None:
        self.woken += 1

    def apply(self) -> None:
        self.applied += 1
        self.ledger.set_budget("s", self.holder.limit or 0, self.now)

    def save(self) -> None:
        self.holder.saved(self.ledger.servers["s"].lease)

    def renew(self, answer: Renewed | Refused, done: Done | None = None) -> script.Renewal:
        """Have it ask, and answer."""
        self.holder.settled()
        self.save()
        self.now += 20
        renewal = self.holder.request(self.now)
        assert renewal is not None
        self.holder.looked(renewal, Asked(renewal.seq, answer, done=done))
        return renewal

    def limits(self) -> list[tuple[int, Gate | None]]:
        """What the member is told in the next turn."""
        return [(tell.message.limit, tell.message.gate) for tell in self.ledger.settle(self.now).tells]  # type: ignore[union-attr]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_while_the_disk_is_full_turns_do_not_follow_each_other(scene: Scene) -> None:
    scene.renew(GOOD)
    scene.holder.settled()
    before = scene.touched
    for _ in range(10):
        scene.holder.settled()  # the lease is not on disk
    assert scene.touched == before
    assert scene.holder.request(scene.now + 60) is None, "and nothing is said that is not on disk"
    scene.save()
    assert scene.holder.request(scene.now + 60) is not None


def test_nothing_is_asked_or_opened_before_it_is_known_what_server_it_is() -> None:
    scene = Scene()
    scene.holder._known = False
    scene.holder.settled()
    assert scene.holder.lease is None
    assert scene.limits() == [(0, Gate(script.key("web"), "", ""))]


def test_a_sentinel_takes_no_part(scene: Scene) -> None:
    scene.holder._known = False
    scene.holder.learned(Findings(info={"redis_mode": "sentinel"}))
    scene.holder.settled()
    assert scene.holder.limit is None
    assert scene.limits() == [(0, None)]


def test_members_are_told_of_the_gate_and_of_another_one_and_of_none_while_the_table_learns(scene: Scene) -> None:
    name = scene.renew(GOOD).name
    ((_, gate),) = scene.limits()
    assert gate is not None
    assert (gate.lease, gate.table) == (name, "1.a.2")
    scene.renew(msgspec.structs.replace(GOOD, table="9.b.1", learning=True))
    ((_, gate),) = scene.limits()
    assert gate is not None
    assert gate.table == "", "nothing may be opened"
    scene.renew(msgspec.structs.replace(GOOD, table="9.b.1"))
    ((_, gate),) = scene.limits()
    assert gate is not None
    assert (gate.lease, gate.table) == (name, "9.b.1")


def test_who_is_fenced_has_nothing_and_joins_under_another_name(scene: Scene) -> None:
    name = scene.renew(GOOD).name
    assert scene.holder.limit == 4
    scene.renew(Refused("fenced", "1.a.2", 12_000))
    assert scene.holder.limit == 0
    renewal = scene.renew(GOOD)
    assert (renewal.table, renewal.word) == ("", 0)
    assert renewal.name not in ("", name)


def test_a_host_that_has_freed_what_others_held_asks_for_it_at_once(scene: Scene) -> None:
    scene.renew(msgspec.structs.replace(GOOD, duty="fence"), Done())
    scene.holder.settled()
    scene.save()
    assert scene.holder.due() > scene.now
    scene.renew(msgspec.structs.replace(GOOD, duty="fence"), Done(proven=("aaaaaabbbbbbbbbb",)))
    assert scene.holder.due() <= scene.now


def test_a_member_in_doubt_is_answered_at_once_only_while_the_lease_certainly_stands(scene: Scene) -> None:
    scene.renew(GOOD)
    scene.limits()
    scene.holder.asked("tag", shut=False)
    assert len(scene.limits()) == 1, "it was asked for just now, and stands for ten seconds"
    scene.now += 11
    scene.holder.asked("tag", shut=False)
    assert scene.limits() == [], "it may be over"
    scene.save()
    renewal = scene.holder.request(scene.now)
    assert renewal is not None, "so the table is asked"
    scene.holder.looked(renewal, Asked(renewal.seq, GOOD))
    assert len(scene.limits()) == 1


def test_a_lease_that_was_left_is_not_renewed(scene: Scene) -> None:
    name = scene.renew(GOOD).name
    assert scene.holder.leaves() == ("1.a.2", name)
    assert scene.holder.limit == 0
    assert scene.holder.request(scene.now + 60) is None
    scene.holder.left()
    assert scene.ledger.servers["s"].lease is None


def test_a_server_that_does_not_say_what_it_is_is_asked_again_and_people_are_told_what_to_allow() -> None:
    scene = Scene()
    scene.holder._known = False
    refusal = "NOPERM this user has no permissions to run the 'info' command"
    scene.holder.learned(Findings(forbidden={"INFO": refusal}))
    assert "Allow it: ACL SETUSER default +evalsha" in remarks.obstacle(scene.holder, scene.now)
    assert not scene.holder.looks_again(scene.now)
    scene.now = scene.holder.due()
    assert scene.holder.looks_again(scene.now)
    scene.holder.learned(Findings(info={"redis_mode": "standalone"}))
    assert not scene.holder.looks_again(scene.now)
    assert not scene.holder.trouble


def test_a_host_that_may_not_do_the_duty_leaves_it_to_others_for_a_while(scene: Scene) -> None:
    assert scene.renew(GOOD).able
    scene.holder._did(Done(error="CLIENT KILL: NOPERM"))
    assert not scene.renew(GOOD).able
    assert scene.renew(GOOD).able is False
    scene.now += ABLE_AGAIN
    assert scene.renew(GOOD).able, "its rights may have changed"
    scene.holder.upstream.forbidden["CLIENT LIST"] = "NOPERM"
    assert not scene.renew(GOOD).able


def test_a_budget_that_leaves_nothing_or_more_than_the_server_takes_is_said(scene: Scene) -> None:
    scene.renew(GOOD)
    assert not remarks.oddity(scene.holder)
    scene.holder.upstream.maxclients = 8
    assert "the budget 24 of fleet web is more than the server takes" in remarks.oddity(scene.holder)
    assert not remarks.obstacle(scene.holder, scene.now)
    scene.renew(msgspec.structs.replace(GOOD, grant=0, target=0, budget=2))
    assert not remarks.oddity(scene.holder)
    assert "its slack 2, so no host gets any" in remarks.obstacle(scene.holder, scene.now)
    assert "to 3 or more" in remarks.obstacle(scene.holder, scene.now)


def test_a_host_is_told_that_nothing_is_left_for_it_and_that_another_budget_holds(scene: Scene) -> None:
    scene.renew(msgspec.structs.replace(GOOD, grant=0, target=0))
    text = remarks.obstacle(scene.holder, scene.now)
    assert "the budget 24 of fleet web has no connection left for this host" in text
    assert "REDIS_FLEET_BUDGET" in text
    scene.renew(msgspec.structs.replace(GOOD, budget=20))
    assert not remarks.obstacle(scene.holder, scene.now)
    assert "REDIS_FLEET_BUDGET=24 here, but 20 holds" in remarks.oddity(scene.holder)
    scene.renew(msgspec.structs.replace(GOOD, budget=30))
    assert not remarks.oddity(scene.holder), "more than a host states is what an operator has set"


def test_a_host_asks_for_no_more_than_its_own_ceiling_lets_it_use(scene: Scene) -> None:
    """What it is granted beyond would be kept from hosts that can use it."""
    (account,) = scene.ledger.servers["s"].accounts.values()
    account.report = Report("s", 0, open=0, in_use=0, waiting=40, peak=40)
    assert scene.holder.demand == 41
    scene.holder.upstream.operator = "12"
    assert scene.holder.demand == 12
    scene.holder.upstream.operator = ""
    scene.holder._settings = msgspec.structs.replace(scene.holder._settings, budget=6)
    assert scene.holder.demand == 6


def test_the_look_that_shows_what_a_server_is_does_not_wait_for_members() -> None:
    """After a snapshot that knows of no lease, nothing is granted before that look: members hold all there is."""
    scene = Scene()
    waited: list[float] = []

    class Session:
        async def permit(self, patience: float) -> bool:
            waited.append(patience)
            return False

    holder = scene.holder
    renewals = Renewals(holder, holder.upstream, holder._context, Session(), None)  # type: ignore[arg-type]
    asyncio.run(renewals.knock(Work(endpoints=())))
    assert not scene.ledger.servers["s"].own_overdraws, "it is known"
    holder._known = False
    asyncio.run(renewals.knock(Work(endpoints=())))
    assert waited == [KNOCK]
    assert scene.ledger.servers["s"].own_overdraws
