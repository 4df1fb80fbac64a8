"""When a server is looked at, and what for.

Pure: it is told the time and what is to be proven, and says what is to be done (:class:`Work`) or until
when there is nothing. It must never look itself, and never wait: :mod:`poolmgr.supervisor.probe` does. What
moves its times is what came of the look before (:mod:`poolmgr.supervisor.consequences`).
"""

from __future__ import annotations

from collections.abc import Set

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.inspection import Work
from poolmgr.supervisor.site import Site

SMALL = 8
"""Below this budget no connection is kept."""

LOOK_EVERY, LIST_EVERY = 2.0, 5.0
"""Seconds between two looks at a server's limits, and at its list."""

SELDOM = 5
"""With a small budget, every look takes a permit from somebody: this many times more seldom."""

AGAIN, BUSY = 0.05, 0.25
"""Seconds until what has not come to its end is tried again; where the server says that it cannot just now."""

NOTHING_BUT_CLOSE = Work(endpoints=())


class Timetable:
    """One site's. Times are monotonic seconds.

    Args:
        handshake: see :func:`poolmgr.supervisor.proof.judge`.

    Attributes:
        retry_at: no look before, unless somebody hurries a server that is up.
        prove_at: no proof before.
        search_at: no search for those of whom nothing is known before.
        hurry: look now: somebody has reported trouble.
        renew: what is kept is not to be trusted any more.
    """

    def __init__(self, site: Site, ledger: Ledger, handshake: float) -> None:
        self._site = site
        self._ledger = ledger
        self.handshake = handshake
        self._look_at = 0.0
        self._list_at = 0.0
        self.retry_at = 0.0
        self.prove_at = self.search_at = 0.0
        self.hurry = False
        self.renew = False

    @property
    def sparing(self) -> bool:
        """The budget is so small that a connection kept between two looks would be missed."""
        return self._ledger.servers[self._site.id].budget < SMALL

    def looked(self, now: float) -> None:
        """The server has been asked for its limits."""
        self._look_at = now + LOOK_EVERY * self._seldom()

    def listed(self, now: float) -> None:
        """The server has been asked for its list."""
        self._list_at = now + LIST_EVERY * self._seldom()

    def _seldom(self) -> int:
        return SELDOM if self.sparing else 1

    def due(self, now: float, targets: frozenset[str], *, stopping: bool, stalled: bool, holding: bool) -> Work | None:
        """What is to be done now; None: nothing.

        Args:
            targets: everything whose end is to be proven.
            stopping: nothing but proofs is wanted any more.
            stalled: what is kept has not answered in time, and is waited for.
            holding: a connection is kept.
        """
        site = self._site
        if stopping and stalled:
            return NOTHING_BUT_CLOSE  # nobody needs to know when it answers
        if now < self.retry_at and not (self.hurry and site.health.up):
            return None
        if not site.resolved:
            if stopping and not targets:
                return None
            return Work(endpoints=site.endpoints, fresh=True, facts=True, listing=True, handshake=self.handshake)
        proving = bool(targets) and now >= self.prove_at
        search = not stopping and self._ledger.servers[site.id].search and now >= self.search_at
        facts = not stopping and (self.hurry or search or now >= self._look_at)
        listing = not stopping and ((self.hurry and site.refused) or search or now >= self._list_at)
        if not (proving or facts or listing):
            return NOTHING_BUT_CLOSE if stopping and holding else None
        return Work(
            endpoints=site.endpoints,
            targets=targets if proving else frozenset(),
            fresh=proving or search or self.renew,
            facts=facts,
            listing=listing,
            handshake=self.handshake,
        )

    def until(self, now: float, targets: Set[str], *, stopping: bool, held_until: float) -> float:
        """Until when nothing is due.

        Args:
            held_until: when raises that are held may be released.
        """
        site = self._site
        if not site.endpoints:
            return now + 0.5
        if not site.resolved:
            return max(self.retry_at, now + 0.05)
        until = min(self._look_at, self._list_at) if not stopping else now + 5.0
        if targets:
            until = min(until, self.prove_at)
        if self._ledger.servers[site.id].search and not stopping:
            until = min(until, self.search_at)
        return max(min(until, held_until), self.retry_at)
