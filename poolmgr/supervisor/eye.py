"""The one connection through which a probe looks at its server, and the permit that it holds (rule S5).

At most one is kept open between two looks. A connection of ours whose end the server has not confirmed
takes its permit with it, as a member's would (rule M3); it is proven gone like a member's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.inspection import Findings, Inspector, Work
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.own import OwnPermits
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.thread import Thread

PATIENCE = 5.0
"""Seconds to wait for a permit to look with."""

UNCLOSED = 2
"""Own connections whose end is not proven, at most: after that the oldest is given up as unproven."""


class Eye:
    """See the module's docstring. Used in the event loop; the looking is done in a thread.

    Args:
        serial: numbers for the names of own connections.
        ended: the server has closed what was kept: called in the event loop, at once.
    """

    def __init__(
        self,
        site: Site,
        ledger: Ledger,
        permits: OwnPermits,
        settings: Settings,
        serial: Iterable[int],
        ended: Callable[[], None],
    ) -> None:
        self._site = site
        self._permits = permits
        self._inspector = Inspector(ledger.owner.tag, serial, settings.socket_connect_timeout, settings.socket_timeout)
        self._ended = ended
        self._thread = Thread("poolmgr-probe")
        self._loop = asyncio.get_running_loop()
        self._watched = -1
        self.holding = False
        """A permit is held for what is kept or opened."""

    @property
    def stalled(self) -> bool:
        """What is kept has not answered in time, and is waited for."""
        return self._inspector.stalled

    async def permit(self, patience: float = PATIENCE) -> bool:
        """Have a permit to look with; False if none came in so many seconds."""
        if self.holding:
            return True
        while len(self._site.unclosed) >= UNCLOSED:
            name = self._site.unclosed.pop()
            self._site.unproven += 1
            log.warning("own.unproven", extra={"server": self._site.id, "connection": name})
            self._permits.release()
        self.holding = await self._permits.acquire(patience)
        return self.holding

    async def look(self, work: Work) -> Findings:
        """Do the work. The permit is held."""
        self._unwatch()
        try:
            found = await self._thread.run(self._inspector.inspect, work)
        finally:
            self._account()
        kept = self._inspector.kept
        if kept is not None and kept.fileno() >= 0:
            self._watched = kept.fileno()
            self._loop.add_reader(self._watched, self._readable)
        return found

    async def shut(self) -> None:
        """Close what is kept, and give the permit back once that is proven."""
        self._unwatch()
        await self._thread.run(self._inspector.drop)  # after a look that was cancelled, which goes on in the thread
        self._account()
        if self.holding:
            self.holding = False
            self._permits.release()

    def stop(self) -> None:
        """End the thread. Nothing is open."""
        self._thread.stop()

    def _account(self) -> None:
        while self._inspector.unclosed:
            self._site.unclosed.add(self._inspector.unclosed.popleft())
            self.holding = False

    def _readable(self) -> None:
        """The server has said something unasked: an end, or, if it stalled, a late answer."""
        self._unwatch()
        self._ended()

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._watched = -1
