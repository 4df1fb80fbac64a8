"""When to look at a server, and what for.

Pure: from the time and what has to be proven it computes what to do (:class:`Work`), or until when nothing is due. It
must never look itself, and never wait: :mod:`poolmgr.supervisor.upstreams.probe` does. The result of the previous look
moves its times (:mod:`poolmgr.supervisor.upstreams.reconcile`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Set

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams.findings import Work
from poolmgr.supervisor.upstreams.throttle import Throttle
from poolmgr.supervisor.upstreams.upstream import Upstream

SMALL, SMALL_LEASE = 8, 4
"""Below this budget no connection is kept: of a host's own, and of a lease, which is renewed every few seconds."""

LOOK_EVERY, LIST_EVERY = 2.0, 60.0
"""Seconds between two looks at a server's limits (half of that while the budget may rise), and at its list, which the
audit compares with the ledger."""

LIST_AGAIN = 5.0
"""Seconds until a second list follows one with a discrepancy. One list alone never accuses a process."""

LISTED_SHARE = 0.001
"""Share of the server's time that lists for the audit may take: large ones are made less often."""

ASK_EVERY = 10.0
"""Seconds between two identity checks of all addresses, on fresh connections: where an address leads can change while
all open connections stay up."""

LOOKS, ASKS = 20, 20
"""Looks and identity checks a second of all hosts of a fleet together. A thousand hosts would take some percent of the
server's time else, idle as they are; what changes meanwhile, a renewal or a gate shows."""

SELDOM = 5
"""With a small budget every look takes a permit from a member, so looks are this many times rarer."""

AGAIN, BUSY = 0.05, 0.25
"""Seconds until unfinished work is tried again; and after the server said "not just now"."""

STRANGE = 2.0
"""Seconds until the next check whether connections that must not be killed are gone."""

NOTHING_BUT_CLOSE = Work(endpoints=())


class Schedule:
    """One upstream's. Times are monotonic seconds.

    Args:
        handshake: see :func:`poolmgr.supervisor.upstreams.proof.judge`.
        leased: whether the budget is a lease of a fleet. Then one host at a time lists for all
            (:mod:`poolmgr.supervisor.fleet.fencing`), and no audit of our own does.
        hosts: that share the server in a fleet, as last heard; 0: none do.

    Attributes:
        retry_at: no look before, unless ``hurry`` is set and the server was reached.
        prove_at: no proof before.
        search_at: no search for connections of unknown members before.
        hurry: look now: a member reported trouble.
        renew: do not trust the kept connection any more.
        throttle: when a list may be made.
    """

    def __init__(
        self,
        upstream: Upstream,
        ledger: Ledger,
        handshake: float,
        leased: Callable[[], bool] = lambda: False,
        hosts: Callable[[], int] = lambda: 0,
    ) -> None:
        self._leased = leased
        self._hosts = hosts
        self._upstream = upstream
        self._ledger = ledger
        self.handshake = handshake
        self._look_at = 0.0
        self._list_at = 0.0
        self._ask_at = self._asked_at = 0.0
        self.retry_at = 0.0
        self.prove_at = self.search_at = 0.0
        self.hurry = False
        self.renew = False
        self.throttle = Throttle()
        self._listed_at = 0.0
        self._asked = self._extra = False
        """Another list is due out of turn; the last one was such a list."""

    @property
    def sparing(self) -> bool:
        """The budget is so small that members would miss a connection kept between two looks."""
        governor = self._upstream.governor
        # A refusal lowers the budget below what was meant; and at a full server no closed connection comes back.
        meant = governor.target if governor.cap is not None else 0
        small = SMALL_LEASE if self._leased() else SMALL
        return max(self._ledger.servers[self._upstream.id].budget, meant) < small

    def looked(self, now: float) -> None:
        """The server has been asked for its limits."""
        governor = self._upstream.governor
        if governor.rising or (governor.cap is not None and not self.sparing):
            self._look_at = now + LOOK_EVERY / 2
        elif governor.cap is not None or (governor.budget or 0) < self._upstream.derivation.alone:
            self._look_at = now + LOOK_EVERY  # others may leave, however small the budget is now
        else:
            self._look_at = now + LOOK_EVERY * self._seldom()
        self._look_at = max(self._look_at, now + self._hosts() / LOOKS)

    def listed(self, now: float) -> None:
        """The server has been asked for its list."""
        self._listed_at = now
        every = max(LIST_EVERY, self.throttle.cost / LISTED_SHARE) * self._seldom()
        self._list_at = now + (math.inf if self._leased() else every)
        self._extra, self._asked = self._asked, False

    def list_again(self) -> None:
        """A second list soon has to confirm the last one. Of two in a row only one may request that; otherwise a
        lasting difference would request lists forever."""
        if not (self._asked or self._extra):
            self._asked = True
            self._list_at = min(self._list_at, self._listed_at + LIST_AGAIN)

    def asked(self, now: float) -> None:
        """All the server's addresses have been asked for its identity."""
        every = max(ASK_EVERY, self._hosts() / ASKS) if self._ask_at else 0.1 * ASK_EVERY
        self._ask_at, self._asked_at = now + every, now

    def ask_sooner(self) -> None:
        """A gate was shut: the address may lead to another server than the kept connection."""
        self._ask_at = min(self._ask_at, self._asked_at + ASK_EVERY)

    def is_to_ask(self, now: float) -> bool:
        """Whether to ask them again. Called right after an answer: a connection to a hanging server must not be given
        up for this."""
        return now >= self._ask_at

    def ask_again(self) -> None:
        """Ask all addresses now."""
        self.renew = self.hurry = True
        self.retry_at = 0.0

    def _seldom(self) -> int:
        return SELDOM if self.sparing else 1

    def due(
        self,
        now: float,
        targets: frozenset[str],
        strange: frozenset[str],
        *,
        stopping: bool,
        stalled: bool,
        holding: bool,
    ) -> Work | None:
        """The work due now; None: nothing.

        Args:
            targets: everything whose end has to be proven.
            strange: the targets that must not be killed.
            stopping: only proofs are wanted.
            stalled: the kept connection has not answered in time, and is waited for.
            holding: a connection is kept.
        """
        upstream = self._upstream
        if stopping and stalled:
            return NOTHING_BUT_CLOSE  # its answer is not needed any more
        if now < self.retry_at and not (self.hurry and upstream.reached):
            return None
        if not upstream.resolved:
            if stopping and not targets:
                return None
            return Work(
                endpoints=upstream.endpoints,
                fresh=True,
                facts=True,
                listing=True,
                handshake=self.handshake,
                paid=self.throttle.left(now),
            )
        paid = now >= self.throttle.free_at or "CLIENT LIST" in upstream.forbidden
        proving = bool(targets) and now >= self.prove_at and paid
        search = not stopping and self._ledger.servers[upstream.id].search and now >= self.search_at and paid
        listing = not stopping and (search or (now >= self._list_at and paid))
        facts = not stopping and (self.hurry or listing or now >= self._look_at)
        if not (proving or facts or listing):
            return NOTHING_BUT_CLOSE if stopping and holding else None
        return Work(
            endpoints=upstream.endpoints,
            targets=targets if proving else frozenset(),
            spare=strange,
            fresh=proving or search or self.renew,
            facts=facts,
            listing=listing,
            handshake=self.handshake,
            paid=self.throttle.left(now),
        )

    def until(self, now: float, targets: Set[str], *, stopping: bool, held_until: float) -> float:
        """Until when nothing is due.

        Args:
            held_until: when held raises may be released, or another target is due.
        """
        upstream = self._upstream
        if not upstream.endpoints:
            return now + 0.5
        if not upstream.resolved:
            return max(self.retry_at, now + 0.05)
        until = now + 5.0
        lists = now + 5.0
        if not stopping:
            until, lists = self._look_at, self._list_at
            if self._ledger.servers[upstream.id].search:
                lists = min(lists, self.search_at)
        if targets:
            lists = min(lists, self.prove_at)
        until = min(until, lists if "CLIENT LIST" in upstream.forbidden else max(lists, self.throttle.free_at))
        return max(min(until, held_until), self.retry_at)
