"""The servers: when each is met, merged, parted and forgotten, and what members report about reaching them.

Which address leads where is in :mod:`poolmgr.supervisor.upstreams.addresses`, and which servers are one in
:mod:`poolmgr.supervisor.upstreams.twins`. A server is its ``run_id``: ``localhost``, an address, a name and a Unix path
of one server share one ledger. So the supervisor first *resolves* a new endpoint: it asks the server behind it. Until
the answer, no member gets the server's id and no process opens a connection there. The question uses a permit borrowed
from every server that this one might turn out to be, so that even the question stays within the budget. Only members
that want that endpoint wait for the answer.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping

from poolmgr import wire
from poolmgr.budget import merging
from poolmgr.budget.accounts import Saved
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.addresses import UNUSED, Addresses
from poolmgr.supervisor.upstreams.latecomers import Latecomers
from poolmgr.supervisor.upstreams.ports import ProbePort
from poolmgr.supervisor.upstreams.probe import Probe
from poolmgr.supervisor.upstreams.twins import Twins
from poolmgr.supervisor.upstreams.upstream import Upstream

MOST_SERVERS = 1024
"""Servers known at the same time: each has a task and a thread."""

UNREACHED = 5.0
"""Seconds after which a server that was never reached is forgotten."""


class Registry:
    """All upstreams and their probes."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.ledger = context.ledger
        self.committer = context.committer
        self._roster = context.roster
        self.upstreams: dict[str, Upstream] = {}
        self.probes: dict[str, Probe] = {}
        self.addresses = Addresses(context, self.upstreams)
        self.twins = Twins(context, self.upstreams, self.probes, self.addresses)
        self.unplaced: set[ProbePort] = set()
        """Probes with a connection whose server is not known yet."""
        self._spent: set[str] = set()
        """Ids under which members received limits and which no server has any more."""
        self.stopping = False
        self.latecomers = Latecomers(context, self._wake)

    # ---- upstreams ------------------------------------------------------------------------------------

    def restore(self) -> None:
        """Create an upstream for each server in the snapshot, with its identity from there."""
        if self.ledger.partial:
            self.latecomers.wait()
        for server in list(self.ledger.servers.values()):
            upstream = self._new(server.id, server.aliases)
            upstream.run_id = server.run_id
            upstream.operator = server.operator
            if server.run_id:
                upstream.resolved = True
                upstream.governor.budget = server.budget
                self.probes[server.id].allowance.restored(self.committer.clock())
                self.ledger.hold_raises(server.id, False)

    def _new(self, server: str, keys: Iterable[str]) -> Upstream:
        upstream = self.upstreams[server] = Upstream(server)
        self.ledger.server(server, aliases=keys)
        upstream.used = self.committer.clock()
        self.addresses.new(upstream, keys)
        self.probes[server] = self._probe(upstream)
        self.probes[server].start()
        return upstream

    def _probe(self, upstream: Upstream) -> Probe:
        return Probe(upstream, self.context, self)

    def _id_for(self, key: str) -> str:
        """An id for the server behind an address. No member has received it for another server: that server's limits
        would count here."""
        again = (f"{key}#{number}" for number in itertools.count(2))
        return next(id for id in itertools.chain((key,), again) if id not in self.upstreams and id not in self._spent)

    def _full(self) -> bool:
        """Whether there is no room for another server."""
        return len(self.upstreams) >= MOST_SERVERS or self.addresses.full

    def upstream_for(self, endpoint: wire.Endpoint, tag: str = "") -> Upstream | None:
        """The upstream behind an endpoint that a process has named. An unknown endpoint gets a new one, to be resolved.
        None: there are too many already."""
        upstream = self.addresses.by_key.get(endpoint.key)
        if upstream is None:
            if self._full():
                return None
            upstream = self.addresses.by_key[endpoint.key] = self._new(self._id_for(endpoint.key), (endpoint.key,))
            log.info("server.new", extra={"server": upstream.id})
        upstream.used = self.committer.clock()
        if self.probes[upstream.id].unwanted:
            self.probes[upstream.id].unwanted = False
            self.probes[upstream.id].resume()
        known = endpoint in upstream.ways.of(endpoint.key)
        no_news = upstream.run_id or "INFO" in upstream.forbidden or known or (upstream.hidden and endpoint.own)
        if upstream.resolved and not no_news:  # with these credentials the server may give its run_id
            upstream.resolved = False
            self.ledger.hold_raises(upstream.id, True)
            self.probes[upstream.id].hurry()
        if upstream.ways.learn(endpoint, tag) or not upstream.resolved:
            self.probes[upstream.id].wake()
        if self.addresses.note_name(upstream, endpoint):
            self.probes[upstream.id].recalculate(at_once=True)
        if not known and (upstream.health.unseen or not upstream.health.up):
            self.probes[upstream.id].try_again()
        return upstream

    def held(self, hold: wire.Hold) -> dict[Upstream, tuple[int, int]]:
        """The upstreams of what a member states it holds (:meth:`Addresses.stated`). Empty: there are too many
        upstreams already, and the statement is dropped. That overspends nothing: no limit is raised at an unknown
        server, and once known it is first searched for our connections."""
        known = map(self.addresses.by_key.get, (hold.server, *hold.endpoints))
        upstream = next((upstream for upstream in known if upstream is not None), None)
        if upstream is None:
            if self._full():
                return {}
            upstream = self._new(hold.server, ())
        return self.addresses.stated(hold, upstream)

    def is_resolved(self, upstream: Upstream, run_id: str, twin: Upstream | None = None) -> Upstream:
        """``upstream`` has given its run_id, or ``twin`` has turned out to be the same server. Returns the upstream it
        turned out to be: itself, or one known by another key."""
        upstream.run_id = run_id
        twin = twin or self.twins.of(upstream)
        waiting, upstream.waiting = upstream.waiting, []
        if twin is not None:
            self._merge(upstream, twin)
        else:
            upstream.resolved = True
        self.ledger.server((twin or upstream).id, run_id=run_id)
        if twin is None:
            self.ledger.settled(upstream.id)
        target = twin or upstream
        log.info("server.resolved", extra={"server": target.id, "endpoint": upstream.id, "run_id": run_id})
        for tag, key in waiting:
            self.resolved(target, tag, key)
        return target

    def resolved(self, upstream: Upstream, tag: str, key: str) -> None:
        """The server's identity is known: send it to the member and give it its share."""
        if tag not in self._roster.known:
            return
        self._roster.send(tag, self.addresses.placed(tag, key, upstream.id))
        self.ledger.attach(tag, upstream.id, self.committer.clock())
        if not upstream.health.up:
            self._roster.send(tag, self.health_of(upstream))
        self.committer.touch()

    def unite(self, upstream: Upstream, twin: Upstream) -> None:
        """Both are resolved and turn out to be one server. Their members receive the new id."""
        log.warning("server.united", extra={"server": twin.id, "endpoint": upstream.id, "run_id": upstream.run_id})
        self._merge(upstream, twin)
        self.ledger.server(twin.id, run_id=twin.run_id)

    def part(self, upstream: Upstream, keys: list[str]) -> None:
        """These addresses now lead to another server, which has to be resolved. Their members learn it at once: only a
        member knows what it holds there, and until it says so it is charged at both."""
        id = self._id_for(keys[0])
        log.warning("server.parted", extra={"server": upstream.id, "endpoint": ", ".join(sorted(keys))})
        ways = upstream.ways.take_out(keys)
        sameness = upstream.sameness.part(keys)
        tags = {tag for way in ways.all() for tag in way.tags}
        named = {way.endpoint.named for way in ways.all()}
        merging.part(self.ledger, upstream.id, id, {*keys, *named}, tags)
        self.ledger.servers[upstream.id].aliases -= set(keys)
        new = self._new(id, ())
        new.ways, new.lost, new.sameness = ways, dict(upstream.lost), sameness
        self.addresses.by_key.update(dict.fromkeys(keys, new))
        for way in ways.all():
            for tag in sorted(way.tags):
                new.waiting.append((tag, way.endpoint.key))
                self._roster.send(tag, self.addresses.placed(tag, way.endpoint.key, id))
        self.committer.touch()

    def _merge(self, upstream: Upstream, twin: Upstream) -> None:
        """``upstream`` is another name of ``twin``."""
        twin.ways.take(upstream.ways)
        self.addresses.merge(upstream, twin)
        self.ledger.server(twin.id, aliases=upstream.ways)
        twin.run_id = upstream.run_id or twin.run_id
        twin.lost.update(upstream.lost)
        twin.sameness.several |= upstream.sameness.several
        self.twins.compare_again(upstream)
        del self.upstreams[upstream.id]
        del self.probes[upstream.id]
        if self.ledger.servers[upstream.id].accounts:
            self._spent.add(upstream.id)
        for tag in self.ledger.servers[upstream.id].accounts:
            for key in upstream.ways:
                self._roster.send(tag, self.addresses.placed(tag, key, twin.id))

    # ---- events -----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Forget unused servers. Called a few times a second."""
        now = self.committer.clock()
        for upstream in list(self.upstreams.values()):
            server = self.ledger.servers[upstream.id]
            probe = self.probes[upstream.id]
            if server.accounts or server.quarantine or upstream.waiting or upstream.lost or upstream.unclosed:
                upstream.used = now
                probe.unwanted = False
            elif now - upstream.used > (UNUSED if upstream.resolved else UNREACHED):
                if not probe.unwanted:
                    probe.unwanted = True  # it closes its connection and stops looking
                    probe.wake()
                elif not probe.busy and server.outstanding == 0:
                    self._forget(upstream)

    def _forget(self, upstream: Upstream) -> None:
        """No process uses it and nothing is charged there."""
        log.info("server.forgotten", extra={"server": upstream.id})
        self.twins.compare_again(upstream)
        self.probes.pop(upstream.id).cancel()
        del self.upstreams[upstream.id]
        self.addresses.forget(upstream)
        self.ledger.strike(upstream.id)
        self._roster.totals.forget(upstream.id)

    def settled(self) -> None:
        """A turn of the ledger is over: what follows for this host's leases of its fleet."""
        for probe in self.probes.values():
            if probe.holder is not None:
                probe.holder.settled()

    @property
    def leased(self) -> bool:
        """Whether a lease of a fleet can still be given back: its server is there."""
        return any(
            probe.holder is not None and probe.holder.unneeded and probe.upstream.reached and probe.upstream.endpoints
            for probe in self.probes.values()
        )

    def saved(self, saved: Saved) -> None:
        """The snapshot is on disk."""
        for server in saved.servers:
            probe = self.probes.get(server.id)
            if probe is not None and probe.holder is not None:
                probe.holder.saved(server.lease)

    def granted(self, server: str) -> None:
        """A turn has granted us a connection of our own."""
        probe = self.probes.get(server)
        if probe is not None:
            probe.permits.granted()

    def registered(self, tag: str, holds: Mapping[str, int]) -> None:
        for server in holds:
            if server in self.probes:
                self.probes[server].registered(tag)

    def _wake(self) -> None:
        """Something may be due at every server."""
        for probe in self.probes.values():
            probe.wake()

    def exited(self, tag: str) -> None:
        """A process is gone: the end of its connections has to be proven."""
        for probe in self.probes.values():
            probe.exited(tag)

    def detached(self, tag: str, key: str) -> None:
        """A member no longer has or wants anything at that address."""
        upstream = self.addresses.detached(tag, key)
        if upstream is not None:
            self.probes[upstream.id].wake()

    def goes_to(self, tag: str, server: str) -> bool:
        """Whether a process has named an address of that server."""
        upstream = self.upstreams.get(server)
        return upstream is not None and any(tag in way.tags for way in upstream.ways.all())

    def shown(self) -> list[Upstream]:
        """Upstreams shown to people. An address of a name that was never reached is left out while the name has other
        addresses."""
        return [
            upstream
            for upstream in self.upstreams.values()
            if upstream.resolved or upstream.health.up or not upstream.among
        ]

    def departed(self, tag: str) -> None:
        """A member has left."""
        self.addresses.asks_again(tag)
        for probe in self.probes.values():
            probe.outages.gone(tag)
        for upstream in self.upstreams.values():
            upstream.waiting = [(other, key) for other, key in upstream.waiting if other != tag]

    def lost(self, server: str, tag: str, serials: Iterable[int]) -> None:
        upstream = self.addresses.by_key.get(server)
        if upstream is not None:
            now = self.committer.clock()
            upstream.lost.update((f"{tag}-{serial}", now) for serial in serials)
            self.probes[upstream.id].hurry()

    def trouble(self, tag: str, said: wire.Trouble) -> None:
        """A member could not connect, so we look ourselves; or its connections bear no name."""
        upstream = self.addresses.by_key.get(said.server)
        if upstream is None:
            return
        if said.kind == "nameless" and tag not in upstream.nameless:
            upstream.nameless[tag] = said.detail
            log.warning("member.nameless", extra={"server": upstream.id, "tag": tag, "error": said.detail})
        holder = self.probes[upstream.id].holder
        if said.kind in ("gate", "doubt") and holder is not None:
            holder.asked(tag, shut=said.kind == "gate")
            if said.kind == "gate":
                self.probes[upstream.id].gate_shut()
        if said.kind in ("refused", "unreachable"):
            if said.kind == "refused":
                upstream.refused = True
            else:
                self.probes[upstream.id].outages.failed(tag, said, self.committer.clock())
            self.probes[upstream.id].hurry()

    def heard(self, server: str, tag: str, replied: float) -> None:
        """A member has reported when it last had a reply."""
        probe = self.probes.get(server)
        if probe is not None:
            probe.outages.heard(tag, replied, self.committer.clock())

    def set_budget(self, name: str, word: str) -> tuple[bool, str]:
        """Apply the operator's word. Returns whether it was accepted, and a sentence."""
        upstream = self.addresses.find(name)
        if upstream is None:
            known = self.addresses.by_key.keys() | {
                key for upstream in self.upstreams for key in self.ledger.servers[upstream].aliases
            }
            return False, f"no server is known as {name!r}; known are {', '.join(sorted(known)) or 'none'}"
        if word not in ("auto", "reset") and not (word.isdecimal() and 0 < int(word) <= 1_000_000):
            return False, f"the budget {word!r} is neither a number from 1 to 1000000 nor auto nor reset"
        upstream.operator = None if word == "reset" else word
        if upstream.operator is None:
            self.ledger.forget_operator(upstream.id)
        self.probes[upstream.id].recalculate(at_once=True)
        log.info("budget.set", extra={"server": upstream.id, "budget": word})
        self.probes[upstream.id].hurry()
        return True, f"{upstream.id}: {upstream.derivation.text}"

    def health_of(self, upstream: Upstream) -> wire.Health:
        return wire.Health(upstream.id, upstream.health.up, upstream.health.since, upstream.health.error)

    # ---- the end ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """No client is left: keep nothing open, and prove what is to be proven."""
        if not self.stopping:
            self.stopping = True
            self._wake()

    def resume(self) -> None:
        """A client has come after all."""
        if self.stopping:
            self.stopping = False
            for probe in self.probes.values():
                probe.resume()

    async def close(self, timeout: float) -> None:
        """Close the kept connections and end the probes."""
        self.stopping = True
        tasks = [asyncio.ensure_future(probe.close()) for probe in self.probes.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=timeout)
