"""The supervisor put together: restored from the snapshot, open to members, ended when no client is left.

Each part has a file of its own; this one connects them and decides when the process ends. It ends by itself only with
nothing charged and nothing in quarantine, and then leaves no file behind; not at all with ``POOLMGR_LINGER=forever``.
On SIGTERM it ends at once: the snapshot says everything to its successor.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import signal
import socket
from typing import TYPE_CHECKING

from poolmgr import own_tag, tags
from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.budget.ledger import Ledger
from poolmgr.fleet import script
from poolmgr.kernel import nofile, processes
from poolmgr.settings import Settings
from poolmgr.supervisor.clients.footprint import Footprints
from poolmgr.supervisor.clients.link import Link
from poolmgr.supervisor.clients.listener import Listener
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.clients.watch import Watch
from poolmgr.supervisor.committer import Committer
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.disk import snapshot
from poolmgr.supervisor.disk.scope import Scope
from poolmgr.supervisor.disk.singleton import Singleton, UnfitError
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.notify import Notify
from poolmgr.supervisor.pictures import Pictures
from poolmgr.supervisor.registrar import Registrar
from poolmgr.supervisor.upstreams.belonging import Belonging
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.views.audit import Audit
from poolmgr.supervisor.views.queries import Queries

if TYPE_CHECKING:
    from poolmgr.supervisor.views.exposition import MetricsServer

TICK = 0.5
"""Seconds between two checks of what has no event: processes that exec, silent clients, the end."""

SIGN = 0.5
"""Seconds between two signs of life."""

BRIEFLY = 3.0
"""Seconds, at most, that it outlives a last client that was not a service and said goodbye: scripts that run in
sequence then find it."""

FIRST_CLIENT = 10.0
"""Seconds a new supervisor waits for its first client."""

LAST_CLOSE = 1.5
"""Seconds to close own connections on SIGTERM."""


class Supervisor:
    """One supervisor; :meth:`run` returns when it has ended.

    Args:
        group: id of a group that may connect too.
    """

    def __init__(
        self, settings: Settings, singleton: Singleton, listener: socket.socket, *, group: int | None = None
    ) -> None:
        self.settings = settings
        self.path = singleton.path
        self._stays = settings.linger == math.inf  # it ends by a signal only
        self.notes: list[str] = []
        self.astray = ""
        """Why new processes cannot find us; empty: they can."""
        self._singleton = singleton
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._superseded = False
        self.started = self._loop.time()
        limit = nofile.raise_limit()
        self._tag = own_tag.make(self.path)
        found = tags.find(self._tag)
        assert found is not None
        self.scope = Scope(self.path)
        self.watch = Watch(self._loop)
        self.roster = Roster()
        file = self.path + ".snapshot"
        self._writer = snapshot.Writer(file, found.place, singleton.ours, singleton.note)
        self.ledger = self._restored(
            Identity(self._tag, found.pid, found.start, processes.program(found.pid), "supervisor")
        )
        self.ledger.scopes = dict.fromkeys((self._scope(), *self.ledger.scopes))
        self.committer = Committer(
            self.ledger,
            self._writer,
            deliver=self.roster.deliver,
            superseded=self._leave_at_once,
            settled=self._settled,
        )
        context = Context(
            self.ledger,
            self.committer,
            settings,
            self.roster,
            self.watch,
            Belonging(self.ledger, found.place, found.boot, self.path),
            self.scope,
            serial=itertools.count(1),
        )
        self.registry = Registry(context)
        self.committer.granted = self.registry.granted
        self.committer.saved = self.registry.saved
        self.audit = Audit(self.registry)
        self.pictures = Pictures(context, self.registry)
        self.registrar = Registrar(
            context,
            self.registry,
            self.pictures,
            boot=found.boot,
            lock=singleton.identity(),
            budget=str(settings.budget),
            closed=self._link_closed,
        )
        self.watch.gone = self.registrar.gone
        self.listener = Listener(listener, self.registrar, descriptors=limit, group=group, came=self._link_came)
        self._alone_since: float | None = None if self._stays else self.started + FIRST_CLIENT
        self.footprints = Footprints(self.started)
        self._queries = Queries(
            self.path, self.ledger, self.committer, self.registry, self.roster, self.footprints, self.listener,
            self.audit, lambda: [self.astray, *self.notes],
        )  # fmt: skip
        self.registrar.answer = self._queries.answer
        self._notify = Notify()
        self._exposition: MetricsServer | None = None
        self._signs = 0.0

    # ---- the beginning ------------------------------------------------------------------------------

    def _restored(self, owner: Identity) -> Ledger:
        """The ledger as the previous supervisor left it (rule S4)."""
        fleet = script.key(self.settings.fleet) if self.settings.fleet else ""
        saved: Saved | None = None
        newest, lost = 0, False
        try:
            newest = snapshot.marked(self._singleton.noted())
            self._writer.continue_after(newest)
            saved = snapshot.read(self._writer.path, self.scope.text, newest)
        except snapshot.UnusableError as error:
            lost = error.reason != "boot" or newest > 0  # no process survives a boot
            log.warning("snapshot.unusable", extra={"reason": error.reason, "detail": str(error)})
            self.notes.append(f"the snapshot could not be used ({error}): a census was taken instead")
        if saved is None:
            ledger = Ledger(owner=owner, fleet=fleet)
            if lost:
                ledger.mark_partial()
            return ledger
        ledger = recovery.restored(saved, self._loop.time(), alive=self._lives, owner=owner, fleet=fleet)
        for entry in ledger.quarantined():
            if not entry.exited and not self._lives(_process(entry.tag)):  # found by a census, and ended since
                ledger.exited(entry.tag, self._loop.time())
        log.info(
            "snapshot.restored",
            extra={"members": len(ledger.members), "servers": len(ledger.servers), "from": saved.owner.pid},
        )
        return ledger

    def _scope(self) -> str:
        """The ledger's scope. The scope's file may be lost while the snapshot is not."""
        if not self.scope.text and self.ledger.scopes:
            self.scope.use(next(iter(self.ledger.scopes)))
        return self.scope.make()

    def _lives(self, process: Identity) -> bool:
        """Whether a listed process still runs; if so, follow it from here on."""
        return processes.lives(process) and self.watch.add(process)

    async def run(self) -> None:
        """Serve until the end."""
        self.registry.restore()
        self.committer.touch()
        self._give_sign()
        self.listener.open()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._ended.set)
        ticking = self._loop.create_task(self._tick())
        log.info("supervisor.started", extra={"socket": self.path, "budget": str(self.settings.budget)})
        self._notify(READY="1", STATUS=f"listening on {self.path}")
        self._serve_metrics()
        try:
            await self._ended.wait()
        finally:
            ticking.cancel()
        await self._end()

    def _serve_metrics(self) -> None:
        if self.settings.metrics is not None:
            from poolmgr.supervisor.views.exposition import MetricsServer  # an HTTP server is slow to load

            self._exposition = MetricsServer(self.settings.metrics, self._queries.reading)
            self._exposition.start()

    # ---- the end ------------------------------------------------------------------------------------

    def _link_came(self, link: Link) -> None:
        self._alone_since = None
        self.registry.resume()

    def _link_closed(self, link: Link) -> None:
        self.listener.links.discard(link)
        if not self.listener.links and self._alone_since is None and not self._stays:
            linger = min(self.settings.linger, BRIEFLY) if self.registrar.left else self.settings.linger
            if self.registrar.service_left:
                linger = 0.0
            self._alone_since = self._loop.time() + linger
            self._loop.call_later(linger + 0.001, self._perhaps_end)

    def _perhaps_end(self) -> None:
        """End if no client is left and nothing is charged; first close the kept connections and prove the open ends."""
        if self._alone_since is None or self.listener.links or self._loop.time() < self._alone_since:
            return
        self.registry.stop()
        if self.ledger.idle and not self.registry.leased and not self.listener.knocks():
            self._ended.set()

    def _settled(self) -> None:
        """A turn is over: refuse members that got less than they asked for; an obstacle to our end may be gone."""
        self.pictures.stuck(self.committer.unwritten)
        self.pictures.refuse()
        self.registry.settled()
        if self._alone_since is not None and not self._ended.is_set():
            self._perhaps_end()

    def _leave_at_once(self) -> None:
        self._superseded = True
        log.error("supervisor.superseded", extra={"socket": self.path})
        self._ended.set()

    async def _end(self) -> None:
        if self._superseded:
            self.committer.close()
            return
        self._notify(STOPPING="1")
        self.footprints.close()
        if self._exposition is not None:
            self._exposition.stop()
        self.listener.close()
        await self.registry.close(LAST_CLOSE)
        if self.ledger.idle:
            self.committer.close()
            self._writer.remove()
            self.scope.remove()
            self._singleton.remove()
            log.info("supervisor.ended", extra={"charged": 0})
        else:
            self.committer.run()
            self.committer.close()
            charged = sum(server.outstanding for server in self.ledger.servers.values())
            log.info("supervisor.ended", extra={"charged": charged})
        self._writer.close()

    # ---- from time to time ----------------------------------------------------------------------------

    def _give_sign(self) -> None:
        self._singleton.give_sign()
        self._loop.call_later(SIGN, self._give_sign)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.watch.tick()
            self.registrar.tick(self.listener.links)
            self.pictures.tick()
            self.registry.tick()
            now = self._loop.time()
            self._perhaps_end()
            self.footprints.tick({member.identity.pid for member in self.roster.known.values()}, now)
            await self.audit.tick(now)
            if self._notify.watchdog and now - self._signs >= self._notify.watchdog:
                self._signs = now
                self._notify(WATCHDOG="1", STATUS=self._summary())
            if not self._singleton.ours():
                self._leave_at_once()
            elif not self._ended.is_set():
                self._be_found()

    def _be_found(self) -> None:
        """If the socket's file is gone or replaced, make it again, under the lock that is still ours.

        Members stay connected meanwhile, so nothing is lost. Ending, and leaving it to a successor, would cost each of
        them a registration. Only systemd may make systemd's file.
        """
        if not self._singleton.astray():
            self.astray = ""
            return
        why = "another file is in its place" if os.path.lexists(self.path) else "its file was removed"
        try:
            if self._singleton.passed:
                raise UnfitError(f"{self.path} is systemd's, and {why}: systemctl restart poolmgr.socket")
            self.listener.move(self._singleton.listen())
        except UnfitError as error:
            if not self.astray:
                log.warning("socket.astray", extra={"socket": self.path, "reason": why, "remedy": str(error)})
            self.astray = f"new processes cannot find this supervisor: {error}"
        else:
            self.astray = ""
            log.warning("socket.restored", extra={"socket": self.path, "reason": why})

    def _summary(self) -> str:
        """What ``systemctl status`` shows."""
        servers = [server for server in self.ledger.servers.values() if not server.held]
        reports = [account.report for server in servers for account in server.accounts.values() if account.report]
        return (
            f"budget {sum(server.budget for server in servers)}"
            f"{f' of {len(servers)} servers' if len(servers) > 1 else ''}, {len(self.roster.known)} members, "
            f"{sum(report.in_use for report in reports)} in use, {sum(report.waiting for report in reports)} waiting"
        )


def _process(name: str) -> Identity:
    """The process of a tag, as the program it runs now."""
    tag = tags.find(name)
    if tag is None:
        return Identity(name, 0)
    return Identity(name, tag.pid, tag.start, processes.program(tag.pid))
