"""The servers: which endpoint is which server, and what members report about reaching them.

A server is its ``run_id``: ``localhost``, an address, a name and a Unix path of one server share one
ledger. So an endpoint that is new is *resolved* first, by asking the server behind it; until then
nobody is told its id and nothing is opened by anybody. It is asked with a permit borrowed from every
server that it might turn out to be, so that even the question stays within the budget; and only those
wait for the answer who want that endpoint.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
from collections.abc import Iterable, Mapping

from poolmgr import wire
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.servers.ports import ProbePort
from poolmgr.supervisor.servers.probe import Probe
from poolmgr.supervisor.servers.sameness import same
from poolmgr.supervisor.servers.upstream import Site

MOST_SITES = 1024
"""Servers known at the same time: each has a task and a thread."""

MOST_NAMES = 8 * MOST_SITES
"""Names of all of them together: a server can have many, and who made them up is not known."""

MOST_OF_ONE = 64
"""Names of hosts that are noted for one server, beside its addresses: a budget can be set by each of them."""

UNUSED, UNREACHED = 60.0, 5.0
"""Seconds after which a server that nobody uses is forgotten; one that nobody has reached."""

GRACE = 2.0
"""Seconds for which nothing is raised after a snapshot was lost, so that the members of the supervisor
before can register. What stands in for the proof: nobody knows who they are."""


def is_name(key: str) -> bool:
    """Whether the key of an endpoint has a host's name, which may lead elsewhere by now."""
    if not key.startswith("tcp://"):
        return False
    try:
        ipaddress.ip_address(key.removeprefix("tcp://").rpartition(":")[0].partition("%")[0])
    except ValueError:
        return True
    return False


class Book:
    """All sites and their probes."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ledger = context.ledger
        self.turns = context.turns
        self._roster = context.roster
        self.sites: dict[str, Site] = {}
        self.probes: dict[str, Probe] = {}
        self.by_key: dict[str, Site] = {}
        self.unplaced: set[ProbePort] = set()
        """Probes with a connection of which it is not known to which server it leads."""
        self.apart: set[frozenset[str]] = set()
        """Pairs of servers that have been asked whether they are one, and are not. Where one does not say who it is."""
        self._questions: dict[str, dict[str, int]] = {}
        """By member and endpoint: the number of the last question that it has asked on its link."""
        self._spent: set[str] = set()
        """Ids under which members were told limits, and which are those of no server any more."""
        self.stopping = False
        self._began = context.turns.clock()
        self._waited = False
        """After a lost snapshot: for those of whom nothing is known."""
        self.whole_since = context.turns.clock()
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
        self.by_key[server] = site  # it may be an id that another one has had, of which nobody was told
        for key in keys:
            if not is_name(key):
                self.by_key.setdefault(key, site)
        self.probes[server] = self._probe(site)
        self.probes[server].start()
        return site

    def _probe(self, site: Site) -> Probe:
        return Probe(site, self.context, self)

    def _id_for(self, key: str) -> str:
        """An id for the server behind an address. It has not been told to anybody for another one: what a member was
        told at that one would count at this one."""
        again = (f"{key}#{number}" for number in itertools.count(2))
        return next(id for id in itertools.chain((key,), again) if id not in self.sites and id not in self._spent)

    def _full(self) -> bool:
        """No server that is not known yet can be taken in."""
        return len(self.sites) >= MOST_SITES or len(self.by_key) >= MOST_NAMES

    def site_for(self, endpoint: wire.Endpoint, tag: str = "") -> Site | None:
        """The site behind an endpoint that a process has named; a new one, to be resolved, if nobody knows it. None:
        there are too many already."""
        site = self.by_key.get(endpoint.key)
        if site is None:
            if self._full():
                return None
            site = self.by_key[endpoint.key] = self._new(self._id_for(endpoint.key), (endpoint.key,))
            log.info("server.new", extra={"server": site.id})
        site.used = self.turns.clock()
        if self.probes[site.id].unwanted:
            self.probes[site.id].unwanted = False
            self.probes[site.id].resume()
        known = endpoint in site.ways.of(endpoint.key)
        no_news = site.run_id or "INFO" in site.forbidden or known or (site.hidden and endpoint.own)
        if site.resolved and not no_news:  # with these credentials it may say who it is
            site.resolved = False
            self.ledger.hold_raises(site.id, True)
            self.probes[site.id].hurry()
        if site.ways.learn(endpoint, tag) or not site.resolved:
            self.probes[site.id].wake()
        self._note_name(site, endpoint)
        if not known and (site.health.unseen or not site.health.up):
            self.probes[site.id].try_anew()
        return site

    def _note_name(self, site: Site, endpoint: wire.Endpoint) -> None:
        """By what name a member has come to that address. It is for people, and budgets: a name leads elsewhere at any
        moment, so nothing is ever found by it that a permit depends on."""
        known = self.ledger.servers[site.id].aliases
        if endpoint.named not in known and len(known) < len(site.ways) + MOST_OF_ONE:
            self.ledger.server(site.id, aliases=(endpoint.named,))
            self.probes[site.id].recalculate(at_once=True)

    def held(self, hold: wire.Hold) -> dict[Site, tuple[int, int]]:
        """The sites of what a member says it holds; how much is stated at each, and how much of that is open. Some of
        the addresses may be another server's by now. Empty: there are too many already, and it is not
        remembered. That overspends nothing: at a server that is not known nothing is raised, and when it becomes
        known it is searched for our connections first."""
        site = self.by_key.get(hold.server)
        for key in hold.endpoints:
            site = site or self.by_key.get(key)
        if site is None:
            if self._full():
                return {}
            site = self._new(hold.server, ())
        room = max(0, MOST_NAMES - len(self.by_key))
        new = [key for key in hold.endpoints if key not in self.by_key][:room]
        self.by_key.update(dict.fromkeys(new, site))
        self.ledger.server(site.id, aliases=[key for key in hold.endpoints if self.by_key.get(key) is site])
        found = {site: (max(0, hold.stated), max(0, hold.open))}
        for key in hold.endpoints:
            other = self.by_key.get(key, site)
            if other is not site:  # before it has been told a limit there, it opens nothing there
                there = hold.by.get(key, 0) if hold.by else max(hold.stated, hold.open)
                before = found.get(other, (0, 0))[0] if hold.by else 0
                found[other] = before + there, before + there
        return found

    def find(self, name: str) -> Site | None:
        """The site that a person means: an id, another key, or ``host:port``. By a host's name: that which somebody has
        reached by it last."""
        keys = name, f"tcp://{name}", f"unix://{name}"
        for key in keys:
            if key in self.by_key:
                return self.by_key[key]
        named = [site for site in self.sites.values() if not self.ledger.servers[site.id].aliases.isdisjoint(keys)]
        return max(named, key=lambda site: (site.health.up, site.used), default=None)

    def is_resolved(self, site: Site, run_id: str, twin: Site | None = None) -> Site:
        """``site`` has said who it is, or ``twin`` has turned out to be the same. The site it turned out to be: itself,
        or one known by another key."""
        site.run_id = run_id
        twin = twin or self.twin_of(site)
        waiting, site.waiting = site.waiting, []
        if twin is not None:
            self._merge(site, twin)
        else:
            site.resolved = True
        self.ledger.server((twin or site).id, run_id=run_id)
        if twin is None:
            self.ledger.settled(site.id)
        target = twin or site
        log.info("server.resolved", extra={"server": target.id, "endpoint": site.id, "run_id": run_id})
        for tag, key in waiting:
            self.resolved(target, tag, key)
        return target

    def resolved(self, site: Site, tag: str, key: str) -> None:
        """It is known which server this is: tell the member, and let it have its share."""
        if tag not in self._roster.known:
            return
        self._roster.send(tag, self.placed(tag, key, site.id))
        self.ledger.attach(tag, site.id, self.turns.clock())
        if not site.health.up:
            self._roster.send(tag, self.health_of(site))
        self.turns.touch()

    def twin_of(self, site: Site) -> Site | None:
        """The resolved site that is the same server: by run_id, or by address where one of them has not said
        its run_id, or cannot be asked for it yet. Two that are resolved are one only if both say so now: addresses
        change hands, and what one of them said before is the other one's server then."""
        run_id, address = site.run_id, site.address
        key = f"tcp://{address[0]}:{address[1]}" if address else ""
        for other in self.sites.values():
            if other is site or not other.resolved:
                continue
            if same(run_id, site.sameness.several, other.run_id, other.sameness.several):
                if site.sameness.again:
                    continue
                if other.sameness.again or (site.resolved and other.fresh_at < site.changed_at):
                    self.probes[other.id].ask_anew()  # what it said may be out of date: it sees for itself
                    continue
                return other
            if address and not (run_id and other.run_id) and other.address == address:
                return other
            if key and not other.endpoints and self.by_key.get(key) is other:
                return other
        return None

    def comparable(self, site: Site) -> list[ProbePort]:
        """Probes of servers of which only a comparison tells whether they are the same as ``site``."""
        return [
            self.probes[other.id]
            for other in self.sites.values()
            if other is not site
            and other.resolved
            and other.endpoints
            and not (site.run_id and other.run_id)
            and frozenset((site.id, other.id)) not in self.apart
        ]

    def compare_anew(self, site: Site) -> None:
        """It may have become another one since it was compared."""
        self.apart = {pair for pair in self.apart if site.id not in pair}

    def doubtful(self, site: Site, run_id: str, met: float, since: float) -> list[Site]:
        """Sites that may be the same server as ``site``, or may be it no more. It may have been restarted since they
        last said who they are; or they have said the same, before it was ``met``, and lead elsewhere by now. Those that
        nobody has an endpoint for count while a living member holds something."""
        several = site.sameness.several
        return [
            other
            for other in self.sites.values()
            if other is not site
            and other.resolved
            and other.run_id
            and (
                ((other.fresh_at <= met or other.sameness.again > 0) and bool(other.endpoints))
                if same(run_id, several, other.run_id, other.sameness.several)
                else other.asked_at <= since
            )
            and (other.endpoints or self.ledger.servers[other.id].charged)
            and not self.probes[other.id].still_runs
        ]

    def unite(self, site: Site, twin: Site) -> None:
        """Both are resolved, and it turns out that they are one server. Their members are told."""
        log.warning("server.united", extra={"server": twin.id, "endpoint": site.id, "run_id": site.run_id})
        self._merge(site, twin)
        self.ledger.server(twin.id, run_id=twin.run_id)

    def part(self, site: Site, keys: list[str]) -> None:
        """These of its addresses lead to another server by now, which is to be resolved. Their members are told at
        once: what each of them has there, nobody else knows, and until it has said so it is charged at both."""
        id = self._id_for(keys[0])
        log.warning("server.parted", extra={"server": site.id, "endpoint": ", ".join(sorted(keys))})
        ways = site.ways.take_out(keys)
        sameness = site.sameness.part(keys)
        tags = {tag for way in ways.all() for tag in way.tags}
        named = {way.endpoint.named for way in ways.all()}
        self.ledger.part(site.id, id, {*keys, *named}, tags, self.turns.clock())
        self.ledger.servers[site.id].aliases -= set(keys)
        new = self._new(id, ())
        new.ways, new.lost, new.sameness = ways, dict(site.lost), sameness
        self.by_key.update(dict.fromkeys(keys, new))
        for way in ways.all():
            for tag in sorted(way.tags):
                new.waiting.append((tag, way.endpoint.key))
                self._roster.send(tag, self.placed(tag, way.endpoint.key, id))
        self.turns.touch()

    def _merge(self, site: Site, twin: Site) -> None:
        """``site`` is another name of ``twin``."""
        twin.ways.take(site.ways)
        for key, other in list(self.by_key.items()):
            if other is site:
                self.by_key[key] = twin
        self.ledger.server(twin.id, aliases=site.ways)
        twin.run_id = site.run_id or twin.run_id
        twin.lost.update(site.lost)
        twin.sameness.several |= site.sameness.several
        self.compare_anew(site)
        del self.sites[site.id]
        del self.probes[site.id]
        if self.ledger.servers[site.id].accounts:
            self._spent.add(site.id)
        for tag in self.ledger.servers[site.id].accounts:
            for key in site.ways:
                self._roster.send(tag, self.placed(tag, key, twin.id))

    # ---- questions of members ---------------------------------------------------------------------

    def asked(self, tag: str, key: str, number: int) -> None:
        """A member has asked where an endpoint leads."""
        self._questions.setdefault(tag, {})[key] = number

    def asks_anew(self, tag: str) -> None:
        """A member begins a link, or is none any more."""
        self._questions.pop(tag, None)

    def placed(self, tag: str, key: str, server: str) -> wire.Resolved:
        """The answer to what a member has asked last about that endpoint."""
        return wire.Resolved(key, server, self._questions.get(tag, {}).get(key, 0))

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
        self.compare_anew(site)
        self.probes.pop(site.id).cancel()
        del self.sites[site.id]
        self.by_key = {key: other for key, other in self.by_key.items() if other is not site}
        self.ledger.strike(site.id)
        self._roster.totals.forget(site.id)

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

    def detached(self, tag: str, key: str) -> None:
        """A member has nothing by that address any more, and wants nothing."""
        self._questions.get(tag, {}).pop(key, None)
        site = self.by_key.get(key)
        if site is None:
            return
        site.waiting = [(other, its) for other, its in site.waiting if (other, its) != (tag, key)]
        site.ways.leave(key, tag)
        self.probes[site.id].wake()

    def forget_unused(self, site: Site) -> None:
        """Addresses of a resolved server that nobody uses any more may lead elsewhere when a process comes with them
        again. While a process of the snapshot has not registered it may be using any of them: they are only asked no
        more."""
        server = self.ledger.servers[site.id]
        users = server.accounts.keys() | server.quarantine.keys() | {tag for tag, _ in site.waiting}
        keys = site.ways.keep(users)
        if keys:
            site.sameness.leave(keys)
        if not self._have_registered(server.accounts):
            return
        if site.ways and self.turns.clock() > self._began + UNUSED:  # who was there before has come by now
            keys = [key for key in server.aliases if key not in site.ways]
        for key in keys:
            if key != site.id and self.by_key.get(key) is site:
                del self.by_key[key]
                server.aliases.discard(key)

    def _have_registered(self, tags: Iterable[str]) -> bool:
        """Whether all these have told this supervisor by which addresses they go."""
        return all(self.ledger.members[tag].link for tag in tags)

    def goes_to(self, tag: str, server: str) -> bool:
        """Whether a process has named an address of that server."""
        site = self.sites.get(server)
        return site is not None and any(tag in way.tags for way in site.ways.all())

    def shown(self) -> list[Site]:
        """Those that people are told of: not the addresses of a name at which nobody has ever been reached, while the
        name has others."""
        return [site for site in self.sites.values() if site.resolved or site.health.up or not site.among]

    def departed(self, tag: str) -> None:
        """A member is none any more."""
        self.asks_anew(tag)
        for probe in self.probes.values():
            probe.outages.gone(tag)
        for site in self.sites.values():
            site.waiting = [(other, key) for other, key in site.waiting if other != tag]

    def lost(self, server: str, tag: str, serials: Iterable[int]) -> None:
        site = self.by_key.get(server)
        if site is not None:
            now = self.turns.clock()
            site.lost.update((f"{tag}-{serial}", now) for serial in serials)
            self.probes[site.id].hurry()

    def trouble(self, tag: str, said: wire.Trouble) -> None:
        """A member could not connect, so we look for ourselves; or its connections bear no name."""
        site = self.by_key.get(said.server)
        if site is None:
            return
        if said.kind == "nameless" and tag not in site.nameless:
            site.nameless[tag] = said.detail
            log.warning("member.nameless", extra={"server": site.id, "tag": tag, "error": said.detail})
        if said.kind in ("refused", "unreachable"):
            if said.kind == "refused":
                site.refused = True
            else:
                self.probes[site.id].outages.failed(tag, said, self.turns.clock())
            self.probes[site.id].hurry()

    def heard(self, server: str, tag: str, replied: float) -> None:
        """A member has reported, and had a reply then."""
        probe = self.probes.get(server)
        if probe is not None:
            probe.outages.heard(tag, replied, self.turns.clock())

    def set_budget(self, name: str, word: str) -> tuple[bool, str]:
        """The operator's word; (whether it was taken, a sentence)."""
        site = self.find(name)
        if site is None:
            known = self.by_key.keys() | {key for site in self.sites for key in self.ledger.servers[site].aliases}
            return False, f"no server is known as {name!r}; known are {', '.join(sorted(known)) or 'none'}"
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
        if self.stopping:
            self.stopping = False
            for probe in self.probes.values():
                probe.resume()

    async def close(self, timeout: float) -> None:
        """Close what is kept, and end the probes."""
        self.stopping = True
        tasks = [asyncio.ensure_future(probe.close()) for probe in self.probes.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
