"""The one connection through which a probe looks at its server, and its permit (rule S5).

At most one is kept open between two looks. A connection of ours whose end the server has not confirmed keeps its
permit, as a member's would (rule M3); it is proven gone like a member's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.executor import DaemonExecutor
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.admin import AdminError, Place, locate
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.inspection import Inspector
from poolmgr.supervisor.upstreams.likeness import Seen, Sign, listen, sees
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.wire import Endpoint

PATIENCE = 5.0
"""Seconds to wait for a permit to look with."""

UNCLOSED = 2
"""Own connections with an unproven end, at most: beyond that the oldest is given up as unproven."""


class AdminSession:
    """See the module's docstring. Used in the event loop; a thread does the looking.

    Args:
        serial: numbers for the names of own connections.
        ended: called in the event loop as soon as the server has closed the kept connection.
    """

    def __init__(
        self,
        upstream: Upstream,
        ledger: Ledger,
        permits: OwnPermits,
        settings: Settings,
        serial: Iterable[int],
        ended: Callable[[], None],
    ) -> None:
        self._upstream = upstream
        self._permits = permits
        scope = next(iter(ledger.scopes), "")
        self._inspector = Inspector(
            ledger.owner.tag,
            scope,
            serial,
            settings.socket_connect_timeout,
            settings.socket_timeout,
            settings.fleet or "",
        )
        self._ended = ended
        self._thread = DaemonExecutor("poolmgr-probe")
        self._loop = asyncio.get_running_loop()
        self._watched = -1
        self.holding = False
        """A permit is held for the connection."""

    @property
    def stalled(self) -> bool:
        """The kept connection has not answered in time, and is waited for."""
        return self._inspector.stalled

    @property
    def silent(self) -> bool:
        """Neither an answer nor an end has come since: the server that holds the other end has not been restarted."""
        kept = self._inspector.kept
        return kept is not None and kept.stalled and not kept.answers()

    @property
    def stalled_name(self) -> str:
        """The unanswered connection's name; empty if none is waited for."""
        kept = self._inspector.kept
        return kept.name if kept is not None and kept.stalled else ""

    @property
    def sign(self) -> Sign | None:
        """What another address needs to search for the open connection; None if there is none."""
        kept = self._inspector.kept
        return Sign(kept.name, kept.id) if kept is not None and kept.fileno() >= 0 and not kept.stalled else None

    async def sees(self, sign: Sign) -> Seen | None:
        """Whether a connection is at this server; None: no answer."""
        kept = self._inspector.kept
        if kept is None or kept.fileno() < 0:
            return None
        try:
            return await self._thread.run(sees, kept, sign)
        except AdminError:
            return None

    async def listen(self, sign: Sign) -> Sign | None:
        """Have the open connection listen on a channel of its own; None: it may not."""
        kept = self._inspector.kept
        if kept is None or kept.name != sign.name:
            return None
        self._unwatch()
        try:
            return await self._thread.run(listen, kept, sign)
        except AdminError:
            return None

    def in_doubt(self, name: str) -> bool:
        """Whether a closed connection may still be there."""
        return name in self._upstream.unclosed

    async def locate(self, endpoint: Endpoint) -> tuple[Place, ...]:
        """Where the name of an endpoint leads now. Takes as long as the name server does, and opens nothing.

        Raises:
            OSError: nowhere.
        """
        return await self._thread.run(locate, endpoint)

    async def permit(self, patience: float = PATIENCE) -> bool:
        """Get a permit to look with; False if none came in so many seconds."""
        if self.holding:
            return True
        while len(self._upstream.unclosed) >= UNCLOSED:
            name = next(iter(self._upstream.unclosed))
            del self._upstream.unclosed[name]
            self._upstream.unproven += 1
            log.warning("own.unproven", extra={"server": self._upstream.id, "connection": name})
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
        """Close the kept connection, and return the permit once the end is proven."""
        self._unwatch()
        await self._thread.run(self._inspector.drop)  # after a cancelled look, which goes on in the thread
        self._account()
        if self.holding:
            self.holding = False
            self._permits.release()

    def stop(self) -> None:
        """End the thread. Nothing is open."""
        self._thread.stop()

    def _account(self) -> None:
        while self._inspector.unclosed:
            self._upstream.unclosed[self._inspector.unclosed.popleft()] = self._loop.time()
            self.holding = False

    def _readable(self) -> None:
        """The server has sent something unasked: an end, or, if it stalled, a late answer."""
        self._unwatch()
        self._ended()

    def _unwatch(self) -> None:
        if self._watched >= 0:
            self._loop.remove_reader(self._watched)
            self._watched = -1
