"""Which address leads to which server, and what members ask about that.

Nothing that a permit depends on is looked up by a host name, which can lead elsewhere at any moment: names serve people
and budgets.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from poolmgr import wire
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams.upstream import Upstream

MOST_NAMES = 8192
"""Names of all servers together: one server can have many, and their origin is not known."""

MOST_OF_ONE = 64
"""Host names noted for one server, beside its addresses: each of them can set a budget."""

UNUSED = 60.0
"""Seconds after which an unused server is forgotten. Earlier members are back by then."""


def is_name(key: str) -> bool:
    """Whether the endpoint's key contains a host name, which may lead elsewhere by now."""
    if not key.startswith("tcp://"):
        return False
    try:
        ipaddress.ip_address(key.removeprefix("tcp://").rpartition(":")[0].partition("%")[0])
    except ValueError:
        return True
    return False


class Addresses:
    """See the module's docstring. The registry makes the upstreams.

    Attributes:
        by_key: the upstream of each address, and of each upstream's id.
    """

    def __init__(self, context: Context, upstreams: Mapping[str, Upstream]) -> None:
        self._ledger = context.ledger
        self._clock = context.committer.clock
        self._upstreams = upstreams
        self.by_key: dict[str, Upstream] = {}
        self._questions: dict[str, dict[str, int]] = {}
        """By member and endpoint: the number of the member's last question on its link."""
        self._began = self._clock()

    @property
    def full(self) -> bool:
        return len(self.by_key) >= MOST_NAMES

    def new(self, upstream: Upstream, keys: Iterable[str]) -> None:
        self.by_key[upstream.id] = upstream  # another server may have had this id, never announced
        for key in keys:
            if not is_name(key):
                self.by_key.setdefault(key, upstream)

    def find(self, name: str) -> Upstream | None:
        """The upstream that a person means: an id, another key, or ``host:port``. A host name means the server last
        reached by it."""
        keys = name, f"tcp://{name}", f"unix://{name}"
        for key in keys:
            if key in self.by_key:
                return self.by_key[key]
        named = [
            upstream
            for upstream in self._upstreams.values()
            if not self._ledger.servers[upstream.id].aliases.isdisjoint(keys)
        ]
        return max(named, key=lambda upstream: (upstream.health.up, upstream.used), default=None)

    def note_name(self, upstream: Upstream, endpoint: wire.Endpoint) -> bool:
        """Note the name by which a member reached that address, for people and budgets only. False: there is nothing to
        note."""
        known = self._ledger.servers[upstream.id].aliases
        if endpoint.named in known or len(known) >= len(upstream.ways) + MOST_OF_ONE:
            return False
        self._ledger.server(upstream.id, aliases=(endpoint.named,))
        return True

    def stated(self, hold: wire.Hold, upstream: Upstream) -> dict[Upstream, tuple[int, int]]:
        """The upstreams of what a member states it holds at this one: how much it states at each, and how much of that
        is open. Some of the addresses may be another server's by now."""
        room = max(0, MOST_NAMES - len(self.by_key))
        new = [key for key in hold.endpoints if key not in self.by_key][:room]
        self.by_key.update(dict.fromkeys(new, upstream))
        self._ledger.server(upstream.id, aliases=[key for key in hold.endpoints if self.by_key.get(key) is upstream])
        found = {upstream: (max(0, hold.stated), max(0, hold.open))}
        for key in hold.endpoints:
            other = self.by_key.get(key, upstream)
            if other is not upstream:  # it opens nothing there before it receives a limit
                there = hold.by.get(key, 0) if hold.by else max(hold.stated, hold.open)
                before = found.get(other, (0, 0))[0] if hold.by else 0
                found[other] = before + there, before + there
        return found

    def merge(self, upstream: Upstream, twin: Upstream) -> None:
        """What led to one leads to the other."""
        self.by_key = {key: twin if other is upstream else other for key, other in self.by_key.items()}

    def forget(self, upstream: Upstream) -> None:
        self.by_key = {key: other for key, other in self.by_key.items() if other is not upstream}

    def forget_unused(self, upstream: Upstream) -> None:
        """Forget a resolved server's unused addresses: they may lead elsewhere when a process names them again. A
        process of the snapshot that has not registered may be using any of them. Until it registers they are no longer
        asked, but not forgotten."""
        server = self._ledger.servers[upstream.id]
        users = server.accounts.keys() | server.quarantine.keys() | {tag for tag, _ in upstream.waiting}
        keys = upstream.ways.keep(users)
        if keys:
            upstream.sameness.leave(keys)
        if not self._have_registered(server.accounts):
            return
        if upstream.ways and self._clock() > self._began + UNUSED:  # earlier members are back
            keys = [key for key in server.aliases if key not in upstream.ways]
        for key in keys:
            if key != upstream.id and self.by_key.get(key) is upstream:
                del self.by_key[key]
                server.aliases.discard(key)

    def _have_registered(self, tags: Iterable[str]) -> bool:
        """Whether all these members have sent this supervisor their addresses."""
        return all(self._ledger.members[tag].link for tag in tags)

    # ---- questions of members ---------------------------------------------------------------------

    def asked(self, tag: str, key: str, number: int) -> None:
        """A member has asked where an endpoint leads."""
        self._questions.setdefault(tag, {})[key] = number

    def asks_again(self, tag: str) -> None:
        """A member begins a link, or has left."""
        self._questions.pop(tag, None)

    def detached(self, tag: str, key: str) -> Upstream | None:
        """A member no longer has or wants anything at that address. Returns the upstream that it leads to."""
        self._questions.get(tag, {}).pop(key, None)
        upstream = self.by_key.get(key)
        if upstream is not None:
            upstream.waiting = [(other, its) for other, its in upstream.waiting if (other, its) != (tag, key)]
            upstream.ways.leave(key, tag)
        return upstream

    def placed(self, tag: str, key: str, server: str) -> wire.Resolved:
        """The answer to the member's last question about that endpoint."""
        return wire.Resolved(key, server, self._questions.get(tag, {}).get(key, 0))
