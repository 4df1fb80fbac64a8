"""Which server this is: a new one, or one known by another name.

The supervisor *resolves* an endpoint by asking the server behind it for its run_id. It uses a permit borrowed from
every server that this one might turn out to be, so that even the question stays within the budget. A new server is
searched for existing connections (:mod:`poolmgr.supervisor.servers.census`), and no limit is raised before their
holders have had time to register. Two upstreams that turn out to be one server become one: the twin takes what is left.
Several upstreams can be resolved at the same time: each decision is made between two waits, from what is known then, so
no upstream waits for another's server.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

import msgspec

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.servers import census, unproven
from poolmgr.supervisor.servers.admin import Place
from poolmgr.supervisor.servers.allowance import Allowance
from poolmgr.supervisor.servers.comparison import alike
from poolmgr.supervisor.servers.findings import Findings, Work
from poolmgr.supervisor.servers.likeness import NoPermitError
from poolmgr.supervisor.servers.own_permits import OwnPermits
from poolmgr.supervisor.servers.ports import ProbePort, RegistryPort
from poolmgr.supervisor.servers.reconcile import Reconciler
from poolmgr.supervisor.servers.sameness import Meetings
from poolmgr.supervisor.servers.schedule import BUSY, Schedule
from poolmgr.supervisor.servers.session import AdminSession
from poolmgr.supervisor.servers.summary import Summary
from poolmgr.supervisor.servers.upstream import Upstream

UNHEARD = 2.0
"""Seconds for which no limit is raised at a newly met server where living processes hold connections of ours and have
not registered."""

PATIENCE, ROUND = 5.0, 1.0
"""Seconds to wait for the permits of all servers that an address may lead to; and for one attempt to hold all of them
at once. After the attempt they are given back, because others may need them."""

OVER_EVERY = 30.0
"""Seconds between two looks at unknown addresses without a server's permit."""

STILL = 0.05
"""Seconds until the next check whether a hanging server has answered, unless an event shows it before."""

SHORT = 0.5
"""Seconds to wait for a permit to look at a server whose budget is not known yet."""

MEETINGS = 2
"""How often an unknown address is asked again, since it may lead to several servers in turn."""

DOUBT = 2.0
"""Seconds for which a server that was just restarted waits until the others say that they are not it."""


class Resolution:
    """See the module's docstring. One for each upstream; used in the event loop.

    Args:
        no_permit: called when no permit to look with was free.
        end: called when this upstream was another name of a known one: its probe ends.
    """

    def __init__(
        self,
        upstream: Upstream,
        context: Context,
        registry: RegistryPort,
        *,
        session: AdminSession,
        own: OwnPermits,
        allowance: Allowance,
        schedule: Schedule,
        reconciler: Reconciler,
        no_permit: Callable[[float], object],
        end: Callable[[], None],
    ) -> None:
        self._upstream = upstream
        self._context = context
        self._registry = registry
        self._ledger = context.ledger
        self._committer = context.committer
        self._session = session
        self._own = own
        self._allowance = allowance
        self._schedule = schedule
        self._reconciler = reconciler
        self._no_permit = no_permit
        self._end = end
        self._unheard: set[str] = set()
        """Living processes that hold connections here and have not registered."""
        self._unheard_until = 0.0
        self._meetings = Meetings()
        self._over: set[ProbePort] = set()
        """Servers whose budget this look exceeds."""

    def heard(self, tag: str) -> None:
        """A process has registered, or is gone."""
        self._unheard.discard(tag)

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
        self._over.clear()
        borrowed: list[ProbePort] = []
        probe = self._registry.probes[upstream.id]
        try:
            if not await self._permits(borrowed):
                return
            self._registry.unplaced.add(probe)
            self._schedule.hurry = False
            began = self._committer.clock()
            await self._look(work, began, borrowed)
        finally:
            if not self._session.stalled:
                self._registry.unplaced.discard(probe)
            for lender in borrowed:
                lender.permits.release()
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

    # ---- permits for it ---------------------------------------------------------------------------

    async def _permits(self, borrowed: list[ProbePort]) -> bool:
        """Get a permit of our own, and one of each server that this one may be. A permit that does not come in
        :data:`PATIENCE` seconds is overdrawn, seldom, and counted as unproven: otherwise a process that has pinned all
        permits of one server would keep all others from using another one."""
        until = self._committer.clock() + PATIENCE
        while not self._room():
            if self._committer.clock() >= until:
                break
            await asyncio.sleep(0.02)
        while True:
            missing = await self._borrow(borrowed, ROUND)
            if not missing:
                break
            if self._committer.clock() >= until:
                if not all(self._may_overdraw(lender) for lender in missing):
                    self._schedule.retry_at = self._committer.clock() + ROUND
                    return False
                await asyncio.gather(*(self._overdraw(lender, borrowed) for lender in missing))
                break
            self._return(borrowed)  # others may need them meanwhile
            await asyncio.sleep(0.02)
        return await self._own_permit()

    def _room(self) -> bool:
        """Whether one more connection to an unknown destination would be within the budget of a server that is not
        known yet."""
        word = self._context.settings.budget_of(self._ledger.servers[self._upstream.id].aliases)
        others = len(self._registry.unplaced - {self._registry.probes[self._upstream.id]})
        return word == "auto" or others < int(word)

    def _lenders(self) -> list[ProbePort]:
        return [p for p in self._registry.probes.values() if p.upstream is not self._upstream and p.upstream.resolved]

    async def _borrow(self, borrowed: list[ProbePort], patience: float) -> list[ProbePort]:
        """Borrow a permit of each lender. Returns the lenders that had none."""
        missing: list[ProbePort] = []

        async def borrow(lender: ProbePort) -> None:
            (borrowed if await lender.lend(patience) else missing).append(lender)

        await asyncio.gather(*map(borrow, self._lenders()))
        return [lender for lender in missing if lender.upstream.id in self._registry.upstreams]

    def _return(self, borrowed: list[ProbePort]) -> None:
        for lender in borrowed:
            lender.permits.release()
        borrowed.clear()

    def _may_overdraw(self, lender: ProbePort) -> bool:
        return not self._ledger.stuck and self._committer.clock() >= lender.upstream.overdrawn_at + OVER_EVERY

    async def _overdraw(self, lender: ProbePort, borrowed: list[ProbePort]) -> None:
        self._count_over(lender)
        self._over.add(lender)
        if await lender.permits.acquire(SHORT):
            borrowed.append(lender)

    def _count_over(self, lender: ProbePort) -> None:
        """The lender's next permit is granted although it exceeds the budget."""
        upstream = lender.upstream
        upstream.overdrawn_at = self._committer.clock()
        upstream.unproven += 1
        log.warning("look.unproven", extra={"server": upstream.id, "endpoint": self._upstream.id})
        self._ledger.overdraw_own(upstream.id)

    async def _own_permit(self) -> bool:
        upstream = self._upstream
        server = self._ledger.servers[upstream.id]
        new = upstream.governor.budget is None
        # After a parting no limit is sent before the server is known, so no permit comes back.
        needed = max(1, server.outstanding + int(server.unknown and not server.own))
        if new and server.budget < needed:
            self._ledger.set_budget(upstream.id, needed, self._committer.clock())
        if await self._session.permit(SHORT if new else PATIENCE):
            return True
        now = self._committer.clock()
        if new:  # members' statements fill all we know of: there must be one more
            self._ledger.set_budget(upstream.id, server.outstanding + 1, now)
        else:
            self._no_permit(now)
        return False

    # ---- what it says -----------------------------------------------------------------------------

    async def _look(self, work: Work, began: float, borrowed: list[ProbePort]) -> None:
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
            self._doubt(borrowed)
            if not found.answered:
                self._take_its_word(found, now)
            return
        if self._in_doubt(found, now):
            await self._session.shut()
            self._doubt(borrowed)
            self._schedule.retry_at = now + 0.02
            return
        several = await self._says_several(work, found, borrowed)
        now = self._committer.clock()
        if several is None or (several and self._are_apart(several, found, now)):
            if not self._session.stalled:
                await self._session.shut()
            self._doubt(borrowed)
            self._schedule.retry_at = self._committer.clock() + STILL
            return
        if several:
            upstream.sameness.several |= several
            log.warning("server.several", extra={"server": upstream.id, "run_ids": len(several)})
        twin = None
        if self._registry.twin_of(upstream) is None:
            twin, waits = await self._compared(found)
            if waits:
                await self._session.shut()
                self._doubt(borrowed)
                self._schedule.retry_at = self._committer.clock() + STILL
                return
            now = self._committer.clock()
        upstream.asked_at = upstream.fresh_at = began
        upstream.sameness.asked(found.said, began, started(found, now))
        upstream.run_id = found.run_id
        if twin is not None or self._registry.twin_of(upstream) is not None:
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

    async def _says_several(self, work: Work, found: Findings, borrowed: list[ProbePort]) -> set[str] | None:
        """The run_ids of a balancer that leads to several servers in turn; empty: one server. If other processes use
        those servers directly, the balancer's first connection may be one too many for one of them. So we ask a few
        times more, with the same permits. None: no answer, so ask again; for :data:`DOUBT` seconds at most, since a
        caller that wants to connect there may succeed. If the end of one connection is not proven there is no permit
        for the next, and the first answer has to do."""
        direct = all(ways[0].path for ways in work.endpoints)
        if not found.run_id or self._over or direct:
            return set()
        said, restarted = [found.run_id], False
        for _ in range(MEETINGS):
            began = self._committer.clock()
            again = await self._session.look(msgspec.structs.replace(work, fresh=True))
            if again.error is not None:
                now = self._committer.clock()
                if now < self._meetings.met(found.run_id, now) + DOUBT:
                    return None
                if self._session.stalled:
                    await self._session.shut()
                    self._doubt(borrowed)
                break
            if not again.run_id:
                break
            if again.run_id != said[-1]:
                said.append(again.run_id)
                restarted = restarted or _started(again, self._committer.clock()) >= began
        names = set(said)
        if restarted and len(names) == len(said):  # it may be one server: no run_id came twice
            return set()
        return names if len(names) > 1 else set()

    def _are_apart(self, several: set[str], found: Findings, now: float) -> bool:
        """Whether servers behind one balancer still have a budget each. They are marked as one."""
        upstreams = [probe for probe in self._lenders() if probe.upstream.run_id in several]
        if len(upstreams) < 2 or now >= self._meetings.met(found.run_id, now) + DOUBT:
            return False
        for probe in upstreams:
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

    def _doubt(self, borrowed: list[ProbePort]) -> None:
        """A connection that is open, or was not closed properly, may lead to any lender. Its permit stays charged there
        until that server is seen not to have the connection."""
        names = set(self._upstream.unclosed)
        if self._session.stalled_name:
            names.add(self._session.stalled_name)
        for lender in list(borrowed) if names else ():
            if lender.upstream.id not in self._registry.upstreams:
                continue
            fresh = names - lender.upstream.unclosed.keys()
            for name in sorted(fresh)[:1]:  # one permit was lent, and one connection made with it
                borrowed.remove(lender)
                lender.doubt(name)

    async def _compared(self, found: Findings) -> tuple[Upstream | None, bool]:
        """The server that this one is, if it or the other one does not give its run_id; and whether to try again
        because no permit was free. A comparison takes two connections to the other server at once: if the first
        exceeded its budget, the second may too."""
        upstream = self._upstream
        upstream.run_id = found.run_id
        others = self._registry.comparable(upstream) if found.error is None else []
        try:
            return await self._twin_among(others), False
        except NoPermitError as error:
            lender = self._registry.probes.get(str(error))
            if lender is None or lender not in self._over:
                return None, True
            self._count_over(lender)
            with contextlib.suppress(NoPermitError):
                return await self._twin_among(others), False
            return None, True

    async def twin_by_likeness(self, found: Findings) -> Upstream | None:
        """The resolved upstream that is the same server as this resolved one. None: there is none, or none is known."""
        upstream = self._upstream
        if found.error is not None or upstream.id not in self._registry.upstreams:
            return None
        # Only one of the two asks: each needs the other's session.
        others = [other for other in self._registry.comparable(upstream) if other.upstream.id < upstream.id]
        if others:
            with contextlib.suppress(NoPermitError):
                return await self._twin_among(others)
        return None

    async def _twin_among(self, others: list[ProbePort]) -> Upstream | None:
        """Ask all at the same time, so that a hanging server delays none of the others.

        Raises:
            NoPermitError: no match was found, and at least one could not be compared.
        """
        turn = asyncio.Lock()
        asked = (alike(self._session, other, ROUND, turn) for other in others)
        verdicts = await asyncio.gather(*asked, return_exceptions=True)
        failure: BaseException | None = None
        for other, verdict in zip(others, verdicts, strict=True):
            if isinstance(verdict, BaseException):
                failure = failure or verdict
            elif verdict and other.upstream.id in self._registry.upstreams:
                return other.upstream
            elif verdict is False:
                self._registry.apart.add(frozenset((self._upstream.id, other.upstream.id)))
        if failure is not None:
            raise failure
        return None

    def _in_doubt(self, found: Findings, now: float) -> bool:
        """Whether it may be a known server that was restarted and has a new run_id, or one that gave the same run_id in
        an earlier answer. That server is then asked now."""
        if self._upstream.resolved or not found.run_id:
            return False
        met = self._meetings.met(found.run_id, now)
        doubtful = self._registry.doubtful(self._upstream, found.run_id, met, min(met, _started(found, now)))
        overdrawn = [probe.upstream for probe in self._over]  # no permit for this look, so none to ask with
        doubtful = [other for other in doubtful if other not in overdrawn or other.run_id != found.run_id]
        for other in doubtful:
            self._registry.probes[other.id].ask_again()
        return bool(doubtful) and now < met + DOUBT

    def _met_again(self, found: Findings, now: float, began: float) -> None:
        """It is a new server: count the connections there, and derive what may be opened."""
        upstream = self._upstream
        self._unheard = self._count(found, now)
        if self._has_seen_all(found, now, began):
            self._ledger.searched(upstream.id)
        self._unheard_until = now + UNHEARD
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
        self.release_held_raises(now)

    def _count(self, found: Findings, now: float) -> set[str]:
        """Charge connections that bear our tags. Returns their living holders that have not registered."""
        if found.shown is not None:
            self._context.scope.searched(self._ledger.servers[self._upstream.id].aliases)
        return census.take(
            found.shown or Summary(),
            self._upstream.id,
            self._ledger,
            self._context.watch,
            self._context.belonging,
            now,
        )

    def search_again(self, found: Findings, now: float, began: float) -> None:
        """All members of the previous supervisor have had time to register (:meth:`Ledger.whole`), so this search is
        complete. Members that have not registered are charged with what it finds. Without a password that the server
        accepts the search is put off: a process that cannot log in has no use for a permit."""
        if self._has_seen_all(found, now, began):
            self._count(found, now)
            self._ledger.searched(self._upstream.id)
            self.release_held_raises(now)

    def _has_seen_all(self, found: Findings, now: float, began: float) -> bool:
        """Whether a look begun then cannot have missed anything opened before :meth:`Ledger.whole`.

        This is known from a list made after a fresh connection by every way, in which every connection of that time has
        a name. If there can be no such list, bounded waits replace it, as for a proof
        (:mod:`poolmgr.supervisor.servers.unproven`).
        """
        waited = began - self._registry.whole_since
        if waited < 0:
            return False
        if "CLIENT LIST" in found.forbidden or self._upstream.hidden:
            return True
        if found.shown is None or not (found.fresh or (found.silent and waited > unproven.WAIT)):
            return False
        return not found.suspects or waited > self._schedule.handshake + 1  # ages are whole seconds

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
        self._ledger.dissolve(self._upstream.id, twin.upstream.id)
        for _ in twice:  # one connection, for which both held a permit
            twin.permits.release()
        twin.permits.granted()

    def release_held_raises(self, now: float) -> None:
        """Release raises after the census, once the processes it found have had time to register."""
        server = self._ledger.servers.get(self._upstream.id)
        if server is None or not server.held or not self._upstream.resolved:
            return
        if not self._unheard or now >= self._unheard_until:
            self._ledger.hold_raises(self._upstream.id, False)
            if not server.held:
                self._committer.touch()

    def held_until(self, now: float) -> float:
        """When to check again whether raises may be released; infinity: no process is waited for."""
        return max(self._unheard_until, now + 0.1) if self._unheard else math.inf


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
