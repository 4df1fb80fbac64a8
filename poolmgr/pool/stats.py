"""What a pool reports about itself: a snapshot of gauges and counters, and the distribution of waits."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from poolmgr.pool.queue import PoolCore
from poolmgr.wire import WAIT_BOUNDS, Counters


class Stats(msgspec.Struct, frozen=True):
    """A pool at one instant. Counters begin with the pool (in a forked child: with the fork).

    Attributes:
        in_use: connections out with callers.
        idle: connections that could be lent now.
        opening: connections being opened.
        waiting: callers in the queue.
        max_connections: the pool's own ceiling; None: only the budget bounds it.
        checkouts: connections handed to callers.
        waits: checkouts that found no idle connection.
        wait_seconds: their total time.
        wait_buckets: the same waits by :data:`poolmgr.wire.WAIT_BOUNDS` (seconds), not cumulative; the
            last entry counts all that took longer than the last bound.
        timeouts: checkouts refused, by reason (``pool``, ``budget``, ``server``, ``supervisor``, ``queue``).
        created: connections opened.
        closed: connections closed, by reason (see :data:`REASONS`).
        connect_errors: attempts to open that failed.
        leaks: connections held longer than ``leak_after``.
        longest_held: seconds for which the longest holder has had its connection; 0 if none is out.
    """

    in_use: int
    idle: int
    opening: int
    waiting: int
    max_connections: int | None
    checkouts: int
    waits: int
    wait_seconds: float
    wait_buckets: tuple[int, ...]
    timeouts: dict[str, int]
    created: int
    closed: dict[str, int]
    connect_errors: int
    leaks: int
    longest_held: float


UNBOUNDED = 2**31
"""``max_connections`` of a pool that only the budget bounds."""


def snapshot(cores: Sequence[PoolCore], ceiling: int, longest_held: float, counters: Counters) -> Stats:
    """A pool, or its parts together."""
    return Stats(
        in_use=sum(core.lent for core in cores),
        idle=sum(len(core.idle) for core in cores),
        opening=sum(len(core.opening) for core in cores),
        waiting=sum(core.waiting for core in cores),
        max_connections=None if ceiling >= UNBOUNDED else ceiling,
        longest_held=longest_held,
        **msgspec.structs.asdict(counters),
    )


REASONS = {
    "broken": "its socket was gone when it came back: an error during a command, or a PubSub's end",
    "dirty": "a reply was owed or session state left open when it came back, or data came unasked",
    "drained": "replaced because of drain()",
    "expired": "older than max_lifetime",
    "idle": "it was not needed during idle_timeout",
    "loop": "its event loop was closed",
    "lost": "its holder vanished without releasing it",
    "marked": "redis-py wanted it reconnected (maintenance, a node moved)",
    "misdirected": "its server said that it is the wrong one now (READONLY and the like), after a failover",
    "pool": "the pool was closed, disconnected or reset",
    "recalled": "its permit is needed elsewhere",
    "resized": "above a lowered max_connections",
    "stale": "the server or a proxy had closed it while it was idle",
}
"""Why connections are closed: the keys of :attr:`Stats.closed`."""


class Hooks(msgspec.Struct, frozen=True, kw_only=True):
    """Functions to call on events. They run in the thread in which the event happens, never with a
    lock held; they must be quick and must not use the pool. An exception of theirs is logged and ignored.

    Attributes:
        created: a connection was opened: ``created(connection)``.
        closed: a connection was closed: ``closed(connection, reason)``, reasons as in :data:`REASONS`.
        checked_out: a caller got a connection: ``checked_out(connection)``. Makes a checkout slower.
        timed_out: a caller got no connection: ``timed_out(error)``.
    """

    created: Callable[[Any], object] | None = None
    closed: Callable[[Any, str], object] | None = None
    checked_out: Callable[[Any], object] | None = None
    timed_out: Callable[[BaseException], object] | None = None


class Tally:
    """A pool's counters. Each is added to in one bytecode-level step under the GIL; no lock."""

    def __init__(self) -> None:
        self.waits = 0
        self.wait_seconds = 0.0
        self.wait_buckets = [0] * (len(WAIT_BOUNDS) + 1)
        self.timeouts: dict[str, int] = {}
        self.created = 0
        self.closed: dict[str, int] = {}
        self.connect_errors = 0
        self.leaks = 0

    def waited(self, seconds: float) -> None:
        self.waits += 1
        self.wait_seconds += seconds
        self.wait_buckets[bisect.bisect_left(WAIT_BOUNDS, seconds)] += 1

    def timed_out(self, reason: str) -> None:
        self.timeouts[reason] = self.timeouts.get(reason, 0) + 1

    def shut(self, reason: str) -> None:
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def counters(self, checkouts: int) -> Counters:
        """As the member reports them."""
        return Counters(
            checkouts=checkouts,
            waits=self.waits,
            wait_seconds=self.wait_seconds,
            wait_buckets=tuple(self.wait_buckets),
            timeouts=dict(self.timeouts),
            created=self.created,
            closed=dict(self.closed),
            leaks=self.leaks,
            connect_errors=self.connect_errors,
        )
