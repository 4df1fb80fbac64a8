"""Outages: one probe finds out for everyone, and everyone is told when one begins and ends.

Retries are spaced by redis-py's exponential backoff with full jitter, so that many hosts do not come
back in one herd.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from poolmgr.supervisor.logs import log
from poolmgr.supervisor.site import Health, Site

if TYPE_CHECKING:
    from redis.backoff import AbstractBackoff

LONGEST = 1.0
"""Seconds between two looks at a server that is down, at most."""

FIRST = 0.02


class Outages:
    """One site's health."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._failures = 0
        self._backoff: AbstractBackoff | None = None

    def answered(self) -> bool:
        """The server has spoken; whether that ends an outage."""
        self._failures = 0
        if self._site.health.up:
            return False
        log.warning(
            "outage.ended",
            extra={"server": self._site.id, "seconds": round(time.time() - self._site.health.since, 3)},
        )
        self._site.health = Health()
        return True

    def failed(self, error: str) -> bool:
        """It does not answer; whether that begins an outage."""
        self._failures += 1
        health = self._site.health
        if not health.up:
            health.error = error
            return False
        self._site.health = Health(up=False, since=time.time(), error=error)
        self._site.outages += 1
        log.warning("outage.began", extra={"server": self._site.id, "error": error})
        return True

    def pause(self) -> float:
        """Seconds until the next look."""
        if self._backoff is None:
            from redis.backoff import FullJitterBackoff

            self._backoff = FullJitterBackoff(cap=LONGEST, base=FIRST)
        return max(0.005, float(self._backoff.compute(min(self._failures, 20))))
