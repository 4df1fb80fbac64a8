"""The supervisor in a world of addresses: the real ledger and registry, and what asks addresses in place of a probe."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from poolmgr import wire
from poolmgr.budget import merging, recovery
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.upstreams.resolution import DOUBT
from poolmgr.supervisor.upstreams.sameness import Meetings
from poolmgr.supervisor.upstreams.upstream import Upstream
from tests import invariant
from tests.simulation.link import Link

if TYPE_CHECKING:
    from tests.simulation.places.world import World

ASKED = 0.5
"""Seconds between two questions to all addresses."""


class Looks:
    """What asks one upstream's addresses: in place of a probe."""

    still_runs = unwanted = busy = False

    def __init__(self, upstream: Upstream, clerk: Clerk) -> None:
        self.upstream, self.clerk, self.world = upstream, clerk, clerk.world
        self.outages = SimpleNamespace(gone=lambda tag: None, heard=lambda *_: None)
        self.allowance = SimpleNamespace(restored=lambda now: None)
        self._asking = False
        self._meetings = Meetings()

    def start(self) -> None:
        self.clerk.after(self.world.delay(0.0005), self.ask)

    def ask_again(self) -> None:
        self.clerk.after(self.world.delay(0.0005), self.ask)

    wake = hurry = try_again = ask_again

    def recalculate(self, *, at_once: bool = False) -> None:
        pass

    def registered(self, tag: str) -> None:
        pass

    @property
    def _over(self) -> bool:
        present: Any = self.clerk.registry.probes.get(self.upstream.id)
        return present is not self

    def ask(self) -> None:
        """By fresh connections, one address after the other."""
        if self._asking or self._over:
            return
        if self.upstream.resolved:
            self.clerk.registry.addresses.forget_unused(self.upstream)
        keys = sorted(self.upstream.ways)
        if keys:
            self._asking = True
            self._next(keys, {}, {}, self.world.clock.now)
        else:
            self.clerk.after(ASKED, self.ask)

    def _next(self, keys: list[str], said: dict[str, str], since: dict[str, float], began: float) -> None:
        if self._over:
            return
        if not keys:
            self._asking = False
            self._heard(said, since, began)
            return
        server = self.world.asks(keys[0])
        if not server.hangs:
            said[keys[0]], since[keys[0]] = server.run_id, server.since
        pause = 0.02 if server.hangs else self.world.delay(0.0005)
        self.clerk.after(pause, self._next, keys[1:], said, since, began)

    def _heard(self, said: dict[str, str], since: dict[str, float], began: float) -> None:
        upstream, registry, now = self.upstream, self.clerk.registry, self.world.clock.now
        if not said:
            upstream.asked_at = upstream.fresh_at = began if upstream.resolved else upstream.fresh_at
            self.clerk.after(ASKED, self.ask)
            return
        run_id = said[max(said)]
        if not upstream.resolved:
            met = self._meetings.met(run_id, now)
            others = registry.twins.doubtful(upstream, run_id, met, min(met, since[max(said)]))
            if others and now < met + DOUBT:
                for other in others:
                    registry.probes[other.id].ask_again()
                self.clerk.after(0.005, self.ask)
                return
        settled = upstream.sameness.asked(said, began, since)
        upstream.asked_at = upstream.fresh_at = began
        if not upstream.resolved:
            self._meetings.end()
            self.clerk.is_resolved(upstream, run_id)
        else:
            turned = upstream.sameness.turned(upstream.run_id, upstream.id)
            if turned:
                upstream.run_id, upstream.changed_at = turned, now
                self.clerk.ledger.server(upstream.id, run_id=turned)
            known = set(registry.upstreams)
            for group in upstream.sameness.apart(upstream.id):
                registry.part(upstream, group)
            self.world.checks.jumps |= registry.upstreams.keys() - known
            twin = registry.twins.of(upstream)
            if twin is not None:
                self.clerk.unite(upstream, twin)
        self.clerk.after(ASKED if settled else 0.0, self.ask)


class _Registry(Registry):
    clerk: Clerk

    def _probe(self, upstream: Upstream) -> Any:
        return Looks(upstream, self.clerk)


class Clerk:
    """The supervisor."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.alive = True
        owner = Identity(f"supervisor{number}", number)
        saved, now = world.disk, world.clock.now
        if saved is None:
            self.ledger = Ledger(owner=owner, rng=world.rng)
        else:
            self.ledger = recovery.restored(saved, now, alive=world.lives, owner=owner, rng=world.rng)
        committer: Any = SimpleNamespace(clock=lambda: world.clock.now, touch=lambda: self.wake(0.0001))
        nobody: Any = None
        self.links: dict[str, Link] = {}
        totals = SimpleNamespace(forget=lambda server: None)
        roster: Any = SimpleNamespace(send=self.send, known=self.links, totals=totals)
        self.registry = _Registry(
            Context(self.ledger, committer, world.settings, roster, nobody, nobody, nobody, itertools.count())
        )
        self.registry.clerk = self
        self.accepted: list[Link] = []
        """Links that have been made, some of which have said nothing yet."""
        self.known = self.links
        self._turn_at = math.inf
        self._turns = 0
        self.registry.restore()
        self.wake(0.0)
        self.after(0.05, self._tick)

    def after(self, seconds: float, call: Any, *args: Any) -> None:
        self.world.clock.after(seconds, self._run, call, *args)

    def _run(self, call: Any, *args: Any) -> None:
        if self.alive:
            self.world.checks.ledger_changed = True
            call(*args)

    def _tick(self) -> None:
        self.registry.tick()
        self.after(0.05, self._tick)

    # ---- from members ----------------------------------------------------------------------------

    def arrived(self, link: Link, message: wire.Message | None) -> None:
        self.world.checks.ledger_changed = True
        self.hear(link, message)
        self.wake(self.world.delay(0.0001))

    def hear(self, link: Link, message: wire.Message | None) -> None:
        tag, now, ledger, registry = link.member.tag, self.world.clock.now, self.ledger, self.registry
        match message:
            case None:
                if self.links.get(tag) is link:
                    del self.links[tag]
                link.close_supervisor()
                ledger.unlink(tag, link.number, now)
            case wire.Hello():
                holds: dict[str, int] = {}
                opened: dict[str, int] = {}
                for hold in message.holds:
                    for upstream, (stated, of_that) in registry.held(hold).items():
                        holds[upstream.id] = holds.get(upstream.id, 0) + stated
                        opened[upstream.id] = opened.get(upstream.id, 0) + of_that
                if not ledger.register(Identity(tag, 1), message.link, holds, now, opened=opened):
                    link.close_supervisor()
                    return
                older = self.links.get(tag)
                if older is not None and older is not link:
                    older.close_supervisor()
                self.links[tag] = link
                registry.addresses.asks_again(tag)
                link.to_member(wire.Welcome(1, 1, parts=True))
                for endpoint in message.endpoints:
                    self._attach(tag, endpoint)
            case _ if self.links.get(tag) is not link:
                pass
            case wire.Attach(endpoint=endpoint, number=number):
                registry.addresses.asked(tag, endpoint.key, number)
                self._attach(tag, endpoint)
            case wire.Detach(endpoint=key, server=server, seq=seq):
                if key:
                    registry.detached(tag, key)
                if server:
                    ledger.leave_one(tag, link.number, server, seq, now)
                    if registry.goes_to(tag, server):
                        ledger.attach(tag, server, now)
            case wire.Report():
                ledger.report(tag, link.number, message, now)

    def _attach(self, tag: str, endpoint: wire.Endpoint) -> None:
        upstream = self.registry.upstream_for(endpoint, tag)
        if upstream is None:
            self.world.checks.violated("there are too many servers")
        elif upstream.resolved:
            self.registry.resolved(upstream, tag, endpoint.key)
        else:
            upstream.waiting.append((tag, endpoint.key))

    def send(self, tag: str, message: wire.Message) -> None:
        if tag in self.links:
            self.links[tag].to_member(message)

    # ---- what addresses say ----------------------------------------------------------------------

    def is_resolved(self, upstream: Upstream, run_id: str) -> None:
        keys = set(upstream.ways)
        target = self.registry.is_resolved(upstream, run_id)
        self.world.checks.union(keys, set(target.ways) - keys, target)
        self.world.checks.jumps.add(target.id)
        if target is not upstream:
            merging.dissolve(self.ledger, upstream.id, target.id)
        else:
            self.ledger.set_budget(upstream.id, self.world.budget, self.world.clock.now)
            self.ledger.hold_raises(upstream.id, False)
            upstream.governor.budget = self.world.budget
        self.wake(0.0001)

    def unite(self, upstream: Upstream, twin: Upstream) -> None:
        self.world.checks.jumps.add(twin.id)
        self.registry.unite(upstream, twin)
        merging.dissolve(self.ledger, upstream.id, twin.id)
        self.wake(0.0001)

    # ---- turns -----------------------------------------------------------------------------------

    def wake(self, seconds: float) -> None:
        when = self.world.clock.now + seconds
        if when < self._turn_at - 1e-9:
            self._turn_at = when
            self._turns += 1
            self.world.clock.at(when, self._run, self._turn, self._turns)

    def _turn(self, number: int) -> None:
        if number != self._turns:
            return
        self._turn_at = math.inf
        now = self.world.clock.now
        turn = self.ledger.settle(now)
        invariant.check(self.ledger)
        if turn.persist:
            self.world.disk = recovery.save(self.ledger, now)
        for tell in turn.tells:
            link = self.links.get(tell.tag)
            if link is not None and link.number == tell.link:
                link.to_member(tell.message)
        if turn.wake is not None:
            self.wake(max(0.0001, turn.wake - now))

    def die(self) -> None:
        self.alive = False
        for link in self.accepted:
            link.close_supervisor(lossy=self.world.rng.random() < 0.3)
