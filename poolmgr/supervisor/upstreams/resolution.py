"""Which server this is: a new one, or one known by another name.

The supervisor *resolves* an endpoint by asking the server behind it for its run_id. It uses a permit borrowed from
every server that this one might turn out to be (:mod:`poolmgr.supervisor.upstreams.loan`). A new server is searched for
existing connections (:mod:`poolmgr.supervisor.upstreams.census`). Two upstreams that turn out to be one server become
one: the twin takes what is left. Several upstreams can be resolved at the same time: each decision is made between two
waits, from what is known then, so no upstream waits for another's server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from poolmgr.budget import merging
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.admin import Place
from poolmgr.supervisor.upstreams.allowance import Allowance
from poolmgr.supervisor.upstreams.census import Census
from poolmgr.supervisor.upstreams.comparison import alike
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.likeness import NoPermitError
from poolmgr.supervisor.upstreams.loan import ROUND, Loan
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.ports import ProbePort, RegistryPort
from poolmgr.supervisor.upstreams.reconcile import Reconciler
from poolmgr.supervisor.upstreams.sameness import Meetings
from poolmgr.supervisor.upstreams.schedule import BUSY, Schedule
from poolmgr.supervisor.upstreams.session import AdminSession
from poolmgr.supervisor.upstreams.upstream import Upstream

STILL = 0.05
"""Seconds until the next check whether a hanging server has answered, unless an event shows it before."""

MEETINGS = 2
"""How often an unknown address is asked again, since it may lead to several servers in turn."""

DOUBT = 2.0
"""Seconds for which a server that was just restarted waits until the others say that they are not it."""


@dataclass(eq=False, repr=False)
class Resolution:
    """See the module's docstring. One for each upstream; used in the event loop.

    Args:
        end: called when this upstream was another name of a known one: its probe ends.
    """

    _upstream: Upstream
    _context: Context
    _registry: RegistryPort
    _session: AdminSession
    _own: OwnPermits
    _allowance: Allowance
    _schedule: Schedule
    _reconciler: Reconciler
    _loan: Loan
    _census: Census
    _end: Callable[[], None]

    def __post_init__(self) -> None:
        self._ledger = self._context.ledger
        self._committer = self._context.committer
        self._meetings = Meetings()

    async def resolve(self, work: Work) -> None:
        """Learn the run_id, with a permit of every server that this one might turn out to be."""
        upstream = self._upstream
        if self._session.silent:  # the open connection is still waited for
            self._schedule.retry_at = self._committer.clock() + STILL
            return
        try:
            work = await self._located(work)
        except OSError as error:
            self._schedule.hurry = False
            now = self._committer.clock()
            found = Findings(error=("unreachable", error.strerror or str(error)))
            self._reconciler.note(found, now, now)
            self._take_its_word(found, now)
            return
        probe = self._registry.probes[upstream.id]
        try:
            if not await self._loan.take():
                return
            self._registry.unplaced.add(probe)
            self._schedule.hurry = False
            began = self._committer.clock()
            await self._look(work, began)
        finally:
            if not self._session.stalled:
                self._registry.unplaced.discard(probe)
            self._loan.give_back()
            self._committer.touch()

    async def _located(self, work: Work) -> Work:
        """Look names up before anything is borrowed: that can take long, and opens nothing."""
        places: dict[str, tuple[Place, ...]] = {}
        failure: OSError | None = None
        for ways in work.endpoints:
            try:
                places[ways[0].key] = await self._session.locate(ways[0])
            except OSError as error:
                failure = error
        if not places and failure is not None:
            raise failure
        known = tuple(ways for ways in work.endpoints if ways[0].key in places)
        return msgspec.structs.replace(work, endpoints=known, places=places)

    # ---- what it says -----------------------------------------------------------------------------

    async def _look(self, work: Work, began: float) -> None:
        upstream = self._upstream
        found = await self._session.look(work)
        now = self._committer.clock()
        self._reconciler.note(found, now, began)
        known = not found.busy and (found.error is None or _keeps_us_out(found))
        if not known:
            if found.busy:
                self._schedule.retry_at = now + BUSY
            if not self._session.stalled or upstream.own:
                await self._session.shut()
            self._loan.doubt()
            if not found.answered:
                self._take_its_word(found, now)
            return
        if self._in_doubt(found, now):
            await self._session.shut()
            self._loan.doubt()
            self._schedule.retry_at = now + 0.02
            return
        several = await self._says_several(work, found)
        now = self._committer.clock()
        if several is None or (several and self._are_apart(several, found, now)):
            if not self._session.stalled:
                await self._session.shut()
            self._loan.doubt()
            self._schedule.retry_at = self._committer.clock() + STILL
            return
        if several:
            upstream.sameness.several |= several
            log.warning("server.several", extra={"server": upstream.id, "run_ids": len(several)})
        twin = None
        if self._registry.twins.of(upstream) is None:
            twin, waits = await self._compared(found)
            if waits:
                await self._session.shut()
                self._loan.doubt()
                self._schedule.retry_at = self._committer.clock() + STILL
                return
            now = self._committer.clock()
        upstream.asked_at = upstream.fresh_at = began
        upstream.sameness.asked(found.said, began, started(found, now))
        upstream.run_id = found.run_id
        if twin is not None or self._registry.twins.of(upstream) is not None:
            # Shut first, because nothing may come between the merge in the registry and the one in the ledger: a member
            # that registered in between would state more than is charged, as if a snapshot were lost.
            await self._session.shut()
        if twin is not None and twin.id not in self._registry.upstreams:  # merged into another one meanwhile
            self._schedule.retry_at = 0.0
            return
        self._meetings.end()
        target = self._registry.is_resolved(upstream, found.run_id, twin)
        if target is not upstream:
            self._hand_over(self._registry.probes[target.id])
            return
        self._met_again(found, now, began)
        if found.error is not None or self._schedule.sparing:
            await self._session.shut()

    async def _says_several(self, work: Work, found: Findings) -> set[str] | None:
        """The run_ids of a balancer that leads to several servers in turn; empty: one server. If other processes use
        those servers directly, the balancer's first connection may be one too many for one of them. So we ask a few
        times more, with the same permits. None: no answer, so ask again; for :data:`DOUBT` seconds at most, since a
        caller that wants to connect there may succeed. If the end of one connection is not proven there is no permit
        for the next, and the first answer has to do."""
        direct = all(ways[0].path for ways in work.endpoints)
        if not found.run_id or self._loan.over or direct:
            return set()
        said, restarted = [found.run_id], False
        only_its_name = msgspec.structs.replace(work, fresh=True, facts=False, listing=False, targets=frozenset())
        for _ in range(MEETINGS):
            began = self._committer.clock()
            again = await self._session.look(only_its_name)
            if again.error is not None:
                now = self._committer.clock()
                if now < self._meetings.met(found.run_id, now) + DOUBT:
                    return None
                if self._session.stalled:
                    await self._session.shut()
                    self._loan.doubt()
                break
            if not again.said:
                break
            key, run_id = list(again.said.items())[-1]
            if run_id != said[-1]:
                said.append(run_id)
                restarted = restarted or self._committer.clock() - again.started[key] >= began
        names = set(said)
        if restarted and len(names) == len(said):  # it may be one server: no run_id came twice
            return set()
        return names if len(names) > 1 else set()

    def _are_apart(self, several: set[str], found: Findings, now: float) -> bool:
        """Whether servers behind one balancer still have a budget each. They are marked as one."""
        probes = [self._registry.probes[lender.upstream.id] for lender in self._loan.lenders()]
        theirs = [probe for probe in probes if probe.upstream.run_id in several]
        if len(theirs) < 2 or now >= self._meetings.met(found.run_id, now) + DOUBT:
            return False
        for probe in theirs:
            probe.upstream.sameness.several |= several
            probe.ask_again()
        return True

    def _take_its_word(self, found: Findings, now: float) -> None:
        """Only its users have a way to this server, so their name for it is all that is known. It is its own server as
        long as we cannot reach it."""
        upstream = self._upstream
        if not upstream.own:
            return
        self._registry.is_resolved(upstream, "")
        self._met_again(found, now, now)
        upstream.remark = "the supervisor has no way to it"
        self._allowance.apply(now, at_once=True)

    async def _compared(self, found: Findings) -> tuple[Upstream | None, bool]:
        """The server that this one is, if it or the other one does not give its run_id; and whether to try again
        because no permit was free. A comparison takes two connections to the other server at once: if the first
        exceeded its budget, the second may too."""
        upstream = self._upstream
        upstream.run_id = found.run_id
        others = self._registry.twins.comparable(upstream) if found.error is None else []
        try:
            return await self._twin_among(others), False
        except NoPermitError as error:
            probe = self._registry.probes.get(str(error))
            if probe is None or probe.lender not in self._loan.over:
                return None, True
            self._loan.count_over(probe.lender)
            with contextlib.suppress(NoPermitError):
                return await self._twin_among(others), False
            return None, True

    async def twin_by_likeness(self, found: Findings) -> Upstream | None:
        """The resolved upstream that is the same server as this resolved one. None: there is none, or none is known."""
        upstream = self._upstream
        if found.error is not None or upstream.id not in self._registry.upstreams:
            return None
        # Only one of the two asks: each needs the other's session.
        others = [other for other in self._registry.twins.comparable(upstream) if other.id < upstream.id]
        if others:
            with contextlib.suppress(NoPermitError):
                return await self._twin_among(others)
        return None

    async def _twin_among(self, others: list[Upstream]) -> Upstream | None:
        """Ask all at the same time, so that a hanging server delays none of the others.

        Raises:
            NoPermitError: no match was found, and at least one could not be compared.
        """
        turn, probes = asyncio.Lock(), self._registry.probes
        asked = (alike(self._session, probes[other.id].lender, ROUND, turn) for other in others)
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
        failure: BaseException | None = None
        for other, verdict in zip(others, verdicts, strict=True):
            if isinstance(verdict, BaseException):
                failure = failure or verdict
            elif verdict and other.id in self._registry.upstreams:
                return other
            elif verdict is False:
                self._registry.twins.differ(self._upstream, other)
        if failure is not None:
            raise failure
        return None

    def _in_doubt(self, found: Findings, now: float) -> bool:
        """Whether it may be a known server that was restarted and has a new run_id, or one that gave the same run_id in
        an earlier answer. That server is then asked now."""
        if self._upstream.resolved or not found.run_id:
            return False
        met = self._meetings.met(found.run_id, now)
        doubtful = self._registry.twins.doubtful(self._upstream, found.run_id, met, min(met, _started(found, now)))
        overdrawn = [lender.upstream for lender in self._loan.over]  # no permit for this look, so none to ask with
        doubtful = [other for other in doubtful if other not in overdrawn or other.run_id != found.run_id]
        for other in doubtful:
            self._registry.probes[other.id].ask_again()
        return bool(doubtful) and now < met + DOUBT

    def _met_again(self, found: Findings, now: float, began: float) -> None:
        """It is a new server: count the connections there, and derive what may be opened."""
        upstream = self._upstream
        self._census.begin(found, now, began)
        upstream.forbidden = dict(found.forbidden)
        for what, words in found.forbidden.items():
            log.warning("server.forbids", extra={"server": upstream.id, "command": what, "error": words})
        self._allowance.learn(found, now)
        self._allowance.apply(now, at_once=True)
        self._schedule.looked(now)  # the budget is known only now
        self._schedule.listed(now)
        self._schedule.asked(now)
        if found.info.get("rejected_connections", "").isdecimal():
            upstream.rejected = int(found.info["rejected_connections"])
        self._census.release_held_raises(now)

    def part(self) -> None:
        """Split off addresses that now lead to other servers."""
        upstream = self._upstream
        for group in upstream.sameness.apart(upstream.id):
            self._registry.part(upstream, group)

    def unite(self, twin: Upstream) -> None:
        """This upstream and another one are one server. A restart, wrong credentials or missing rights had hidden
        that."""
        if twin.id in self._registry.upstreams:
            probe = self._registry.probes[twin.id]
            self._registry.unite(self._upstream, twin)
            self._hand_over(probe)
            probe.hurry()

    def _hand_over(self, twin: ProbePort) -> None:
        """This upstream was another name of ``twin``, which takes what is left of it."""
        self._end()
        twice = self._upstream.unclosed.keys() & twin.upstream.unclosed.keys()
        twin.upstream.unclosed.update(self._upstream.unclosed)
        self._upstream.unclosed.clear()
        self._own.pass_to(twin.permits)
        merging.dissolve(self._ledger, self._upstream.id, twin.upstream.id)
        for _ in twice:  # one connection, for which both held a permit
            twin.permits.release()
        twin.permits.granted()


def _started(found: Findings, now: float) -> float:
    """When the server was started, at the latest. Its uptime is the difference of two times in whole seconds (Redis'
    and Valkey's ``genRedisInfoString``), so an uptime of 1 can mean only a moment."""
    uptime = found.info.get("uptime_in_seconds", "")
    return now - max(0, int(uptime) - 1) if uptime.isdecimal() else now


def started(found: Findings, now: float) -> dict[str, float]:
    """When the server behind each address was started, at the latest."""
    return {key: now - seconds for key, seconds in found.started.items()}


def _keeps_us_out(found: Findings) -> bool:
    """The server answers but accepts none of the known passwords."""
    return found.answered and found.error is not None and found.error[0] == "auth"
