"""No storm of one event floods the log: the first few are written, the rest are counted.

:class:`FloodFilter` is for the handlers that :mod:`poolmgr.logs.structured` sets up. It drops only our own events,
never lines of an application or of gunicorn, the access log included. :class:`poolmgr.supervisor.logs.Limited` has a
smaller :class:`Quota`, for events that an outsider can cause at will.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

BURST = 20
"""Lines of one event that are written in one period, in each process."""

PERIOD = 10.0
"""Seconds."""

KINDS = 1024
"""Different events that are remembered; ours are some sixty."""


class Passage(NamedTuple):
    """What becomes of one line.

    Attributes:
        written: whether it is within the quota.
        last: no further one of its event is in this period.
        suppressed: how many of its event were not written in the period before, if it is the first of a period.
    """

    written: bool
    last: bool
    suppressed: int


class Quota:
    """At most ``burst`` lines of each event in ``period`` seconds. It takes no lock: two threads at the same instant
    may let one line more through."""

    def __init__(self, burst: int, period: float) -> None:
        self._burst = burst
        self._period = period
        self._seen: dict[str, tuple[float, int]] = {}

    def take(self, event: str, now: float) -> Passage:
        """One more line of an event."""
        began, count = self._seen.get(event, (now, 0))
        suppressed = 0
        if now - began >= self._period:
            suppressed = max(0, count - self._burst)
            began, count = now, 0
        if event not in self._seen and len(self._seen) >= KINDS:
            self._seen.clear()
        self._seen[event] = began, count + 1
        return Passage(count < self._burst, count + 1 == self._burst, suppressed)


class FloodFilter(logging.Filter):
    """A quota for each of our events.

    The last line that passes says ``more="not written"``; the first line of a later period says how many were
    ``suppressed``. All events of level DEBUG pass, since an operator has asked for them.
    """

    def __init__(
        self, burst: int = BURST, period: float = PERIOD, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._quota = Quota(burst, period)
        self._clock = clock

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno <= logging.DEBUG or not record.name.startswith("poolmgr"):
            return True
        passage = self._quota.take(str(record.msg), self._clock())
        if passage.suppressed:
            record.suppressed = passage.suppressed
        if passage.last:
            record.more = "not written"
        return passage.written
