"""Which server this is: a new one, or one that is known by another name.

An endpoint is *resolved* by asking the server behind it for its run_id, with a permit borrowed of every
server that it might turn out to be, so that even the question stays within the budget. A server that is
new is searched for connections that are there already (:mod:`poolmgr.supervisor.census`), and nothing is
raised before those who hold them have had time to register. Two sites that turn out to be one server
become one: the twin takes what is left. Nobody may be told an id before it is known, so whoever calls
:meth:`Resolution.resolve` or :meth:`Resolution.unite` holds ``book.resolving``: one at a time.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolmgr.supervisor import census, unproven
from poolmgr.supervisor.allowance import Allowance
from poolmgr.supervisor.consequences import Consequences
from poolmgr.supervisor.eye import PATIENCE, Eye
from poolmgr.supervisor.inspection import Findings, Work
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.timetable import BUSY, Timetable

if TYPE_CHECKING:
    from poolmgr.supervisor.book import Book
    from poolmgr.supervisor.probe import Probe

UNHEARD = 2.0
"""Seconds for which nothing is raised at a server that is met for the first time, where living processes hold
connections of ours and have not registered."""

SHORT = 0.5
"""Seconds to wait for a permit to look with at a server of which not even the budget is known."""

DOUBT = 2.0
"""Seconds for which a server that has just been restarted waits for the others to say that they are not it."""


class Resolution:
    """See the module's docstring. One for each site; used in the event loop.

    Args:
        no_permit: called when there was none to look with.
        end: called when this site was another name of a known one: its probe ends.
    """

    def __init__(
        self,
        site: Site,
        book: Book,
        *,
        eye: Eye,
        allowance: Allowance,
        timetable: Timetable,
        consequences: Consequences,
        no_permit: Callable[[float], object],
        end: Callable[[], None],
    ) -> None:
        self._site = site
        self._book = book
        self._ledger = book.ledger
        self._turns = book.turns
        self._eye = eye
        self._allowance = allowance
        self._timetable = timetable
        self._consequences = consequences
        self._no_permit = no_permit
        self._end = end
        self._unheard: set[str] = set()
        """Living processes that hold connections here and have not registered."""
        self._unheard_until = 0.0
        self._met = "", 0.0
        """The run_id that was found first, and when."""

    def heard(self, tag: str) -> None:
        """A process has registered, or is gone."""
        self._unheard.discard(tag)

    async def resolve(self, work: Work) -> None:
        """Learn the run_id, with a permit of every server that it might turn out to be."""
        site = self._site
        server = self._ledger.servers[site.id]
        now = self._turns.clock()
        new = site.governor.budget is None
        if new and server.budget < max(1, server.outstanding):
            self._ledger.set_budget(site.id, max(1, server.outstanding), now)
        lenders = [p for p in self._book.probes.values() if p.site is not site and p.site.resolved]
        borrowed: list[Probe] = []

        async def borrow(lender: Probe) -> None:
            if await lender.permits.acquire(PATIENCE):
                borrowed.append(lender)

        try:
            await asyncio.gather(*map(borrow, lenders))
            if not await self._eye.permit(SHORT if new else PATIENCE):
                now = self._turns.clock()
                if new:  # what members state fills all that we know of: there must be one more
                    self._ledger.set_budget(site.id, server.outstanding + 1, now)
                else:
                    self._no_permit(now)
                self._turns.touch()
                return
            self._timetable.hurry = False
            began = self._turns.clock()
            found = await self._eye.look(work)
            now = self._turns.clock()
            self._consequences.note(found, now)
            known = not found.busy and (found.error is None or _keeps_us_out(found))
            if not known:
                if found.busy:
                    self._timetable.retry_at = now + BUSY
                if not self._eye.stalled:
                    await self._eye.shut()
                return
            if self._in_doubt(found, now):
                await self._eye.shut()
                self._timetable.retry_at = now + 0.02
                return
            site.asked_at = began
            site.run_id = found.run_id
            if self._book.twin_of(site) is not None:
                # Before, for nothing may come between the book's making one of the two and the ledger's: who
                # registered then would be found to state more than is charged, as if a snapshot were lost.
                await self._eye.shut()
            target = self._book.is_resolved(site, found.run_id)
            if target is not site:
                self._hand_over(self._book.probes[target.id])
                return
            self._met_anew(found, now, began)
            if found.error is not None or self._timetable.sparing:
                await self._eye.shut()
        finally:
            for probe in borrowed:
                probe.permits.release()
            self._turns.touch()

    def _in_doubt(self, found: Findings, now: float) -> bool:
        """Whether it may be a known server that was restarted and has another run_id since: then that one is asked."""
        if self._site.resolved or not found.run_id:
            return False
        if self._met[0] != found.run_id:
            self._met = found.run_id, now
        met = self._met[1]
        doubtful = self._book.doubtful(self._site, min(met, _started(found, now)))
        for other in doubtful:
            self._book.probes[other.id].hurry()
        return bool(doubtful) and now < met + DOUBT

    def _met_anew(self, found: Findings, now: float, began: float) -> None:
        """It is a server of its own: who is there already, and what may be opened."""
        site = self._site
        self._unheard = self._count(found, now)
        if self._has_seen_all(found, now, began):
            self._ledger.searched(site.id)
        self._unheard_until = now + UNHEARD
        site.forbidden = dict(found.forbidden)
        for what, words in found.forbidden.items():
            log.warning("server.forbids", extra={"server": site.id, "command": what, "error": words})
        self._allowance.learn(found)
        self._allowance.apply(now, at_once=True)
        self._timetable.looked(now)  # only now is the budget known
        self._timetable.listed(now)
        if found.info.get("rejected_connections", "").isdecimal():
            site.rejected = int(found.info["rejected_connections"])
        self.release_held_raises(now)

    def _count(self, found: Findings, now: float) -> set[str]:
        """Charge what is there and bears our tags. The living processes among its holders that have not registered."""
        return census.take(
            found.rows or (),
            self._site.id,
            self._ledger,
            self._book.watch,
            scope=self._book.scope,
            boot=self._book.boot,
            now=now,
        )

    def search_again(self, found: Findings, now: float, began: float) -> None:
        """All members of the supervisor before have had time to register (:meth:`Ledger.whole`): what is found now is
        all there is. Who has not come is charged with it. Without a password that the server takes it is put off: who
        cannot log in has no use for a permit."""
        if self._has_seen_all(found, now, began):
            self._count(found, now)
            self._ledger.searched(self._site.id)
            self.release_held_raises(now)

    def _has_seen_all(self, found: Findings, now: float, began: float) -> bool:
        """Whether nothing that was opened before :meth:`Ledger.whole` can have been missed by a look begun then.

        It is known from a list after a fresh connection by every way, in which everybody of that time has a name.
        Where there can be none, bounded waits stand in, as for a proof (:mod:`poolmgr.supervisor.unproven`).
        """
        waited = began - self._book.whole_since
        if waited < 0:
            return False
        if "CLIENT LIST" in found.forbidden:
            return True
        if found.rows is None or not (found.fresh or (found.silent and waited > unproven.WAIT)):
            return False
        return not found.suspects or waited > self._timetable.handshake + 1  # ages are whole seconds

    def unite(self) -> None:
        """This site and another one are one server, which a restart or wrong credentials had concealed."""
        twin = self._book.twin_of(self._site)
        if twin is not None:
            probe = self._book.probes[twin.id]
            self._book.unite(self._site, twin)
            self._hand_over(probe)
            probe.hurry()

    def _hand_over(self, twin: Probe) -> None:
        """This site was another name of ``twin``'s, which takes what is left of it."""
        self._end()
        for name in self._site.unclosed:
            twin.site.unclosed.add(name)
            twin.permits.used += 1
        self._site.unclosed.clear()
        self._ledger.dissolve(self._site.id, twin.site.id)

    def release_held_raises(self, now: float) -> None:
        """After the census, and once those that were found have had time to register."""
        server = self._ledger.servers.get(self._site.id)
        if server is None or not server.held or not self._site.resolved:
            return
        if not self._unheard or now >= self._unheard_until:
            self._ledger.hold_raises(self._site.id, False)
            if not server.held:
                self._turns.touch()

    def held_until(self, now: float) -> float:
        """When to see again whether raises may be released; infinity: nobody is waited for."""
        return max(self._unheard_until, now + 0.1) if self._unheard else math.inf


def _started(found: Findings, now: float) -> float:
    """When the server was started, at the latest. What it says is the difference of two times in whole seconds (Redis'
    and Valkey's ``genRedisInfoString``), so one that says 1 may have been there for a moment only."""
    uptime = found.info.get("uptime_in_seconds", "")
    return now - max(0, int(uptime) - 1) if uptime.isdecimal() else now


def _keeps_us_out(found: Findings) -> bool:
    """The server is there, and takes none of the passwords that are known."""
    return found.answered and found.error is not None and found.error[0] == "auth"
