"""The supervisor's log: stable event names, details as fields, and no flood.

Events that an outsider can cause at will (garbage, strangers at the socket) go through :class:`Limited`: the first few
of each kind are written, the rest are counted and reported later.
"""

from __future__ import annotations

import logging
import time
from typing import Any

log = logging.getLogger("poolmgr.supervisor")


class Limited:
    """Writes at most ``burst`` lines of each event in ``period`` seconds."""

    def __init__(self, burst: int = 5, period: float = 10.0) -> None:
        self._burst = burst
        self._period = period
        self._seen: dict[str, tuple[float, int]] = {}

    def __call__(self, event: str, level: int = logging.WARNING, **fields: Any) -> None:
        """Log ``event`` with ``fields``, unless there were too many of it lately."""
        now = time.monotonic()
        began, count = self._seen.get(event, (now, 0))
        if now - began >= self._period:
            if count > self._burst:
                fields["suppressed"] = count - self._burst
            began, count = now, 0
        self._seen[event] = began, count + 1
        if count < self._burst:
            log.log(level, event, extra=fields)
