"""The servers: which endpoint is which server, and what members report about reaching them.

A server is its ``run_id``: ``localhost``, an address, a name and a Unix path of one server share one
ledger. So an endpoint that is new is *resolved* first, by asking the server behind it; until then
nobody is told its id and nothing is opened by anybody. One at a time is resolved, and with a permit
borrowed from every server it might turn out to be, so that even the question stays within the budget.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from poolmgr import wire
from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.probe import Probe
from poolmgr.supervisor.processes import Watch
from poolmgr.supervisor.site import Site
from poolmgr.supervisor.turn import Turns

if TYPE_CHECKING:
    from poolmgr.supervisor.members import Members

MOST_SITES = 1024
"""Servers known at the same time: each has a task and a thread."""

MOST_NAMES = 8 * MOST_SITES
"""Names of all of them together: a server can have many, and who made them up is not known."""

UNUSED, UNREACHED = 60.0, 5.0
"""Seconds after which a server that nobody uses is forgotten; one that nobody has reached."""

GRACE = 2.0
"""Seconds for which nothing is raised after a snapshot was lost, so that the members of the supervisor
before can register. What stands in for the proof: nobody knows who they are."""


class Book:
    """All sites and their probes."""

    def __init__(
        self,
        ledger: Ledger,
        turns: Turns,
        settings: Settings,
        watch: Watch,
        *,
        scope: str,
        boot: str,
        serial: Iterable[int],
    ) -> None:
        self.ledger = ledger
        self.turns = turns
        self.settings = settings
        self.watch = watch
        self.scope = scope
        self.boot = boot
        self.serial = serial
        self.sites: dict[str, Site] = {}
        self.probes: dict[str, Probe] = {}
        self.by_key: dict[str, Site] = {}
        self.resolving = asyncio.Lock()
        self.stopping = False
        self.members: Members
        self._waited = False
        """After a lost snapshot: for those of whom nothing is known."""
        self.whole_since = turns.clock()
        """Since when no process of which nothing is known opens anything."""

    # ---- sites ------------------------------------------------------------------------------------

    def restore(self) -> None:
        """A site for each server that the snapshot knew. Its identity is known from there."""
        if self.ledger.partial:
            self._wait()
        for server in list(self.ledger.servers.values()):
            site = self._new(server.id, server.aliases)
            site.run_id = server.run_id
            site.operator = server.operator
            if server.run_id:
                site.resolved = True
                site.governor.budget = server.budget
                self.probes[server.id].allowance.restored(self.turns.clock())
                self.ledger.hold_raises(server.id, False)

    def _new(self, server: str, keys: Iterable[str]) -> Site:
        site = self.sites[server] = Site(server)
        self.ledger.server(server, aliases=keys)
        site.used = self.turns.clock()
        for key in {server, *keys}:
            self.by_key.setdefault(key, site)
        self.probes[server] = Probe(site, self)
        self.probes[server].start()
        return site

    def _full(self) -> bool:
        """No server that is not known yet can be taken in."""
        return len(self.sites) >= MOST_SITES or len(self.by_key) >= MOST_NAMES

    def site_for(self, endpoint: wire.Endpoint) -> Site | None:
        """The site behind an endpoint; a new one, to be resolved, if nobody knows it. None: there are
        too many already."""
        site = self.by_key.get(endpoint.key)
        if site is None:
            if self._full():
                return None
            site = self._new(endpoint.key, (endpoint.key,))
            log.info("server.new", extra={"server": site.id})
        site.used = self.turns.clock()
        self.probes[site.id].unwanted = False
        no_news = site.run_id or "INFO" in site.forbidden or endpoint in site.ways.get(endpoint.key, ())
        if site.resolved and not no_news:  # with these credentials it may say who it is
            site.resolved = False
            self.ledger.hold_raises(site.id, True)
            self.probes[site.id].hurry()
        if site.learn(endpoint) or not site.resolved:
            self.probes[site.id].wake()
        return site

    def held(self, hold: wire.Hold) -> Site | None:
        """The site of something that a member says it holds. None: there are too many already, and it is not
        remembered. That overspends nothing: at a server that is not known nothing is raised, and when it becomes
        known it is searched for our connections first."""
        site = self.by_key.get(hold.server)
        for key in hold.endpoints:
            site = site or self.by_key.get(key)
        if site is None:
            if self._full():
                return None
            site = self._new(hold.server, ())
        room = max(0, MOST_NAMES - len(self.by_key))
        new = [key for key in hold.endpoints if key not in self.by_key][:room]
        self.by_key.update(dict.fromkeys(new, site))
        self.ledger.server(site.id, aliases=[key for key in hold.endpoints if self.by_key.get(key) is site])
        return site

    def find(self, name: str) -> Site | None:
        """The site that a person means: an id, another key, or ``host:port``."""
        for key in (name, f"tcp://{name}", f"unix://{name}"):
            if key in self.by_key:
                return self.by_key[key]
        return None

    def is_resolved(self, site: Site, run_id: str) -> Site:
        """``site`` has said who it is. The site it turned out to be: itself, or one known by another key."""
        site.run_id = run_id
        twin = self.twin_of(site)
        waiting, site.waiting = site.waiting, []
        if twin is not None:
            self._merge(site, twin)
        else:
            site.resolved = True
        self.ledger.server((twin or site).id, run_id=run_id)
        target = twin or site
        log.info("server.resolved", extra={"server": target.id, "endpoint": site.id, "run_id": run_id})
        for tag, key in waiting:
            self.members.resolved(target, tag, key)
        return target

    def twin_of(self, site: Site) -> Site | None:
        """The resolved site that is the same server: by run_id, or by address where one of them has not said
        its run_id, or cannot be asked for it yet."""
        run_id, address = site.run_id, site.address
        key = f"tcp://{address[0]}:{address[1]}" if address else ""
        for other in self.sites.values():
            if other is site or not other.resolved:
                continue
            if run_id and other.run_id == run_id:
                return other
            if address and not (run_id and other.run_id) and other.address == address:
                return other
            if key and not other.endpoints and self.by_key.get(key) is other:
                return other
        return None

    def doubtful(self, site: Site, since: float) -> list[Site]:
        """Sites that may be the same server as ``site``, for it may have been restarted since they last said
        who they are. Those that nobody has an endpoint for count while a living member holds something."""
        return [
            other
            for other in self.sites.values()
            if other is not site
            and other.resolved
            and other.run_id
            and other.asked_at <= since
            and (other.endpoints or self.ledger.servers[other.id].charged)
        ]

    def unite(self, site: Site, twin: Site) -> None:
        """Both are resolved, and it turns out that they are one server. Their members are told."""
        log.warning("server.united", extra={"server": twin.id, "endpoint": site.id, "run_id": site.run_id})
        self._merge(site, twin)
        self.ledger.server(twin.id, run_id=twin.run_id)

    def _merge(self, site: Site, twin: Site) -> None:
        """``site`` is another name of ``twin``."""
        for key in site.ways:
            for endpoint in reversed(site.ways[key]):
                twin.learn(endpoint)
        for key, other in list(self.by_key.items()):
            if other is site:
                self.by_key[key] = twin
        self.ledger.server(twin.id, aliases=site.ways)
        twin.run_id = site.run_id or twin.run_id
        twin.lost.update(site.lost)
        del self.sites[site.id]
        del self.probes[site.id]
        for tag in self.ledger.servers[site.id].accounts:
            for key in site.ways:
                self.members.send(tag, wire.Resolved(key, twin.id))

    # ---- events -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Forget servers that nobody uses. Called a few times a second."""
        now = self.turns.clock()
        for site in list(self.sites.values()):
            server = self.ledger.servers[site.id]
            probe = self.probes[site.id]
            if server.accounts or server.quarantine or site.waiting or site.lost or site.unclosed:
                site.used = now
                probe.unwanted = False
            elif now - site.used > (UNUSED if site.resolved else UNREACHED):
                if not probe.unwanted:
                    probe.unwanted = True  # it closes what it keeps, and looks no more
                    probe.wake()
                elif not probe.busy and server.outstanding == 0:
                    self._forget(site)

    def _forget(self, site: Site) -> None:
        """Nobody uses it and nothing is charged there."""
        log.info("server.forgotten", extra={"server": site.id})
        self.probes.pop(site.id).cancel()
        del self.sites[site.id]
        self.by_key = {key: other for key, other in self.by_key.items() if other is not site}
        self.ledger.strike(site.id)
        self.members.totals.forget(site.id)

    def granted(self, server: str) -> None:
        """A turn has granted a connection of our own."""
        probe = self.probes.get(server)
        if probe is not None:
            probe.permits.granted()

    def registered(self, tag: str, holds: Mapping[str, int]) -> None:
        for server in holds:
            if server in self.probes:
                self.probes[server].registered(tag)

    def unknown_permits(self, tag: str) -> None:
        """A member states more than is charged here: whoever told it so has left no word of it, so there may be
        others of whom nothing is known yet. Nothing is raised until they have had time to come."""
        if self._waited or not any(
            server.accounts[tag].excess for server in self.ledger.servers.values() if tag in server.accounts
        ):
            return
        self.ledger.mark_partial()
        self._wait()
        detail = "a member states more than is known: the snapshot of the supervisor before is lost"
        log.warning("snapshot.unusable", extra={"reason": "missing", "detail": detail})

    def _wait(self) -> None:
        """For members of whom nothing is known; then search for what those have left that died meanwhile."""
        self._waited = True
        asyncio.get_running_loop().call_later(GRACE, self._whole)

    def _whole(self) -> None:
        self.ledger.whole()
        self.whole_since = self.turns.clock()
        for probe in self.probes.values():
            probe.wake()
        self.turns.touch()

    def exited(self, tag: str) -> None:
        """A process is gone: whatever it has left is to be proven gone."""
        for probe in self.probes.values():
            probe.exited(tag)

    def departed(self, tag: str) -> None:
        """A member is none any more."""
        for site in self.sites.values():
            site.waiting = [(other, key) for other, key in site.waiting if other != tag]

    def lost(self, server: str, tag: str, serials: Iterable[int]) -> None:
        site = self.by_key.get(server)
        if site is not None:
            now = self.turns.clock()
            site.lost.update((f"{tag}-{serial}", now) for serial in serials)
            self.probes[site.id].hurry()

    def trouble(self, server: str, kind: str, detail: str) -> None:
        """A member could not connect: look for ourselves."""
        site = self.by_key.get(server)
        if site is not None and kind in ("refused", "unreachable"):
            if kind == "refused":
                site.refused = True
            self.probes[site.id].hurry()

    def set_budget(self, name: str, word: str) -> tuple[bool, str]:
        """The operator's word; (whether it was taken, a sentence)."""
        site = self.find(name)
        if site is None:
            return False, f"no server is known as {name!r}; known are {', '.join(sorted(self.by_key)) or 'none'}"
        if word not in ("auto", "reset") and not (word.isdecimal() and 0 < int(word) <= 1_000_000):
            return False, f"the budget {word!r} is neither a number from 1 to 1000000 nor auto nor reset"
        site.operator = None if word == "reset" else word
        if site.operator is None:
            self.ledger.forget_operator(site.id)
        self.probes[site.id].recalculate(at_once=True)
        log.info("budget.set", extra={"server": site.id, "budget": word})
        self.probes[site.id].hurry()
        return True, f"{site.id}: {site.derivation.text}"

    def health_of(self, site: Site) -> wire.Health:
        return wire.Health(site.id, site.health.up, site.health.since, site.health.error)

    # ---- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nobody is left: keep nothing open, prove what is to be proven."""
        if not self.stopping:
            self.stopping = True
            for probe in self.probes.values():
                probe.wake()

    def resume(self) -> None:
        """Somebody has come after all."""
        self.stopping = False

    async def close(self, timeout: float) -> None:
        """Close what is kept, and end the probes."""
        self.stopping = True
        tasks = [asyncio.ensure_future(probe.close()) for probe in self.probes.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
