"""How busy one pool is and was: what it needs now, what it needed lately, what it does not need.

Pure: it takes :class:`~poolmgr.member.ports.Usage` with a time, and answers. It must never decide what
follows from the answer; :mod:`poolmgr.member.core.process` does.

It answers two questions. *How much was needed at most in the last second?* is kept in four slots of
a quarter of a second. *Which connections stayed idle this long?* is the low-water mark of idle connections
since a moment (a window). A window that has just begun knows nothing yet, so the previous one
is kept beside it.
"""

from __future__ import annotations

import msgspec

from poolmgr.member.ports import Usage

SLOT = 0.25
"""Seconds of one slot; also the usual time between two reports."""

SLOTS = 4
"""Slots remembered: the peak is that of the last second."""

NOTHING = Usage(lent=0, idle=0, waiting=0, low=0, quiet=float("inf"), ceiling=0, timeout=float("inf"))


class Demand:
    """The demand of one pool. All times are seconds of one monotonic clock."""

    __slots__ = ("_low", "_peaks", "_previous", "_since", "seen", "usage", "waiting")

    def __init__(self) -> None:
        self.usage = NOTHING
        self.seen = 0.0
        self._peaks: dict[int, int] = {}
        self._since = 0.0
        self._low = 0
        self._previous = 0
        self.waiting = 0
        """Callers that more connections would serve: none beyond the pool's own ceiling."""

    @property
    def now(self) -> int:
        return self.usage.lent + self.waiting

    def observe(self, usage: Usage, now: float) -> None:
        """Take in what the pool reports; ``usage.low`` covers the time since the last observation."""
        self.usage = usage
        self.waiting = max(0, min(usage.waiting, usage.ceiling - usage.lent))
        self.seen = now
        self._low = min(self._low, usage.low)
        busy = max(usage.lent, usage.lent + usage.idle - usage.low) + self.waiting
        slot = int(now / SLOT)
        self._peaks[slot] = max(self._peaks.get(slot, 0), busy)
        for old in [at for at in self._peaks if at <= slot - SLOTS]:
            del self._peaks[old]

    def shed(self, count: int) -> None:
        """``count`` idle connections have been asked for; do not count on them any more."""
        self.usage = msgspec.structs.replace(self.usage, idle=max(0, self.usage.idle - count))

    def start_window(self, guard: float) -> None:
        """Watch for unneeded connections from the last observation on. If the window that ends now was shorter
        than ``guard`` seconds, it has shown nothing."""
        self._previous = self._low if self.seen - self._since >= guard else 0
        self._since = self.seen
        self._low = self.usage.idle

    def peak(self, now: float) -> int:
        """The most that was lent or waited for at one instant of the last second."""
        oldest = int(now / SLOT) - SLOTS
        return max([self.now, *(busy for slot, busy in self._peaks.items() if slot > oldest)])

    def certain(self, guard: float) -> bool:
        """Whether measuring for another ``guard`` seconds cannot raise :meth:`unneeded`.

        A window much longer than that is not enough: connections needed only at its beginning are not
        needed now, and another caller waits for them.
        """
        if not self.usage.idle or self.usage.quiet >= guard:
            return True
        return self.seen - self._since >= guard and self._low >= self.usage.idle

    def unneeded(self, guard: float) -> int:
        """Connections that stayed idle for ``guard`` seconds before the last observation."""
        if self.usage.quiet >= guard:
            return self.usage.idle
        low = self._low if self.seen - self._since >= guard else min(self._low, self._previous)
        return min(low, self.usage.idle)
