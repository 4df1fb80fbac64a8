"""The permits for a look at an address of which it is not known yet where it leads: one of its own, and one borrowed
from every server that it may lead to, so that even the question stays within each budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.lender import Lender
from poolmgr.supervisor.upstreams.ports import RegistryPort
from poolmgr.supervisor.upstreams.schedule import Schedule
from poolmgr.supervisor.upstreams.session import AdminSession
from poolmgr.supervisor.upstreams.upstream import Upstream

PATIENCE, ROUND = 5.0, 1.0
"""Seconds to wait for the permits of all servers that an address may lead to; and for one attempt to hold all of them
at once. After the attempt they are given back, because others may need them."""

OVER_EVERY = 30.0
"""Seconds between two looks at unknown addresses without a server's permit."""

SHORT = 0.5
"""Seconds to wait for a permit to look at a server whose budget is not known yet."""


@dataclass(eq=False, repr=False)
class Loan:
    """See the module's docstring. One for each upstream; used in the event loop.

    Args:
        no_permit: called when no permit to look with was free.

    Attributes:
        over: servers whose budget this look exceeds.
    """

    _upstream: Upstream
    _context: Context
    _registry: RegistryPort
    _session: AdminSession
    _schedule: Schedule
    _no_permit: Callable[[float], object]

    def __post_init__(self) -> None:
        self._ledger = self._context.ledger
        self._clock = self._context.committer.clock
        self._borrowed: list[Lender] = []
        self.over: set[Lender] = set()

    async def take(self) -> bool:
        """Get a permit of our own, and one of each server that this one may be. A permit that does not come in
        :data:`PATIENCE` seconds is overdrawn, seldom, and counted as unproven: otherwise a process that has pinned all
        permits of one server would keep all others from using another one."""
        self.over.clear()
        until = self._clock() + PATIENCE
        while not self._room():
            if self._clock() >= until:
                break
            await asyncio.sleep(0.02)
        while True:
            missing = await self._borrow(ROUND)
            if not missing:
                break
            if self._clock() >= until:
                if not all(self._may_overdraw(lender) for lender in missing):
                    self._schedule.retry_at = self._clock() + ROUND
                    return False
                await asyncio.gather(*map(self._overdraw, missing))
                break
            self.give_back()  # others may need them meanwhile
            await asyncio.sleep(0.02)
        return await self.own_permit()

    def give_back(self) -> None:
        for lender in self._borrowed:
            lender.permits.release()
        self._borrowed.clear()

    def doubt(self) -> None:
        """A connection that is open, or was not closed properly, may lead to any lender. Its permit stays charged there
        until that server is seen not to have the connection."""
        names = set(self._upstream.unclosed)
        if self._session.stalled_name:
            names.add(self._session.stalled_name)
        for lender in list(self._borrowed) if names else ():
            if lender.upstream.id not in self._registry.upstreams:
                continue
            fresh = names - lender.upstream.unclosed.keys()
            for name in sorted(fresh)[:1]:  # one permit was lent, and one connection made with it
                self._borrowed.remove(lender)
                lender.doubt(name)

    def lenders(self) -> list[Lender]:
        lenders = (probe.lender for probe in self._registry.probes.values())
        return [other for other in lenders if other.upstream is not self._upstream and other.upstream.resolved]

    def count_over(self, lender: Lender) -> None:
        """The lender's next permit is granted although it exceeds the budget."""
        upstream = lender.upstream
        upstream.overdrawn_at = self._clock()
        upstream.unproven += 1
        log.warning("look.unproven", extra={"server": upstream.id, "endpoint": self._upstream.id})
        self._ledger.overdraw_own(upstream.id)

    async def own_permit(self) -> bool:
        upstream = self._upstream
        server = self._ledger.servers[upstream.id]
        new = upstream.governor.budget is None
        # After a parting no limit is sent before the server is known, so no permit comes back.
        needed = max(1, server.outstanding + int(server.unknown and not server.own))
        if new and server.budget < needed:
            self._ledger.set_budget(upstream.id, needed, self._clock())
        if await self._session.permit(SHORT if new else PATIENCE):
            return True
        now = self._clock()
        if new:  # members' statements fill all we know of: there must be one more
            self._ledger.set_budget(upstream.id, server.outstanding + 1, now)
        else:
            self._no_permit(now)
        return False

    def _room(self) -> bool:
        """Whether one more connection to an unknown destination would be within the budget of a server that is not
        known yet."""
        word = self._context.settings.budget_of(self._ledger.servers[self._upstream.id].aliases)
        others = len(self._registry.unplaced - {self._registry.probes[self._upstream.id]})
        return word == "auto" or others < int(word)

    async def _borrow(self, patience: float) -> list[Lender]:
        """Borrow a permit of each lender. Returns the lenders that had none."""
        missing: list[Lender] = []

        async def borrow(lender: Lender) -> None:
            (self._borrowed if await lender.lend(patience) else missing).append(lender)

        await asyncio.gather(*map(borrow, self.lenders()))
        return [lender for lender in missing if lender.upstream.id in self._registry.upstreams]

    def _may_overdraw(self, lender: Lender) -> bool:
        return not self._ledger.stuck and self._clock() >= lender.upstream.overdrawn_at + OVER_EVERY

    async def _overdraw(self, lender: Lender) -> None:
        self.count_over(lender)
        self.over.add(lender)
        if await lender.permits.acquire(SHORT):
            self._borrowed.append(lender)
