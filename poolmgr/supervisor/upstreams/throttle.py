"""What lists may cost a server: at once for a proof, and a hundredth of its time in the long run.

A ``CLIENT LIST`` takes the server's one thread for a microsecond and more per client, and each host asks for its own.
So a list is made once the earlier ones are paid for, at :data:`SHARE` of the time that passes; an unused share is kept
for :data:`BURST` seconds. Pure: from the time that a list took it computes when the next one may be made.
"""

from __future__ import annotations

from collections import deque

SHARE = 0.01
"""Share of the server's time that our lists may take."""

BURST = 1.0
"""Seconds for which an unused share is kept."""

SAMPLES = 8
"""The quickest of so many lists, row for row, gives the cost of one: the measured time includes waiting for a processor
or the network, which costs the server nothing."""


FIRST, MORE = 0.001, 0.00002
"""Seconds that a list takes at most, and for each row more, on a machine so busy that ten thousand rows took 0.16 s. A
longer measured time was waiting, and must not delay a small server's proofs too."""


class Throttle:
    """One upstream's. Times are monotonic seconds.

    Attributes:
        free_at: when all lists are paid for: no list before.
        cost: seconds of the server's time that the last list took.
    """

    def __init__(self) -> None:
        self.free_at = 0.0
        self.cost = 0.0
        self._per_row: deque[float] = deque(maxlen=SAMPLES)

    def made(self, rows: int, seconds: float, now: float) -> None:
        """A list of so many rows was made, in that time as measured here."""
        rows = max(1, rows)
        self._per_row.append(seconds / rows)
        self.cost = min(rows * min(self._per_row), FIRST + MORE * rows)
        self.free_at = max(self.free_at, now - BURST) + self.cost / SHARE

    def left(self, now: float) -> float:
        """Seconds of the server's time that lists may take now."""
        return min(BURST, max(0.0, now - self.free_at)) * SHARE
