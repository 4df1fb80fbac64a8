"""When a probe asks the fleet's table, over its session to that server: with which look, with which permit, and last.

:class:`~poolmgr.supervisor.fleet.leaseholder.Leaseholder` says what is asked, and takes the answer.
"""

from __future__ import annotations

import msgspec

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.fleet.leaseholder import KNOCK, Leaseholder
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.schedule import NOTHING_BUT_CLOSE, Schedule
from poolmgr.supervisor.upstreams.session import PATIENCE, AdminSession
from poolmgr.supervisor.upstreams.upstream import Upstream


class Renewals:
    """See the module's docstring. One for each upstream of a host in a fleet; used in the event loop."""

    def __init__(
        self, holder: Leaseholder, upstream: Upstream, context: Context, session: AdminSession, schedule: Schedule
    ) -> None:
        self._holder = holder
        self._upstream = upstream
        self._context = context
        self._session = session
        self._schedule = schedule

    def due(self) -> float:
        """When the next one is due."""
        return max(self._holder.due(), self._schedule.retry_at)

    def added_to(self, work: Work | None, now: float, *, stopping: bool) -> Work | None:
        """The same work, and the fleet's table is asked first if that is due."""
        holder, upstream, schedule = self._holder, self._upstream, self._schedule
        if not upstream.resolved or (work is not None and not work.endpoints):
            return work
        if work is None and stopping and holder.may_leave:
            return NOTHING_BUT_CLOSE
        lease = "" if holder.lease is None else holder.lease.name
        if work is None and holder.looks_again(now) and now >= schedule.retry_at:
            work = Work(endpoints=upstream.endpoints, handshake=schedule.handshake, facts=True)
        renewal = None
        if not stopping and not self._session.stalled and now >= schedule.retry_at:
            renewal = holder.request(now)
        if renewal is None:
            return None if work is None else msgspec.structs.replace(work, lease=lease)
        if work is None:
            work = Work(endpoints=upstream.endpoints, handshake=schedule.handshake)
        may_list = now >= schedule.throttle.free_at and "CLIENT LIST" not in upstream.forbidden
        fencing = self._context.settings.fleet_lease if may_list else 0.0
        return msgspec.structs.replace(work, lease=lease, renewal=renewal, fencing=fencing)

    def patience(self, now: float) -> float:
        """How long a look may wait for a permit: the next renewal does not wait behind it."""
        return min(PATIENCE, max(KNOCK, self._holder.due() - now))

    async def knock(self, work: Work) -> None:
        """Get a permit for a look that must not wait for members. If none is free, the fleet's slack pays for it."""
        if (work.renewal is not None or not self._holder.knows_server) and not await self._session.permit(KNOCK):
            self._overdraw()

    def _overdraw(self) -> None:
        self._context.ledger.overdraw_own(self._upstream.id)
        self._context.committer.touch()

    def unsent(self, work: Work) -> None:
        """The look did not come about."""
        if work.renewal is not None:
            self._holder.failed()

    def looked(self, work: Work, found: Findings) -> None:
        """The look is over."""
        if work.renewal is not None:
            self._holder.looked(work.renewal, found.asked)

    async def leave(self) -> None:
        """Tell the fleet's table that this host's lease is over, if nothing is held of it."""
        leaving = self._holder.leaves()
        if leaving is None:
            return
        work = Work(endpoints=self._upstream.endpoints, lease=leaving[1], leaving=leaving)
        if self._upstream.endpoints:
            if not self._session.holding:  # nothing is handed out any more, this one excepted
                self._overdraw()
            if await self._session.permit(KNOCK):
                await self._session.look(work)
        self._holder.left()
