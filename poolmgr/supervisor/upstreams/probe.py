"""The task that looks after one server: its identity, its health, and which permits can be freed.

It runs the parts, each of which is one idea. :mod:`~poolmgr.supervisor.upstreams.schedule` says *when* to look and what
for. :class:`poolmgr.supervisor.upstreams.session.AdminSession` does the looking.
:mod:`~poolmgr.supervisor.upstreams.reconcile` takes the findings. :mod:`~poolmgr.supervisor.upstreams.resolution` finds
out which server it is. The task must never block the event loop, and no fault of its server may end it. With a small
budget no connection stays open between two looks.
"""

from __future__ import annotations

import asyncio

import msgspec

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.fleet.leaseholder import Leaseholder
from poolmgr.supervisor.fleet.renewals import Renewals
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.allowance import Allowance
from poolmgr.supervisor.upstreams.census import Census
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.lender import Lender
from poolmgr.supervisor.upstreams.loan import Loan
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.ports import RegistryPort
from poolmgr.supervisor.upstreams.reclaim import Reclaimer
from poolmgr.supervisor.upstreams.reconcile import Reconciler
from poolmgr.supervisor.upstreams.resolution import Resolution, started
from poolmgr.supervisor.upstreams.schedule import AGAIN, BUSY, Schedule
from poolmgr.supervisor.upstreams.session import PATIENCE, UNCLOSED, AdminSession
from poolmgr.supervisor.upstreams.unproven import Waits
from poolmgr.supervisor.upstreams.upstream import Upstream

KEPT_BACK_FROM = 4
"""From this budget on, one permit is kept for the supervisor, whether or not a connection is open."""

REPLACE_EVERY = 30.0
"""Seconds until an unanswered connection is replaced again."""


class Probe:
    """See the module's docstring. One for each upstream; used in the event loop."""

    def __init__(self, upstream: Upstream, context: Context, registry: RegistryPort) -> None:
        settings = context.settings
        self.upstream = upstream
        self._context = context
        self._registry = registry
        self._committer = context.committer
        self.permits = OwnPermits(context.ledger, upstream.id, context.committer.touch, context.committer.clock)
        self._session = AdminSession(upstream, context.ledger, self.permits, settings, context.serial, self._kept_ended)
        self.allowance = Allowance(upstream, context.ledger, settings, context.belonging, self._descriptors)
        self.holder: Leaseholder | None = None
        """This host's lease of its fleet's budget there; None: it is in no fleet."""
        self._renewals: Renewals | None = None
        handshake = settings.socket_connect_timeout + settings.socket_timeout
        self._schedule = Schedule(upstream, context.ledger, handshake, self._is_leased, self._hosts)
        if settings.fleet:
            self.holder = Leaseholder(upstream, context, self._lease_changed, self.wake)
            self._renewals = Renewals(self.holder, upstream, context, self._session, self._schedule)
            self.allowance.lease = self.holder
        self._reclaimer = Reclaimer(upstream, context, self.permits)
        self._waits = Waits(
            upstream, context.ledger, self.permits.release, self._reclaimer.let_go, self._search, context.scope.unproven
        )
        self._reconciler = Reconciler(
            upstream, context, registry, self.allowance, self._reclaimer, self._schedule, self._waits
        )
        self._census = Census(upstream, context, registry, self._schedule)
        loan = Loan(upstream, context, registry, self._session, self._schedule, self._no_permit)
        self._resolution = Resolution(
            upstream, context, registry, self._session, self.permits, self.allowance, self._schedule, self._reconciler,
            loan, self._census, self._merged,
        )  # fmt: skip
        self.outages = self._reconciler.outages
        if self.holder is not None:
            self._reconciler.learned = self.holder.learned
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self.lender = Lender(
            upstream, context.ledger, self.permits, self._session, self._schedule, context.committer.clock, self.wake
        )
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        """Whether a look is under way."""
        self._replaced = -REPLACE_EVERY
        """When an unanswered connection was last replaced."""
        self.unwanted = False
        """No process uses the server: keep nothing open and stop looking."""
        self._ended = False

    def _is_leased(self) -> bool:
        return self.holder is not None and not self.holder.outside

    def _hosts(self) -> int:
        lease = self.holder.lease if self.holder is not None and self._is_leased() else None
        return 0 if lease is None or lease.answer is None else lease.answer.hosts

    def _lease_changed(self) -> None:
        if self.upstream.resolved and self.upstream.governor.budget is not None:
            self.allowance.apply(self._committer.clock())

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    # ---- events -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may be due."""
        self._event.set()

    def hurry(self) -> None:
        """Look now: a member reported trouble."""
        self._schedule.hurry = True
        self._event.set()

    def gate_shut(self) -> None:
        """A new connection of a member found no lease of ours: the address may lead to another server now."""
        self._schedule.ask_sooner()

    def list_again(self) -> None:
        """The last list shows something that a second list must confirm."""
        self._schedule.list_again()
        self._event.set()

    def ask_again(self) -> None:
        """Ask all the server's addresses for its identity now, on fresh connections."""
        self._schedule.ask_again()
        self._event.set()

    def try_again(self) -> None:
        """A way that has not been tried yet is known."""
        self._schedule.retry_at = self._schedule.prove_at = 0.0
        self.hurry()

    def exited(self, tag: str) -> None:
        """A process is gone."""
        self._census.heard(tag)
        self._schedule.prove_at = 0.0
        self._event.set()

    def registered(self, tag: str) -> None:
        self._census.heard(tag)
        self._event.set()

    def recalculate(self, *, at_once: bool = False) -> None:
        """Something that the budget depends on has changed."""
        if self.upstream.resolved:
            self.allowance.apply(self._committer.clock(), at_once=at_once)
            self._keep()  # in the same turn, before members get what is left
            self._committer.touch()

    @property
    def still_runs(self) -> bool:
        """The server does not answer but holds a connection of ours, so it has not been restarted."""
        return self._session.silent

    def resume(self) -> None:
        """A client has come after all."""
        self._keep()
        self._event.set()

    def _search(self) -> None:
        """Permits charged here were freed without a proof: search the server."""
        self._registry.latecomers.search_again(self.upstream.id)

    def _no_permit(self, now: float) -> None:
        self._waits.no_permit(self._reclaimer.targets(), now)

    def _descriptors(self, tag: str) -> int:
        member = self._context.roster.known.get(tag)
        return member.descriptors if member is not None else 0

    def _kept_ended(self) -> None:
        """The kept connection ended. This shows an outage at once, and also its end if the server had stalled."""
        self._schedule.renew = True
        self._schedule.retry_at = 0.0
        self._registry.twins.compare_again(self.upstream)
        self.hurry()

    # ---- the task -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._ended:
            self._event.clear()
            now = self._committer.clock()
            self._census.release_held_raises(now)
            self._keep()
            work = self._due(now)
            if work is None:
                await self._sleep(now)
                continue
            self.busy = True
            try:
                async with self.lender.using:
                    if not work.endpoints:
                        await self._shut_for_good()
                    elif self.upstream.resolved:
                        await self._go(work)
                    else:
                        await self._resolution.resolve(work)
            except asyncio.CancelledError:
                raise
            except Exception:  # a surprise at one server must not end its task
                log.exception("probe.failed", extra={"server": self.upstream.id})
                self._schedule.retry_at = self._committer.clock() + 1.0
                await asyncio.sleep(0.2)
            finally:
                self.busy = False

    def _keep(self) -> None:
        """Keep one permit back, so that no look depends on what members return. This also holds while no member is
        here: the permit must be there before the next one takes everything."""
        enough = self._context.ledger.servers[self.upstream.id].budget >= KEPT_BACK_FROM
        self.permits.keep(int(self.upstream.resolved and enough and not self._stopping))

    def _due(self, now: float) -> Work | None:
        upstream = self.upstream
        targets = self._reclaimer.targets()
        if upstream.resolved:
            self._registry.addresses.forget_unused(upstream)
        if upstream.hidden and upstream.resolved:  # no look can prove anything: waits replace all proofs
            self._waits.looked(targets, now, fresh=True, blind=True)
            targets = self._reclaimer.targets()
        if not upstream.endpoints:
            self._waits.none_to_ask(targets, now, alone=self._registry.stopping)
            return None
        if self._registry.stopping and not upstream.reached:
            self._waits.none_to_ask(targets, now, alone=True)
            targets = self._reclaimer.targets()
            if upstream.unclosed:
                return None  # one unanswered connection is enough
        strange = self._reclaimer.strange()
        work = self._schedule.due(
            now, targets, strange, stopping=self._stopping, stalled=self._session.stalled, holding=self._session.holding
        )
        return work if self._renewals is None else self._renewals.added_to(work, now, stopping=self._stopping)

    @property
    def _stopping(self) -> bool:
        return self._registry.stopping or self.unwanted

    async def _sleep(self, now: float) -> None:
        later = min(self._census.held_until(now), self._reclaimer.due_at(now))
        until = self._schedule.until(now, self._reclaimer.targets(), stopping=self._stopping, held_until=later)
        if self._renewals is not None and not self._stopping:
            until = min(until, self._renewals.due())
        if self.upstream.hidden and self._reclaimer.targets():
            until = min(until, now + 0.5)
        try:
            async with asyncio.timeout(max(0.001, until - now)):
                await self._event.wait()
        except TimeoutError:
            pass

    async def _go(self, work: Work) -> None:
        """One look at a resolved server."""
        now = self._committer.clock()
        if self._session.stalled and self.outages.blind and self._may_replace():
            await self._session.shut()
            work = msgspec.structs.replace(work, fresh=True)
        patience = PATIENCE
        if self._renewals is not None:
            await self._renewals.knock(work)
            patience = self._renewals.patience(now)
        if not await self._session.permit(patience):
            if self._renewals is not None:
                self._renewals.unsent(work)
            now = self._committer.clock()
            self._schedule.retry_at = now + (0.0 if self._waits.no_permit(work.targets, now) else 0.2)
            self._context.committer.touch()
            return
        self._schedule.hurry = False
        began = self._committer.clock()
        searching = work.fresh and work.listing and self._context.ledger.servers[self.upstream.id].search
        found = await self._session.look(work)
        now = self._committer.clock()
        if self._renewals is not None:
            self._renewals.looked(work, found)
        once_more = not work.fresh and not self._session.stalled
        if found.error is not None and once_more and found.error[0] == "unreachable":
            self._schedule.renew = True  # the fault may lie in this connection only
            return
        self._schedule.renew = False
        self._reconciler.note(found, now, began)
        if found.run_id or not found.answered:
            self.upstream.asked_at = began
        if found.said or not found.answered:
            self.upstream.fresh_at = began
        self._compare(work, found, began, now)
        if found.error is None or found.answered:
            self._reconciler.feed(work, found, now)
            if searching:
                self._schedule.search_at = now + (BUSY if found.busy else AGAIN)
                self._census.again(found, now, began)
        self._resolution.part()
        twin = self._registry.twins.of(self.upstream) or await self._resolution.twin_by_likeness(found)
        if twin is not None:
            await self._session.shut()
            if not self._ended:
                self._resolution.unite(twin)
            self._committer.touch()
            return
        if (self._schedule.sparing or self._stopping or found.error is not None) and not self._session.stalled:
            await self._session.shut()
        self._committer.touch()

    def _compare(self, work: Work, found: Findings, began: float, now: float) -> None:
        """Take what the addresses said on fresh connections."""
        sameness = self.upstream.sameness
        if work.fresh or found.said:
            self._schedule.asked(now)
        elif found.error is None and self._schedule.is_to_ask(now) and not self._stopping:
            self._schedule.ask_again()
        if not found.said:
            return
        several = bool(sameness.several)
        settled = sameness.asked(found.said, began, started(found, now))
        if sameness.several and not several:
            log.warning("server.several", extra={"server": self.upstream.id, "run_ids": len(sameness.several)})
        if not settled:
            self._schedule.ask_again()
        if not settled or sameness.several:
            found.gone = frozenset()

    def _may_replace(self) -> bool:
        """Whether to replace the kept connection, which is unanswered although others have had replies: the fault may
        lie in it alone. Each replaced connection holds its permit until its end is proven."""
        now = self._committer.clock()
        if len(self.upstream.unclosed) + 1 >= UNCLOSED or now < self._replaced + REPLACE_EVERY:
            return False
        self._replaced = now
        return True

    # ---- the end ------------------------------------------------------------------------------------

    def _end(self) -> None:
        self._ended = self.lender.ended = True
        self.outages.close()
        self._registry.unplaced.discard(self)

    def _merged(self) -> None:
        """The upstream was another name of one that has its own probe."""
        self._end()
        self._session.stop()

    def cancel(self) -> None:
        """No process uses the server and nothing is open there: end."""
        self._end()
        if self._task is not None:
            self._task.cancel()
        self._session.stop()

    async def _shut_for_good(self) -> None:
        if self._renewals is not None:
            await self._renewals.leave()
        await self._session.shut()

    async def close(self) -> None:
        """Stop looking and close the kept connection."""
        self._end()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._shut_for_good()
        self._session.stop()
