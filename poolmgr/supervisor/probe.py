"""The task that looks after one server: who it is, whether it is up, what may be freed.

It decides *when* to look and what for; the looking is done through :class:`poolmgr.supervisor.eye.Eye`,
and what comes out is fed to the ledger. With a small budget nothing is kept open between two looks.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from poolmgr import identity, wire
from poolmgr.supervisor import census
from poolmgr.supervisor.allowance import Allowance
from poolmgr.supervisor.eye import PATIENCE, Eye
from poolmgr.supervisor.health import Outages
from poolmgr.supervisor.inspection import Findings, Work
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.own import OwnPermits
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.unproven import Waits

if TYPE_CHECKING:
    from poolmgr.supervisor.book import Book

SMALL = 8
"""Below this budget no connection is kept."""

LOOK_EVERY, LIST_EVERY = 2.0, 5.0
"""Seconds between two looks at a server's limits, and at its list."""

SELDOM = 5
"""With a small budget, every look takes a permit from somebody: this many times more seldom."""


DOUBT = 2.0
"""Seconds for which a server that has just been restarted waits for the others to say that they are not it."""


class Probe:
    """See the module's docstring. One for each site; used in the event loop."""

    def __init__(self, site: Site, book: Book) -> None:
        settings = book.settings
        self.site = site
        self._book = book
        self._ledger = book.ledger
        self._turns = book.turns
        self.permits = OwnPermits(book.ledger, site.id, book.turns.touch, book.turns.clock)
        self._eye = Eye(site, book.ledger, self.permits, settings, book.serial, self._kept_ended)
        self._handshake = settings.socket_connect_timeout + settings.socket_timeout
        self.allowance = Allowance(site, book.ledger, settings, book.scope, self._descriptors)
        self._outages = Outages(site)
        self._waits = Waits(site, book.ledger, self.permits.release)
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._renew = False
        """What is kept is not to be trusted any more."""
        self._hurry = False
        self._look_at = 0.0
        self._list_at = 0.0
        self._retry_at = 0.0
        self._prove_at = 0.0
        self._unheard: set[str] = set()
        self._met = "", 0.0
        """The run_id that was found first, and when."""
        self.busy = False
        """In the middle of something."""
        self.unwanted = False
        """Nobody uses the server: keep nothing open, look no more."""
        self._ended = False

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())

    def wake(self) -> None:
        """Something may be due."""
        self._event.set()

    def hurry(self) -> None:
        """Look now: somebody has reported trouble."""
        self._hurry = True
        self._event.set()

    def exited(self, tag: str) -> None:
        """A process is gone."""
        self._unheard.discard(tag)
        self._prove_at = 0.0
        self._event.set()

    def registered(self, tag: str) -> None:
        self._unheard.discard(tag)
        self._event.set()

    def recalculate(self, *, at_once: bool = False) -> None:
        """Something that the budget depends on has changed."""
        if self.site.resolved:
            self.allowance.apply(self._turns.clock(), at_once=at_once)
            self._turns.touch()

    def _descriptors(self, tag: str) -> int:
        member = self._book.members.known.get(tag)
        return member.descriptors if member is not None else 0

    # ---- when ---------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while not self._ended:
            self._event.clear()
            now = self._turns.clock()
            self._release_held_raises(now)
            work = self._due(now)
            if work is None:
                await self._sleep(now)
                continue
            self.busy = True
            try:
                if self.site.resolved:
                    await self._go(work)
                else:
                    async with self._book.resolving:
                        await self._resolve(work)
            except asyncio.CancelledError:
                raise
            except Exception:  # one server's surprise must not end the care for it
                log.exception("probe.failed", extra={"server": self.site.id})
                self._retry_at = self._turns.clock() + 1.0
                await asyncio.sleep(0.2)
            finally:
                self.busy = False

    def _due(self, now: float) -> Work | None:
        site = self.site
        targets = self._targets()
        if not site.endpoints:
            self._waits.nobody_to_ask(targets, now, alone=self._book.stopping)
            return None
        if self._book.stopping and not site.health.up:
            self._waits.nobody_to_ask(targets, now, alone=True)
            targets = self._targets()
            if site.unclosed:
                return None  # one that is not answered is enough
        if self._stopping and self._eye.stalled:
            return Work(endpoints=())  # nobody needs to know when it answers
        if now < self._retry_at and not (self._hurry and site.health.up):
            return None
        if not site.resolved:
            if self._stopping and not targets:
                return None
            return Work(endpoints=site.endpoints, fresh=True, facts=True, listing=True, handshake=self._handshake)
        proving = bool(targets) and now >= self._prove_at
        stopping = self._stopping
        facts = not stopping and (self._hurry or now >= self._look_at)
        listing = not stopping and ((self._hurry and site.refused) or now >= self._list_at)
        if not (proving or facts or listing):
            if stopping and self._eye.holding:
                return Work(endpoints=())  # close what is kept
            return None
        return Work(
            endpoints=site.endpoints,
            targets=targets if proving else frozenset(),
            fresh=proving or self._renew,
            facts=facts,
            listing=listing,
            handshake=self._handshake,
        )

    @property
    def _stopping(self) -> bool:
        return self._book.stopping or self.unwanted

    def _targets(self) -> frozenset[str]:
        """Everything whose end is to be proven, as of now."""
        server = self._ledger.servers[self.site.id]
        gone = {tag for tag, entry in server.quarantine.items() if entry.exited}
        return frozenset(gone | self.site.lost.keys() | self.site.unclosed)

    async def _sleep(self, now: float) -> None:
        site = self.site
        if not site.resolved or not site.endpoints:
            until = max(self._retry_at, now + 0.05) if site.endpoints else now + 0.5
        else:
            until = min(self._look_at, self._list_at) if not self._stopping else now + 5.0
            if self._targets():
                until = min(until, self._prove_at)
            if self._unheard or self._book.grace > now:
                until = min(until, max(self._book.grace, now + 0.1))
            until = max(until, self._retry_at)
        try:
            async with asyncio.timeout(max(0.001, until - now)):
                await self._event.wait()
        except TimeoutError:
            pass

    def _seldom(self) -> int:
        return SELDOM if self._ledger.servers[self.site.id].budget < SMALL else 1

    # ---- looking ------------------------------------------------------------------------------------

    async def _go(self, work: Work) -> None:
        """One look at a resolved server."""
        now = self._turns.clock()
        if not work.endpoints:
            await self._eye.shut()
            return
        if not await self._eye.permit():
            now = self._turns.clock()
            self._retry_at = now + (0.0 if self._waits.no_permit(work.targets, now) else 0.2)
            self._book.turns.touch()
            return
        self._hurry = False
        began = self._turns.clock()
        found = await self._eye.look(work)
        now = self._turns.clock()
        once_more = not work.fresh and not self._eye.stalled
        if found.error is not None and once_more and found.error[0] == "unreachable":
            self._renew = True  # it may be this connection only
            return
        self._renew = False
        self._note(found, now)
        if found.run_id or not found.answered:
            self.site.asked_at = began
        if found.error is None or found.answered:
            self._feed(work, found, now)
        if self._book.twin_of(self.site) is not None:
            await self._unite()
            return
        budget = self._ledger.servers[self.site.id].budget
        if (budget < SMALL or self._stopping or found.error is not None) and not self._eye.stalled:
            await self._eye.shut()
        self._turns.touch()

    def _kept_ended(self) -> None:
        """An outage is seen at once, and so is its end when the server had stalled."""
        self._renew = True
        self._retry_at = 0.0
        self.hurry()

    # ---- what came out ------------------------------------------------------------------------------

    def _note(self, found: Findings, now: float) -> None:
        """Health, and when to look again."""
        site = self.site
        seldom = self._seldom()
        if found.server_pid:
            site.server_process = found.server_pid, identity.start_time(found.server_pid)
        site.address = found.address or site.address
        if found.answered or (found.error is not None and found.error[0] == "refused"):
            if self._outages.answered():
                self._book.members.broadcast(site, self._book.health_of(site))
            self._waits.answered(now)
            self._look_at = now + LOOK_EVERY * seldom
            if found.rows is not None or found.forbidden:
                self._list_at = now + LIST_EVERY * seldom
            if found.error is not None:
                self._retry_at = now + self._outages.pause()
        else:
            text = found.error[1] if found.error is not None else "a connection of our own did not close"
            if found.error is not None and self._outages.failed(text):
                self._book.members.broadcast(site, self._book.health_of(site))
            self._retry_at = now + self._outages.pause()
            if found.deserted and self._server_is_gone():
                self._free(self._targets(), now)

    def _server_is_gone(self) -> bool:
        """Whether the very process that held the other ends has ended: a proof for all of them at once, while
        nobody listens there. Who listens there may be its successor, to which members may have connected.

        That nobody listens proves nothing by itself: a server closes its listeners in the middle of its life
        (CONFIG SET port, the first moment of SHUTDOWN), and a proxy, a firewall or an address that has moved
        refuses while the connections behind it live on.
        """
        known = self.site.server_process
        if known is None or known[1] == 0:
            return False
        now = identity.start_time(known[0])
        # 0 stands for "cannot look" too, when descriptors are short.
        return now != known[1] if now else not os.path.lexists(f"/proc/{known[0]}")

    def _feed(self, work: Work, found: Findings, now: float) -> None:
        """What is proven is free; what has changed changes the budget."""
        site = self.site
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
        self._free(found.gone, now)
        if work.targets:
            self._waits.looked(
                work.targets - found.gone,
                now,
                fresh=found.fresh or found.silent,
                blind=found.rows is None or found.silent,
            )
            left = self._targets()
            self._prove_at = now + (0.05 if left else 0.0) if left & work.targets else 0.0
        if found.info or found.rows is not None or "INFO" in found.forbidden:
            rejected = found.info.get("rejected_connections", "")
            rose = rejected.isdecimal() and site.rejected is not None and int(rejected) > site.rejected
            if rejected.isdecimal():
                site.rejected = int(rejected)
            self.allowance.learn(found)
            if site.refused or rose or (found.error is not None and found.error[0] == "refused"):
                site.refused = False
                self.allowance.refused(found, now)
            self.allowance.apply(now)

    def _free(self, gone: frozenset[str], now: float) -> None:
        """The server shows none of these any more (rule S3)."""
        site = self.site
        told: dict[str, list[int]] = {}
        for name in gone:
            if name in site.unclosed:
                site.unclosed.discard(name)
                self.permits.release()
            elif site.lost.pop(name, None) is not None:
                tag, _, serial = name.rpartition("-")
                told.setdefault(tag, []).append(int(serial))
            else:
                self._ledger.proven(site.id, name, now)
        for tag, serials in told.items():
            self._book.members.send(tag, wire.Gone(site.id, tuple(serials)))

    # ---- who it is ----------------------------------------------------------------------------------

    async def _resolve(self, work: Work) -> None:
        """Learn the run_id, with a permit of every server that it might turn out to be."""
        if self.site.resolved or self._ended:
            return
        server = self._ledger.servers[self.site.id]
        now = self._turns.clock()
        if server.budget < max(1, server.outstanding):
            self._ledger.set_budget(self.site.id, max(1, server.outstanding), now)
        lenders = [p for p in self._book.probes.values() if p is not self and p.site.resolved]
        lent = await asyncio.gather(*(p.permits.acquire(PATIENCE) for p in lenders))
        borrowed = [p for p, granted in zip(lenders, lent, strict=True) if granted]
        twin: Probe | None = None
        try:
            if not await self._eye.permit():
                # What members state fills all that we know of: there must be one more.
                self._ledger.set_budget(self.site.id, server.outstanding + 1, self._turns.clock())
                self._turns.touch()
                return
            self._hurry = False
            found = await self._eye.look(work)
            now = self._turns.clock()
            self._note(found, now)
            known = found.error is None or (found.error[0] == "auth" and found.answered)
            if not known:
                if not self._eye.stalled:
                    await self._eye.shut()
                return
            if self._in_doubt(found, now):
                await self._eye.shut()
                self._retry_at = now + 0.02
                return
            self.site.asked_at = now
            target = self._book.is_resolved(self.site, found.run_id) if not self.site.resolved else self.site
            if target is not self.site:
                twin = self._book.probes[target.id]
                await self._eye.shut()
                self._hand_over(twin)
                return
            self._unheard = census.take(
                found.rows or (),
                self.site.id,
                self._ledger,
                self._book.watch,
                scope=self._book.scope,
                boot=self._book.boot,
                now=now,
            )
            if self._unheard and self._book.grace < now:
                self._book.grace = now + 2.0
            self.site.forbidden = dict(found.forbidden)
            for what, words in found.forbidden.items():
                log.warning("server.forbids", extra={"server": self.site.id, "command": what, "error": words})
            self.allowance.learn(found)
            self.allowance.apply(now, at_once=True)
            self._look_at = now + LOOK_EVERY * self._seldom()  # only now is the budget known
            self._list_at = now + LIST_EVERY * self._seldom()
            if found.info.get("rejected_connections", "").isdecimal():
                self.site.rejected = int(found.info["rejected_connections"])
            self._release_held_raises(now)
            if found.error is not None or server.budget < SMALL:
                await self._eye.shut()
        finally:
            for probe in borrowed:
                probe.permits.release()
            self._turns.touch()

    def _in_doubt(self, found: Findings, now: float) -> bool:
        """Whether it may be a known server that was restarted and has another run_id since: then that one is asked."""
        if self.site.resolved or not found.run_id:
            return False
        if self._met[0] != found.run_id:
            self._met = found.run_id, now
        met = self._met[1]
        uptime = found.info.get("uptime_in_seconds", "")
        doubtful = self._book.doubtful(self.site, min(met, now - int(uptime)) if uptime.isdecimal() else met)
        for other in doubtful:
            self._book.probes[other.id].hurry()
        return bool(doubtful) and now < met + DOUBT

    async def _unite(self) -> None:
        """This site and another one are one server, which a restart or wrong credentials had concealed."""
        await self._eye.shut()
        async with self._book.resolving:  # nobody has borrowed our permits
            twin = self._book.twin_of(self.site)
            if twin is not None and not self._ended:
                probe = self._book.probes[twin.id]
                self._book.unite(self.site, twin)
                self._hand_over(probe)
                probe.hurry()
        self._turns.touch()

    def _hand_over(self, twin: Probe) -> None:
        """This site was another name of ``twin``'s, which takes what is left of it."""
        self._ended = True
        self._eye.stop()
        for name in self.site.unclosed:
            twin.site.unclosed.add(name)
            twin.permits.used += 1
        self.site.unclosed.clear()
        self._ledger.dissolve(self.site.id, twin.site.id)

    def _release_held_raises(self, now: float) -> None:
        """After the census, and once the members of an earlier supervisor have had time to register."""
        server = self._ledger.servers.get(self.site.id)
        if server is None or not server.held or not self.site.resolved:
            return
        if now >= self._book.grace or (not self._unheard and not self._book.lost_snapshot):
            self._ledger.hold_raises(self.site.id, False)
            self._turns.touch()

    # ---- the end ------------------------------------------------------------------------------------

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
