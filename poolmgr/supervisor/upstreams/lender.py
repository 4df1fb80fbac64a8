"""What a server lends to a look at an address that may lead to it too: a permit, or a connection to search for.

The borrower is another server's probe (:mod:`poolmgr.supervisor.upstreams.loan`,
:mod:`poolmgr.supervisor.upstreams.comparison`). Nothing here says whether the two servers are one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams.findings import Work
from poolmgr.supervisor.upstreams.likeness import NoPermitError
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.schedule import Schedule
from poolmgr.supervisor.upstreams.session import AdminSession
from poolmgr.supervisor.upstreams.upstream import Upstream


@dataclass(eq=False, repr=False)
class Lender:
    """See the module's docstring. One for each upstream; used in the event loop.

    Args:
        wake: something may be due at this server.

    Attributes:
        using: held while the session is in use.
        ended: the server's probe has ended: there is nothing to lend.
    """

    upstream: Upstream
    _ledger: Ledger
    permits: OwnPermits
    _session: AdminSession
    _schedule: Schedule
    _clock: Callable[[], float]
    _wake: Callable[[], None]
    using: asyncio.Lock = field(default_factory=asyncio.Lock)
    ended: bool = False

    async def lend(self, patience: float) -> bool:
        """Lend a permit of this server; the borrower gives it back to :attr:`permits`. If no permit is free,
        the connection kept open is closed for it. False: none came in ``patience`` seconds."""
        free = self._ledger.servers[self.upstream.id].free
        if free < 1 and self._session.holding and not self._session.stalled and not self.using.locked():
            async with self.using:
                await self._session.shut()
        return await self.permits.acquire(patience)

    def doubt(self, name: str) -> None:
        """A connection of that name was made with a lent permit and got no answer: it may lead here. The connection
        keeps the permit until this server is seen not to have it."""
        self.upstream.unclosed[name] = self._clock()
        self._schedule.prove_at = 0.0
        self._wake()

    @contextlib.asynccontextmanager
    async def showing(self, patience: float) -> AsyncIterator[AdminSession | None]:
        """The session with an open connection, which can then be searched for through another address. None: no session
        is available now.

        Raises:
            NoPermitError: no permit was free.
        """
        if self.ended or self._session.stalled or not self.upstream.reached:
            yield None
            return
        try:
            async with asyncio.timeout(patience):
                await self.using.acquire()
        except TimeoutError:
            yield None
            return
        try:
            if self._session.sign is None:
                if not await self._session.permit(patience):
                    raise NoPermitError(self.upstream.id)
                await self.show_another()
            yield self._session
        finally:
            if self._schedule.sparing and not self._session.stalled:
                await self._session.shut()
            self.using.release()
            self._wake()

    async def show_another(self) -> None:
        """Close the open connection, up to the server's end-of-file, and open another one with the same permit."""
        await self._session.look(Work(endpoints=self.upstream.endpoints, fresh=True))
