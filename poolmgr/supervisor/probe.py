"""The task that looks after one server: who it is, whether it is up, what may be freed.

It runs the parts, each of which is one idea: :mod:`~poolmgr.supervisor.timetable` says *when* to look and
what for, the looking is done through :class:`poolmgr.supervisor.eye.Eye`, what comes out is taken by
:mod:`~poolmgr.supervisor.consequences`, and :mod:`~poolmgr.supervisor.resolution` finds out who the server
is. It must never block the event loop, nor end with a surprise of its server's. With a small budget nothing
is kept open between two looks.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from poolmgr.supervisor.allowance import Allowance
from poolmgr.supervisor.consequences import Consequences
from poolmgr.supervisor.endings import Endings
from poolmgr.supervisor.eye import Eye
from poolmgr.supervisor.inspection import Work
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.own import OwnPermits
from poolmgr.supervisor.resolution import Resolution
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.timetable import AGAIN, BUSY, Timetable
from poolmgr.supervisor.unproven import Waits

if TYPE_CHECKING:
    from poolmgr.supervisor.book import Book


class Probe:
    """See the module's docstring. One for each site; used in the event loop."""

    def __init__(self, site: Site, book: Book) -> None:
        settings = book.settings
        self.site = site
        self._book = book
        self._turns = book.turns
        self.permits = OwnPermits(book.ledger, site.id, book.turns.touch, book.turns.clock)
        self._eye = Eye(site, book.ledger, self.permits, settings, book.serial, self._kept_ended)
        self.allowance = Allowance(site, book.ledger, settings, book.scope, self._descriptors)
        self._timetable = Timetable(site, book.ledger, settings.socket_connect_timeout + settings.socket_timeout)
        self._waits = Waits(site, book.ledger, self.permits.release, self._search)
        self._endings = Endings(site, book, self.permits)
        self._consequences = Consequences(
            site,
            book,
            allowance=self.allowance,
            endings=self._endings,
            timetable=self._timetable,
            waits=self._waits,
        )
        self._resolution = Resolution(
            site,
            book,
            eye=self._eye,
            allowance=self.allowance,
            timetable=self._timetable,
            consequences=self._consequences,
            no_permit=lambda now: self._waits.no_permit(self._endings.targets(), now),
            end=self._merged,
        )
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        """In the middle of something."""
        self.unwanted = False
        """Nobody uses the server: keep nothing open, look no more."""
        self._ended = False

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    # ---- events -------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something may be due."""
        self._event.set()

    def hurry(self) -> None:
        """Look now: somebody has reported trouble."""
        self._timetable.hurry = True
        self._event.set()

    def exited(self, tag: str) -> None:
        """A process is gone."""
        self._resolution.heard(tag)
        self._timetable.prove_at = 0.0
        self._event.set()

    def registered(self, tag: str) -> None:
        self._resolution.heard(tag)
        self._event.set()

    def recalculate(self, *, at_once: bool = False) -> None:
        """Something that the budget depends on has changed."""
        if self.site.resolved:
            self.allowance.apply(self._turns.clock(), at_once=at_once)
            self._turns.touch()

    def _search(self) -> None:
        """What was charged here is free without a proof."""
        self._book.whole_since = self._turns.clock()
        self._book.ledger.search_anew(self.site.id)
        self._turns.touch()

    def _descriptors(self, tag: str) -> int:
        member = self._book.members.known.get(tag)
        return member.descriptors if member is not None else 0

    def _kept_ended(self) -> None:
        """An outage is seen at once, and so is its end when the server had stalled."""
        self._timetable.renew = True
        self._timetable.retry_at = 0.0
        self.hurry()

    # ---- the task -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._ended:
            self._event.clear()
            now = self._turns.clock()
            self._resolution.release_held_raises(now)
            work = self._due(now)
            if work is None:
                await self._sleep(now)
                continue
            self.busy = True
            try:
                if not work.endpoints:
                    await self._eye.shut()
                elif self.site.resolved:
                    await self._go(work)
                else:
                    async with self._book.resolving:
                        if not self.site.resolved and not self._ended:
                            await self._resolution.resolve(work)
            except asyncio.CancelledError:
                raise
            except Exception:  # one server's surprise must not end the care for it
                log.exception("probe.failed", extra={"server": self.site.id})
                self._timetable.retry_at = self._turns.clock() + 1.0
                await asyncio.sleep(0.2)
            finally:
                self.busy = False

    def _due(self, now: float) -> Work | None:
        site = self.site
        targets = self._endings.targets()
        if not site.endpoints:
            self._waits.nobody_to_ask(targets, now, alone=self._book.stopping)
            return None
        if self._book.stopping and not site.health.up:
            self._waits.nobody_to_ask(targets, now, alone=True)
            targets = self._endings.targets()
            if site.unclosed:
                return None  # one that is not answered is enough
        return self._timetable.due(
            now, targets, stopping=self._stopping, stalled=self._eye.stalled, holding=self._eye.holding
        )

    @property
    def _stopping(self) -> bool:
        return self._book.stopping or self.unwanted

    async def _sleep(self, now: float) -> None:
        until = self._timetable.until(
            now, self._endings.targets(), stopping=self._stopping, held_until=self._resolution.held_until(now)
        )
        try:
            async with asyncio.timeout(max(0.001, until - now)):
                await self._event.wait()
        except TimeoutError:
            pass

    async def _go(self, work: Work) -> None:
        """One look at a resolved server."""
        if not await self._eye.permit():
            now = self._turns.clock()
            self._timetable.retry_at = now + (0.0 if self._waits.no_permit(work.targets, now) else 0.2)
            self._book.turns.touch()
            return
        self._timetable.hurry = False
        began = self._turns.clock()
        searching = work.fresh and work.listing and self._book.ledger.servers[self.site.id].search
        found = await self._eye.look(work)
        now = self._turns.clock()
        once_more = not work.fresh and not self._eye.stalled
        if found.error is not None and once_more and found.error[0] == "unreachable":
            self._timetable.renew = True  # it may be this connection only
            return
        self._timetable.renew = False
        self._consequences.note(found, now)
        if found.run_id or not found.answered:
            self.site.asked_at = began
        if found.error is None or found.answered:
            self._consequences.feed(work, found, now)
            if searching:
                self._timetable.search_at = now + (BUSY if found.busy else AGAIN)
                self._resolution.search_again(found, now, began)
        if self._book.twin_of(self.site) is not None:
            await self._unite()
            return
        if (self._timetable.sparing or self._stopping or found.error is not None) and not self._eye.stalled:
            await self._eye.shut()
        self._turns.touch()

    async def _unite(self) -> None:
        await self._eye.shut()
        async with self._book.resolving:  # nobody has borrowed our permits
            if not self._ended:
                self._resolution.unite()
        self._turns.touch()

    # ---- the end ------------------------------------------------------------------------------------

    def _merged(self) -> None:
        """The site was another name of one that has a probe of its own."""
        self._ended = True
        self._eye.stop()

    def cancel(self) -> None:
        """Nobody uses the server and nothing is open there: end."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()
        self._eye.stop()

    async def close(self) -> None:
        """Stop looking and close what is kept."""
        self._ended = True
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        await self._eye.shut()
        self._eye.stop()
