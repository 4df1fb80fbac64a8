"""A pool's shards: one in each event loop in which it is used; what is asked of the pool is asked of all together.

:mod:`poolmgr.pool.parts` decides what one loop gets of another; here it is carried out. The member knows the pool only.
A loop that is closed without a goodbye is found at the next look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from poolmgr.member.ports import Usage
from poolmgr.native import monotonic
from poolmgr.pool import housekeeping, parts
from poolmgr.pool.aio.errand import Errand
from poolmgr.pool.aio.redis_interface import RedisInterface
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.parts import Part, Return
from poolmgr.pool.queue import Ticket
from poolmgr.pool.stats import Stats, Tally, snapshot
from poolmgr.wire import Counters


class Shards(RedisInterface):
    """See the module's docstring. :class:`poolmgr.pool.aio.pool.ConnectionPool` derives from it."""

    timeout: float | None
    _ceiling: int
    _opener: Callable[[Shard, list[Ticket]], Coroutine[Any, Any, None]]
    """Opens a connection for the queue."""
    _cold = False

    def _start_over(self) -> None:
        """No loop, nothing counted: a new pool, and that of a forked child."""
        self._shards: list[Shard] = []
        self._shard: Shard | None = None
        """The one used last; None if every checkout takes the cold path."""
        self._errands: deque[Errand] = deque()
        """Those that have come back."""
        self._tally = Tally()
        self._past = 0
        """Checkouts in loops that are closed."""

    # ---- loops -----------------------------------------------------------------------------------

    def _here(self) -> Shard:
        """The shard of the running loop."""
        loop = asyncio.get_running_loop()
        for shard in tuple(self._shards):
            if shard.loop is loop:
                return self._near(shard)
        self._bury_closed()
        shard = Shard(self, loop, type(self)._opener)
        for other in tuple(self._shards):
            if other.errand is not None and other.errand.fate is None:
                shard._core.insert(other.errand)
        self._shards.append(shard)
        return self._near(shard)

    def _near(self, shard: Shard) -> Shard:
        """The same: the next checkout finds it first."""
        shard.note_hook()
        self._shard = None if self._watched else shard
        return shard

    @property
    def _watched(self) -> bool:
        """Every checkout takes the cold path."""
        return self._cold

    @_watched.setter
    def _watched(self, value: bool) -> None:
        self._cold = value
        if value:
            self._shard = None

    def _bury_closed(self) -> None:
        """End what is left in loops that were closed without a goodbye; others get it."""
        buried = False
        for shard in tuple(self._shards):
            if shard.loop.is_closed():
                try:
                    self._shards.remove(shard)
                except ValueError:  # another thread does it
                    continue
                shard.bury()
                self._past += shard._checkouts
                if self._shard is shard:
                    self._shard = None
                buried = True
        if buried:
            for shard in self._by_age():
                shard._advance(may_open=False)

    def _parts(self, but: Shard | None = None) -> list[tuple[Part, Shard]]:
        """What is known of each loop's part now."""
        return [(shard.part(), shard) for shard in tuple(self._shards) if shard is not but]

    def _by_age(self) -> list[Shard]:
        """All shards in which tasks wait; first that of the task that has waited longest."""
        return parts.in_turn(self._parts())

    def _make_room(self, shard: Shard) -> None:
        """How many connections this loop may have now."""
        self._bury_closed()
        others = [part for part, _ in self._parts(but=shard)]
        shard._core.ceiling = parts.room(shard.part(), others, self._ceiling, monotonic())

    def _pass_on(self, shard: Shard) -> None:
        """A connection of this loop has ended: it may be the turn of the others."""
        for other in self._by_age():
            if other is not shard:
                other._advance(may_open=False)

    def _patience(self, shard: Shard, now: float) -> float:
        """Seconds until a task of this loop may have what other loops' tasks could use; infinity: it need not."""
        wait = parts.patience(shard.part(), now) if len(self._shards) > 1 and shard._queue else parts.NEVER
        shard.looks_at = now + wait
        return wait

    def _fetch(self, shard: Shard) -> None:
        """What is idle in another loop is closed for a task that waits in this one; or the next one that comes back."""
        now, part = monotonic(), shard.part()
        wait = parts.patience(part, now)
        if now + wait < shard.looks_at:
            shard.looks_at = now + wait
            shard.call_head()  # it sleeps for longer
        if part.since is None or wait > 0:
            return
        others = self._parts(but=shard)
        if self._close_idle(others, 1):
            shard.give(now)
            shard._advance(may_open=False)
            return
        shard.errand = sent = Errand(part.since, shard, self._errands)
        for _, other in others:
            other._core.insert(sent)
            other._advance(may_open=False)

    def _receive(self) -> None:
        """See to the errands that have come back."""
        while self._errands:
            try:
                sent = self._errands.popleft()
            except IndexError:
                return
            brought: Any = sent.brought()
            sender: Any = sent.sender()
            if sender is not None and sender.loop.is_closed():
                sender = None
            what = parts.came_back(brought, None if sender is None else sender.part(), monotonic())
            if what is Return.OPEN:
                sender.call_head(anew=True)
            elif what is Return.KEEP:
                self._keep(brought.connection)
            elif what is Return.CLOSE:
                sender.give(monotonic())
                brought.connection._shard._dispose(brought.connection, "recalled")
            elif what is Return.HAND_OVER:
                sender.give(monotonic())
                self._drop(brought.ticket)
                sender.call_head(anew=True)
            elif what is Return.DROP:
                self._drop(brought.ticket)
            if sender is not None and brought is not None:
                sender._advance(may_open=False)

    def _keep(self, connection: Any) -> None:
        """It lies idle in its own loop again."""
        holder = connection._shard
        holder._idle.append(connection)
        if holder._queue:
            holder._advance(may_open=False)

    def _drop(self, ticket: Ticket) -> None:
        """No connection is opened with it."""
        for shard in tuple(self._shards):
            place = shard._core.places.get(ticket.serial)
            if place is not None and place() is ticket:
                shard._core.drop(ticket)
                shard._advance(may_open=False)

    def _close_idle(self, among: list[tuple[Part, Shard]], count: int, reason: str = "recalled") -> int:
        """Close so many idle connections; how many were closed."""
        given = parts.gives([part for part, _ in among], count)
        taken = [housekeeping.oldest_idle(shard, some) for (_, shard), some in zip(among, given, strict=True)]
        return sum(shard._dispose_all(found, reason) for (_, shard), found in zip(among, taken, strict=True))

    def _shrink(self) -> None:
        """Close what all loops together have above the ceiling: idle ones now, lent ones when they come back."""
        among = self._parts()
        if len(among) > 1:
            self._close_idle(among, sum(part.size for part, _ in among) - self._ceiling, "resized")
            for _, shard in among:
                self._make_room(shard)
                shard._dispose_all(housekeeping.above_ceiling(shard), "resized")

    # ---- what its member asks (:class:`poolmgr.member.ports.PoolPort`) -----------------------------

    def usage(self, *, reset: bool) -> Usage:
        self._bury_closed()
        found = [housekeeping.usage(shard, reset=reset) for shard in tuple(self._shards)]
        return Usage(
            lent=sum(usage.lent for usage in found),
            idle=sum(usage.idle for usage in found),
            waiting=sum(usage.waiting for usage in found),
            low=sum(usage.low for usage in found),
            quiet=min((usage.quiet for usage in found), default=float("inf")),
            ceiling=self._ceiling,
            timeout=float("inf") if self.timeout is None else self.timeout,
            pinned=sum(usage.pinned for usage in found),
            replied=max((usage.replied for usage in found), default=0.0),
        )

    def replied(self, permits: Any) -> float:
        return max((housekeeping.replied(shard, permits) for shard in tuple(self._shards)), default=0.0)

    def counters(self) -> Counters:
        """Counters since the pool was made, for metrics."""
        return self._tally.counters(self._checkouts)

    @property
    def _checkouts(self) -> int:
        return self._past + sum(shard._checkouts for shard in tuple(self._shards))

    def grow(self) -> None:
        """A permit may be free now: open a connection for the task that has waited longest."""
        first = self._by_age()
        for shard in first + [shard for shard in tuple(self._shards) if shard not in first]:
            shard.grow()

    def attempt(self) -> None:
        """Open a connection in the background although the server is believed to be down, if that is possible."""
        for shard in tuple(self._shards)[:1]:
            shard.attempt()

    def tell_login(self, key: str) -> None:
        """Find out the present credentials, and report them to the member, in a thread for this only."""
        for shard in tuple(self._shards)[:1]:
            shard.tell_login(key)

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections; how many were closed."""
        self._bury_closed()
        return self._close_idle(self._parts(), count)

    def tick(self, now: float) -> float:
        """Do what is due now; seconds until the next tick."""
        self._bury_closed()
        return min((shard.tick(now) for shard in tuple(self._shards)), default=60.0)

    def _forget_refusal(self) -> None:
        for shard in tuple(self._shards):
            shard._forget_refusal()

    def _connections(self) -> list[Any]:
        return [connection for shard in tuple(self._shards) for connection in shard._connections()]

    # ---- a look inside ---------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Gauges and counters at this instant; see :class:`poolmgr.pool.stats.Stats`."""
        self._bury_closed()
        shards = tuple(self._shards)
        held = max((housekeeping.longest(shard)[0] for shard in shards), default=0.0)
        return snapshot([shard._core for shard in shards], self._ceiling, held, self.counters())
