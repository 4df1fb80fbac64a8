"""What follows from a look at a server: its health, when to look again, what is free, what the budget is.

:class:`Findings` come in from an inspection; they go to the site, to the ledger (by
:mod:`poolmgr.supervisor.endings` and :mod:`poolmgr.supervisor.allowance`), to the timetable, and to the
members when an outage begins or ends. It must never look itself: nothing here waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from poolmgr import identity
from poolmgr.supervisor.allowance import Allowance
from poolmgr.supervisor.endings import Endings
from poolmgr.supervisor.health import Outages
from poolmgr.supervisor.inspection import Findings, Work
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.timetable import AGAIN, BUSY, Timetable
from poolmgr.supervisor.unproven import Waits

if TYPE_CHECKING:
    from poolmgr.supervisor.book import Book


class Consequences:
    """See the module's docstring. One for each site; used in the event loop."""

    def __init__(
        self,
        site: Site,
        book: Book,
        *,
        allowance: Allowance,
        endings: Endings,
        timetable: Timetable,
        waits: Waits,
    ) -> None:
        self._site = site
        self._book = book
        self._ledger = book.ledger
        self._allowance = allowance
        self._endings = endings
        self._timetable = timetable
        self._waits = waits
        self._outages = Outages(site)

    def note(self, found: Findings, now: float) -> None:
        """Health, and when to look again."""
        site = self._site
        if found.server_pid:
            site.server_process = found.server_pid, identity.start_time(found.server_pid)
        site.address = found.address or site.address
        if found.answered or (found.error is not None and found.error[0] == "refused"):
            if self._outages.answered():
                self._book.members.broadcast(site, self._book.health_of(site))
            self._waits.answered(now)
            self._timetable.looked(now)
            if found.rows is not None or found.forbidden:
                self._timetable.listed(now)
            if found.error is not None:
                self._timetable.retry_at = now + self._outages.pause()
        else:
            text = found.error[1] if found.error is not None else "a connection of our own did not close"
            if found.error is not None and self._outages.failed(text):
                self._book.members.broadcast(site, self._book.health_of(site))
            self._timetable.retry_at = now + self._outages.pause()
            if found.deserted:
                self._endings.deserted(now)

    def feed(self, work: Work, found: Findings, now: float) -> None:
        """What is proven is free; what has changed changes the budget."""
        site = self._site
        if found.run_id and found.run_id != site.run_id:
            log.warning("server.restarted", extra={"server": site.id, "run_id": found.run_id})
            site.run_id = found.run_id
            self._ledger.server(site.id, run_id=found.run_id)
        for what, words in found.forbidden.items():
            if what not in site.forbidden:
                log.warning("server.forbids", extra={"server": site.id, "command": what, "error": words})
        if found.info or found.rows is not None or found.forbidden:
            site.forbidden = dict(found.forbidden) or ({} if found.rows is not None else site.forbidden)
        if found.rows is not None:
            site.rows, site.rows_at = found.rows, now
        self._endings.free(found.gone, now)
        if work.targets:
            self._waits.looked(
                work.targets - found.gone,
                now,
                fresh=found.fresh or found.silent,
                blind="CLIENT LIST" in found.forbidden or found.silent,
            )
            left = self._endings.targets()
            again = now + (BUSY if found.busy else AGAIN)
            self._timetable.prove_at = again if left & work.targets else 0.0
        if found.info or found.rows is not None or "INFO" in found.forbidden:
            rejected = found.info.get("rejected_connections", "")
            rose = rejected.isdecimal() and site.rejected is not None and int(rejected) > site.rejected
            if rejected.isdecimal():
                site.rejected = int(rejected)
            self._allowance.learn(found)
            if site.refused or rose or (found.error is not None and found.error[0] == "refused"):
                site.refused = False
                self._allowance.refused(found, now)
            self._allowance.apply(now)
