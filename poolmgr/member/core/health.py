"""What this process has heard of one server's health: down, back again, or on trial.

Pure, like everything under :mod:`poolmgr.member.core.process`. The supervisor decides whether a server is down, from
what all processes report. Here is what follows in one process: its callers fail at once, it comes back at a moment of
its own (:data:`PACE`), and its replies contradict an outage.
"""

from __future__ import annotations

import random

from poolmgr import wire
from poolmgr.member.ports import Outage

NEVER = float("inf")

PACE = 0.25
"""Longest random delay in seconds after the end of an outage: processes come back one by one."""

UNHEARD = 2.0
"""Seconds after which a new supervisor that has not reported an outage is taken not to know of one."""


class ServerHealth:
    """See the module's docstring.

    Args:
        rng: for the delay after an outage.

    Attributes:
        outage: None: the server is not known to be down.
        lift_at: when the outage is over for this process, if its end was reported.
        reached_at: when a connect last succeeded during an outage, or at the supervisor's request.
        trying: report the outcome of the next attempt to connect at once.
    """

    __slots__ = ("_down_at", "_rng", "_trial", "lift_at", "outage", "reached_at", "trying")

    def __init__(self, rng: random.Random) -> None:
        self.outage: Outage | None = None
        self.lift_at = NEVER
        self.reached_at = 0.0
        self.trying = False
        self._rng = rng
        self._trial = False
        self._down_at = NEVER
        """When the outage was reported; later replies of the server contradict it."""

    def heard(self, health: wire.Health, now: float) -> None:
        """The supervisor's word."""
        self._trial = self._trial or health.trial
        if not health.up:
            if self.outage is None:
                self._down_at = now
            self.outage = Outage(since=health.since, error=health.error)
            self.lift_at = NEVER
        elif self.outage is not None and self.lift_at == NEVER:
            self.lift_at = now + self._rng.uniform(0, PACE)

    def relinked(self, now: float) -> None:
        """A new supervisor may know of no outage, and would then not report its end."""
        if self.outage is not None:
            self.lift_at = now + UNHEARD

    def reached(self, now: float) -> None:
        """A connection was opened during an outage, or because the supervisor had asked for it."""
        self.reached_at = now
        self.trying = False

    def lifts(self, now: float) -> bool:
        """Whether the outage is over just now."""
        if now < self.lift_at:
            return False
        self.outage, self.lift_at = None, NEVER
        return True

    def takes_trial(self) -> bool:
        """Whether this process is the one that must try to connect. Says so once."""
        if not self._trial:
            return False
        self._trial, self.trying = False, True
        return True

    def is_contradicted(self, replied: float) -> bool:
        """Whether a reply is newer than the outage, and than the last one that contradicted it."""
        if self.outage is None or replied <= self._down_at:
            return False
        self._down_at = replied
        return True
