"""No storm of one event floods the log: the first few are written, the rest are counted.

A filter for the handlers that :mod:`poolmgr.logs.structured` sets up. It drops only our own events, never lines of an
application or of gunicorn, the access log included.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

BURST = 20
"""Lines of one event that are written in one period, in each process."""

PERIOD = 10.0
"""Seconds."""

KINDS = 1024
"""Different events that are remembered; ours are some sixty."""


class FloodFilter(logging.Filter):
    """At most ``burst`` lines of each event in ``period`` seconds.

    The last line that passes says ``more="not written"``; the first line of a later period says how many were
    ``suppressed``. All events of level DEBUG pass, since an operator has asked for them. There is no lock: two
    threads at the same instant may let one line more through.
    """

    def __init__(
        self, burst: int = BURST, period: float = PERIOD, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._burst = burst
        self._period = period
        self._clock = clock
        self._seen: dict[str, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno <= logging.DEBUG or not record.name.startswith("poolmgr"):
            return True
        event = str(record.msg)
        now = self._clock()
        began, count = self._seen.get(event, (now, 0))
        if now - began >= self._period:
            if count > self._burst:
                record.suppressed = count - self._burst
            began, count = now, 0
        if event not in self._seen and len(self._seen) >= KINDS:
            self._seen.clear()
        self._seen[event] = began, count + 1
        if count + 1 == self._burst:
            record.more = "not written"
        return count < self._burst
