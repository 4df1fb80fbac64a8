"""What lists may cost a server: at once when something is to be proven, and a hundredth of its time in the long run.

A ``CLIENT LIST`` takes the server's one thread for a microsecond and more per client, and each host asks for its own.
So a list is made when whatever was made before has been paid for, at :data:`SHARE` of the time that passes; one that
has not been used is kept for :data:`BURST` seconds. Pure: it is told what a list took, and says when the next one may
be.
"""

from __future__ import annotations

from collections import deque

SHARE = 0.01
"""Of the server's time, what our lists may take."""

BURST = 1.0
"""Seconds for which a share that was not used is kept."""

SAMPLES = 8
"""Of so many lists the quickest, row for row, says what one costs: waiting for a processor or the network
is in what was measured too, and costs the server nothing."""


FIRST, MORE = 0.001, 0.00002
"""Seconds that a list takes at most, and for each row more, on a machine so busy that ten thousand rows took 0.16 s.
What was measured beyond that was waiting, and must not keep the proofs of a small server waiting too."""


class Throttle:
    """One upstream's. Times are monotonic seconds.

    Attributes:
        free_at: when everything that was made is paid for: no list before.
        cost: seconds of the server's time that the last list took.
    """

    def __init__(self) -> None:
        self.free_at = 0.0
        self.cost = 0.0
        self._per_row: deque[float] = deque(maxlen=SAMPLES)

    def made(self, rows: int, seconds: float, now: float) -> None:
        """A list of so many rows was made, in that time as seen from here."""
        rows = max(1, rows)
        self._per_row.append(seconds / rows)
        self.cost = min(rows * min(self._per_row), FIRST + MORE * rows)
        self.free_at = max(self.free_at, now - BURST) + self.cost / SHARE

    def left(self, now: float) -> float:
        """Seconds of the server's time that lists may take now; none: 0."""
        return min(BURST, max(0.0, now - self.free_at)) * SHARE
