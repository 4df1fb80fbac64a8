"""Where a proof cannot be had: bounded waits that stand in for it, counted and logged (rules S3, S5).

Three cases. The server forbids ``CLIENT LIST``: then a fresh connection was answered after the exit,
so nothing of the dead process can arrive any more, and what is missing is the sight of its
connections' end. Quarantine and lost connections leave no permit to look with: even the fresh
connection is missing. And nobody is there whose credentials could be used, nor anybody who could open a connection.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.site import Site

WAIT = 5.0
"""Seconds after the server last answered."""

ALONE = 1.0
"""Seconds where nobody is left who could open anything: enough for another look or two. It need be no longer: what
stands in for the proof is a search: by this supervisor before it raises anything there again, should somebody come
after all, and by the next one because it meets the server for the first time."""


class Waits:
    """One site's bounded waits. Times are monotonic seconds.

    Args:
        release: gives the permit of an own connection back.
        search: has the server searched for our connections before anything is raised there.
    """

    def __init__(self, site: Site, ledger: Ledger, release: Callable[[], None], search: Callable[[], None]) -> None:
        self._site = site
        self._ledger = ledger
        self._release = release
        self._search = search
        self._answered = -1e9
        self._began: dict[str, float] = {}

    def answered(self, now: float) -> None:
        """The server has said something."""
        self._answered = now

    def looked(self, left: Collection[str], now: float, *, fresh: bool, blind: bool) -> None:
        """A fresh connection was answered; ``left`` is not proven. ``blind``: there was no list to see."""
        if blind and fresh:
            self._wait(left, now, "the server forbids CLIENT LIST, or does not answer by one of its names")
        else:
            self._began.clear()

    def no_permit(self, targets: Collection[str], now: float) -> bool:
        """There was no permit to look with. After the wait one is granted over the budget, to prove the
        others with; whether that is so now. It cannot be while there is no snapshot to record it in."""
        if self._ledger.stuck:
            return False
        server = self._ledger.servers[self._site.id]
        since = [server.quarantine[tag].since for tag in targets if tag in server.quarantine]
        since += [self._site.lost[name] for name in targets if name in self._site.lost]
        if not any(now >= max(at, min(self._answered, now)) + WAIT for at in since):
            return False
        self._site.unproven += 1
        reason = "no permit is left to look with"
        log.warning("quarantine.unproven", extra={"server": self._site.id, "permits": 1, "reason": reason})
        self._ledger.overdraw_own(self._site.id)
        return True

    def nobody_to_ask(self, targets: Collection[str], now: float, *, alone: bool) -> None:
        """No endpoint is known, or the server does not answer, and there is nobody who could open a
        connection. A supervisor that meets this server later takes a census first, which finds what may
        be left. This one would not count its own connections in that, so these are waited for longer."""
        if alone and self._wait(targets, now, "the server cannot be asked and no member is left", ALONE):
            self._search()

    def _wait(self, left: Collection[str], now: float, why: str, others: float = WAIT) -> list[str]:
        """``others``: seconds for what is not our own. What was freed."""
        for tag in left:
            self._began.setdefault(tag, now)
        self._began = {tag: at for tag, at in self._began.items() if tag in left}
        own = self._site.unclosed
        over = [tag for tag, at in self._began.items() if now - at >= (WAIT if tag in own else others)]
        return self._free(over, now, why)

    def _free(self, tags: Collection[str], now: float, why: str) -> list[str]:
        server = self._ledger.servers[self._site.id]
        freed = []
        for tag in tags:
            entry = server.quarantine.get(tag)
            if entry is None and tag not in self._site.unclosed:
                continue
            freed.append(tag)
            permits = entry.charge if entry is not None else 1
            self._site.unproven += permits
            log.warning("quarantine.unproven", extra={"server": self._site.id, "permits": permits, "reason": why})
            if entry is not None:
                self._ledger.proven(self._site.id, tag, now)
            else:
                self._site.unclosed.discard(tag)
                self._release()
        return freed
