"""Counters of all pools of all members, added up so that none is lost when a process ends.

Members report each pool's counters since that pool was made. The growth since a pool's last report is added to its
server's total, so a total never falls while this supervisor lives, whatever processes come and go. A new supervisor
starts at zero, which Prometheus recognises as a reset counter. What a pool counted under the previous supervisor must
not be counted again: its first report here only sets the base. The counts of the second in between are in neither.

It must never grow with the number of pools or processes that there have ever been: pool-generated names fall together,
and so do all names beyond :data:`NAMES`.
"""

from __future__ import annotations

import re

import msgspec

from poolmgr.wire import WAIT_BOUNDS, Counters, Stats

NAMES = 32
"""Different pool names that are kept apart at one server."""

POOLS = 256
"""Pools of one process whose last report is remembered."""

UNNAMED = "unnamed"
OTHERS = "others"

_MADE_UP = re.compile(r"pool-[0-9a-f]{6}")


class Total(msgspec.Struct):
    """Sums over pools of one name at one server; fields as in :class:`poolmgr.wire.Counters`."""

    checkouts: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    wait_buckets: list[int] = msgspec.field(default_factory=lambda: [0] * (len(WAIT_BOUNDS) + 1))
    timeouts: dict[str, int] = msgspec.field(default_factory=dict)
    created: int = 0
    closed: dict[str, int] = msgspec.field(default_factory=dict)
    leaks: int = 0
    connect_errors: int = 0

    def add(self, new: Counters, old: Counters) -> None:
        """Add what has grown. A counter that has fallen belongs to a new pool of the same name."""
        if new.checkouts < old.checkouts or new.created < old.created:
            old = Counters()
        self.checkouts += new.checkouts - old.checkouts
        self.waits += new.waits - old.waits
        self.wait_seconds += new.wait_seconds - old.wait_seconds
        self.created += new.created - old.created
        self.leaks += new.leaks - old.leaks
        self.connect_errors += new.connect_errors - old.connect_errors
        if len(new.wait_buckets) == len(self.wait_buckets):
            before = old.wait_buckets if len(old.wait_buckets) == len(self.wait_buckets) else (0,) * 99
            for place, count in enumerate(new.wait_buckets):
                self.wait_buckets[place] += count - before[place]
        for sums, now, then in (
            (self.timeouts, new.timeouts, old.timeouts),
            (self.closed, new.closed, old.closed),
        ):
            for reason, count in now.items():
                sums[reason] = sums.get(reason, 0) + count - then.get(reason, 0)


class Totals:
    """Sums by server and pool name."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], Total] = {}
        self._last: dict[str, dict[tuple[str, str], Counters]] = {}

    def report(self, tag: str, stats: Stats, *, inherited: bool = False) -> None:
        """A member's newest counters of one pool.

        Args:
            inherited: the pool has reported to the previous supervisor.
        """
        last = self._last.setdefault(tag, {})
        key = stats.server, stats.pool
        old = last.pop(key, None) or (stats.counters if inherited else Counters())
        last[key] = stats.counters
        if len(last) > POOLS:
            del last[next(iter(last))]  # the one silent for longest; most likely it is gone
        self._total(stats.server, stats.pool).add(stats.counters, old)

    def ended(self, tag: str) -> None:
        """The process is gone; what it has counted stays."""
        self._last.pop(tag, None)

    def forget(self, server: str) -> None:
        """No process uses that server any more."""
        self._of = {key: total for key, total in self._of.items() if key[0] != server}

    def _total(self, server: str, pool: str) -> Total:
        name = UNNAMED if _MADE_UP.fullmatch(pool) else pool
        known = self._of.get((server, name))
        if known is None:
            if sum(1 for other, _ in self._of if other == server) >= NAMES:
                name = OTHERS
            known = self._of.setdefault((server, name), Total())
        return known

    def copy(self) -> dict[tuple[str, str], Total]:
        """The sums as they are now, for another thread."""
        return {
            key: msgspec.structs.replace(
                total,
                wait_buckets=list(total.wait_buckets),
                timeouts=dict(total.timeouts),
                closed=dict(total.closed),
            )
            for key, total in self._of.items()
        }
