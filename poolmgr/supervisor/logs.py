"""The supervisor's log: stable event names, details as fields, and no flood.

Events that an outsider can cause at will (garbage, strangers at the socket) go through :class:`Limited`: the first few
of each kind are written, the rest are counted and reported later.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from poolmgr.logs.flood import Quota

log = logging.getLogger("poolmgr.supervisor")


class Limited:
    """Writes at most ``burst`` lines of each event in ``period`` seconds."""

    def __init__(self, burst: int = 5, period: float = 10.0) -> None:
        self._quota = Quota(burst, period)

    def __call__(self, event: str, level: int = logging.WARNING, **fields: Any) -> None:
        """Log ``event`` with ``fields``, unless there were too many of it lately."""
        passage = self._quota.take(event, time.monotonic())
        if passage.suppressed:
            fields["suppressed"] = passage.suppressed
        if passage.written:
            log.log(level, event, extra=fields)
