"""A pool's shards: one in each event loop in which it is used; what is asked of the pool is asked of all together.

The member knows the pool only. A loop that is closed without a goodbye is found at the next look.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from poolmgr.member.ports import Usage
from poolmgr.native import monotonic
from poolmgr.pool import housekeeping
from poolmgr.pool.aio import errand
from poolmgr.pool.aio.errand import Errand
from poolmgr.pool.aio.redis_interface import RedisInterface
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.queue import Granted, Served, Ticket
from poolmgr.pool.stats import Stats, Tally, snapshot
from poolmgr.wire import Counters


class Shards(RedisInterface):
    """See the module's docstring. :class:`poolmgr.pool.aio.pool.ConnectionPool` derives from it."""

    timeout: float | None
    _ceiling: int
    _opener: Callable[[Shard, list[Ticket]], Coroutine[Any, Any, None]]
    """Opens a connection for the queue."""

    def _start_over(self) -> None:
        """No loop, nothing counted: a new pool, and that of a forked child."""
        self._shards: list[Shard] = []
        self._shard: Shard | None = None
        """The one used last."""
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
                self._shard = shard
                return shard
        self._bury_closed()
        shard = Shard(self, loop, type(self)._opener)
        for other in tuple(self._shards):
            if other.errand is not None and other.errand.fate is None:
                shard._core.insert(other.errand)
        self._shards.append(shard)
        self._shard = shard
        return shard

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

    def _by_age(self) -> list[Shard]:
        """All shards in which tasks wait; first that of the task that has waited longest."""
        waiting = [(waiter.since, shard) for shard in tuple(self._shards) if (waiter := errand.head(shard._core))]
        return [shard for _, shard in sorted(waiting, key=lambda one: one[0])]

    def _make_room(self, shard: Shard) -> None:
        """The ceiling is for all loops together. This one does not grow while another one has yet to take what it was
        given: unless this one was given something too, or they would keep each other waiting. Then the first comes
        first."""
        self._bury_closed()
        others = [other for other in tuple(self._shards) if other is not shard]
        room = max(0, self._ceiling - sum(other._core.size for other in others))
        now, size = monotonic(), shard._core.size
        given = [other.reserved_until for other in others if now < other.reserved_until and self._has_none(other)]
        if now < shard.reserved_until:
            room = max(min(room, size), room - sum(until < shard.reserved_until for until in given))
        elif given:
            room = min(room, size)
        shard._core.ceiling = room

    def _pass_on(self, shard: Shard) -> None:
        """A connection of this loop has ended: it may be the turn of the others."""
        for other in self._by_age():
            if other is not shard:
                other._advance(may_open=False)

    @staticmethod
    def _has_none(shard: Shard) -> bool:
        """Whether its tasks wait, and nothing is on its way to them."""
        core = shard._core
        return not core.idle and not core.opening and core.closed is None and errand.head(core) is not None

    def _lacks(self, shard: Shard) -> bool:
        """Whether its tasks wait for something that only others can give."""
        core = shard._core
        if not self._has_none(shard):
            return False
        return core.size >= core.ceiling or (core.starved and not shard.answer_is_due())

    def _patience(self, shard: Shard, now: float) -> float:
        """Seconds until a task of this loop may have what other loops' tasks could use; infinity: it need not."""
        waiter = errand.head(shard._core) if len(self._shards) > 1 else None
        if waiter is None or not self._lacks(shard):
            return float("inf")
        if shard.errand is not None and shard.errand.fate is None:
            return float("inf")
        return errand.patience(shard._core, waiter, shard.got_at, now)

    def _fetch(self, shard: Shard) -> None:
        """What is idle in another loop is closed for a task that waits in this one; or the next one that comes back."""
        now = monotonic()
        waiter = errand.head(shard._core)
        if waiter is None or self._patience(shard, now) > 0:
            return
        others = [other for other in tuple(self._shards) if other is not shard]
        if any(other.shed(1) for other in others):
            shard.give(now)
            shard._advance(may_open=False)
            return
        shard.errand = sent = Errand(waiter.since, shard, self._errands)
        for other in others:
            other._core.insert(sent)
            other._advance(may_open=False)

    def _receive(self) -> None:
        """See to the errands that have come back."""
        while self._errands:
            try:
                sent = self._errands.popleft()
            except IndexError:
                return
            got, sender = sent.brought(), sent.sender()
            if got is None:  # a connection could be opened for it: by its task, in its loop
                waiter = None if sender is None else errand.head(sender._core)
                if waiter is not None:
                    waiter.wake()
                continue
            if isinstance(got, Served):
                holder = got.connection._shard
                if sender is None or sender.loop.is_closed() or not self._lacks(sender):
                    holder._idle.append(got.connection)
                    if holder._queue:
                        holder._advance(may_open=False)
                else:
                    sender.give(monotonic())
                    holder._dispose(got.connection, "recalled")
            elif isinstance(got, Granted):
                for shard in tuple(self._shards):
                    place = shard._core.places.get(got.ticket.serial)
                    if place is not None and place() is got.ticket:
                        shard._core.drop(got.ticket)
                        shard._advance(may_open=False)
            if sender is not None:
                sender._advance(may_open=False)

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
        closed = 0
        for shard in tuple(self._shards):
            closed += shard.shed(count - closed)
        return closed

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
