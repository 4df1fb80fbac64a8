"""A server that turns out to be a known one by another name, and what may come while that is being settled."""

from __future__ import annotations

import asyncio
import itertools
import random
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from poolmgr import settings, wire
from poolmgr.budget import merging
from poolmgr.budget.accounts import Identity
from poolmgr.budget.effects import Turn
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.upstreams.summary import Summary
from poolmgr.supervisor.upstreams.upstream import Upstream
from tests import invariant

KNOWN, ALIAS = "tcp://cache:6379", "tcp://127.0.0.1:6379"


class House:
    """A registry with a server that is known, and an endpoint of which it is not known yet that it is the same."""

    def __init__(self) -> None:
        self.ledger = Ledger(owner=Identity("supervisor", 1), rng=random.Random(1))
        clock = asyncio.get_running_loop().time
        committer: Any = SimpleNamespace(clock=clock, touch=lambda: None)
        nobody: Any = MagicMock()
        context = Context(
            self.ledger, committer, settings.load({}), Roster(), nobody, nobody, nobody, itertools.count()
        )
        self.registry = Registry(context)
        self.known = self._upstream(KNOWN)
        self.known.resolved, self.known.run_id = True, "x"
        self.alias = self._upstream(ALIAS)
        self.probe = self.registry.probes[ALIAS]
        self.clock = clock
        self.shut = 0

    def _upstream(self, key: str) -> Upstream:
        upstream = self.registry._new(key, (key,))
        self.ledger.set_budget(key, 20, 0.0)
        return upstream

    def register(self, link: int, holds: int) -> None:
        """A member states what it holds by the name that it was told, as :class:`Members` takes it in."""
        (upstream,) = self.registry.held(wire.Hold(ALIAS, (ALIAS,), holds, holds))
        assert self.ledger.register(Identity("m", 2), link, {upstream.id: holds}, self.clock())
        self.registry.latecomers.registered("m")

    def charge(self, limit: int) -> None:
        """A member was told a limit while it was not known that the two are one."""
        ledger, now = self.ledger, self.clock()
        assert ledger.register(Identity("m", 2), 1, {}, now)
        ledger.attach("m", ALIAS, now)
        ledger.hold_raises(ALIAS, False)
        assert ledger._raise(ledger.servers[ALIAS], "m", limit, now, Turn())
        ledger.hold_raises(ALIAS, True)

    async def resolve(self, while_closing: Any) -> None:
        """The server says who it is; what was opened to ask it takes its time to close."""
        session: Any = self.probe._session

        async def permit(*_: float) -> bool:
            return True

        async def look(work: Work) -> Findings:
            return Findings(answered=True, info={"run_id": "x"}, shown=Summary())

        async def shut() -> None:
            self.shut += 1
            while_closing()

        session.permit, session.look, session.shut = permit, look, shut
        lender: Any = self.registry.probes[KNOWN].permits
        lender.acquire = permit
        lender.release = lambda: None
        await self.probe._resolution.resolve(Work(endpoints=()))


def run(while_closing: str) -> House:
    async def scene() -> House:
        house = House()
        house.charge(5)
        await house.resolve({"registers": lambda: house.register(2, 5), "nothing": lambda: None}[while_closing])
        for probe in house.registry.probes.values():
            probe.cancel()
        return house

    return asyncio.run(scene())


@pytest.mark.parametrize(
    ("uptime", "doubtful"),
    [("0", True), ("1", True), ("2", False), ("3600", False), ("", True), ("long", True)],
)
def test_who_may_have_been_restarted_since_it_was_asked_is_asked_again(uptime: str, doubtful: bool) -> None:
    """A server says 1 as soon as the next second has begun, though it was started a moment ago."""

    async def scene() -> bool:
        house = House()
        now = house.clock()
        house.known.ways.learn(wire.Endpoint(key=KNOWN, host="cache", port=6379))
        house.known.asked_at = now - 0.5
        found = Findings(answered=True, info={"run_id": "y", "uptime_in_seconds": uptime})
        in_doubt = house.probe._resolution._in_doubt(found, now)
        for probe in house.registry.probes.values():
            probe.cancel()
        return in_doubt

    assert asyncio.run(scene()) is doubtful


def test_the_known_one_takes_what_is_charged() -> None:
    house = run("nothing")
    assert house.shut == 1
    assert list(house.ledger.servers) == [KNOWN]
    assert house.ledger.servers[KNOWN].accounts["m"].charge == 5
    invariant.check(house.ledger)


def test_who_registers_meanwhile_does_not_look_as_if_a_snapshot_were_lost() -> None:
    house = run("registers")
    assert not house.ledger.partial
    assert list(house.ledger.servers) == [KNOWN]
    assert house.ledger.servers[KNOWN].accounts["m"].charge == 5
    assert house.ledger.servers[KNOWN].accounts["m"].excess == 0
    invariant.check(house.ledger)


def test_there_is_room_to_look_at_what_has_parted_though_members_are_charged_with_all() -> None:
    """They are told nothing before it is known which server that is, so nothing comes back from them."""

    async def scene() -> int:
        house = House()
        assert house.ledger.register(Identity("m", 2), 1, {KNOWN: 20}, house.clock())
        merging.part(house.ledger, KNOWN, "new", (), {"m"})
        house.registry._new("new", ())
        probe: Any = house.registry.probes["new"]
        free = -1

        async def permit(*_: float) -> bool:
            nonlocal free
            free = house.ledger.servers["new"].free
            return True

        probe._session.permit = permit
        assert await probe._resolution._loan.own_permit()
        for other in house.registry.probes.values():
            other.cancel()
        return free

    assert asyncio.run(scene()) == 1
