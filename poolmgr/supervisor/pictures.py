"""What members hear of others while their callers wait: who holds the connections, and why no limit is raised.

A picture goes to members with waiting callers once a second. It goes at once to a member that asked for more and got
less.
"""

from __future__ import annotations

import heapq

from poolmgr import wire
from poolmgr.budget.accounts import Server
from poolmgr.supervisor.clients.link import Link
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.fleet import remarks
from poolmgr.supervisor.upstreams.registry import Registry

STRANGERS = "unregistered connections with names like ours"

EVERY = 1.0
LARGEST = 5
"""How often, in seconds, waiting members receive a list of the largest holders; how many it names."""

REFUSE_EVERY = 0.05
"""Seconds between two refusals of what one member asks for at one server."""


class Pictures:
    """Sends them."""

    def __init__(self, context: Context, registry: Registry) -> None:
        self._ledger = context.ledger
        self._committer = context.committer
        self._roster = context.roster
        self._registry = registry
        self._sent = 0.0
        self._asking: dict[tuple[str, str], None] = {}
        """Members that have just reported a waiting caller, and the server."""
        self._stuck = ""
        self._refused: dict[tuple[str, str], tuple[int, int, float]] = {}
        """The last refusal: need, limit, and time."""

    def asks(self, tag: str, server: str) -> None:
        """A member has just reported a waiting caller."""
        self._asking[tag, server] = None

    def came(self, link: Link) -> None:
        """A member that has not heard yet why no limit is raised."""
        if self._stuck:
            link.send(wire.Picture("", 0, stuck=self._stuck))

    def forget(self, tag: str) -> None:
        self._refused = {key: last for key, last in self._refused.items() if key[0] != tag}

    def tick(self) -> None:
        """Called a few times a second."""
        now = self._committer.clock()
        if now - self._sent < EVERY:
            return
        self._sent = now
        for server in self._ledger.servers.values():
            waiting = [tag for tag, account in server.accounts.items() if account.report and account.report.waiting]
            if waiting:
                picture = self._of(server)
                for tag in waiting:
                    self._roster.send(tag, picture)

    def refuse(self) -> None:
        """After a turn: send the picture at once to members that asked for more and got less. It means that no more is
        available now, for callers that do not wait for another process."""
        asking, self._asking = self._asking, {}
        now = self._committer.clock()
        for tag, id in asking:
            server = self._ledger.servers.get(id)
            account = server.accounts.get(tag) if server is not None else None
            if server is None or account is None or account.waiting is None or server.held:
                self._refused.pop((tag, id), None)
                continue
            need, limit, at = self._refused.get((tag, id), (0, 0, -EVERY))
            if now >= at + (REFUSE_EVERY if (need, limit) != (account.need, account.limit) else EVERY):
                self._refused[tag, id] = account.need, account.limit, now
                self._roster.send(tag, self._of(server))

    def stuck(self, why: str) -> None:
        """After a turn: why no limit is raised; empty when that is over. All members receive it, for their callers'
        errors."""
        if why != self._stuck:
            self._stuck = why
            for tag in self._roster.known:
                self._roster.send(tag, wire.Picture("", 0, stuck=why))

    def _of(self, server: Server) -> wire.Picture:
        held = heapq.nlargest(LARGEST, ((a.charge, tag) for tag, a in server.accounts.items()))
        others = [(self._describe(tag), charge) for charge, tag in held if charge]
        others += [("processes that have ended", left)] if (left := server.quarantined - server.strange) else []
        others += [(STRANGERS, server.strange)] if server.strange else []
        upstream, holder, fleet = self._registry.upstreams.get(server.id), None, ""
        if server.id in self._registry.probes:
            holder = self._registry.probes[server.id].holder
        if holder is not None and not holder.outside:
            fleet = remarks.obstacle(holder, self._committer.clock()) or remarks.origin(holder)
        bound = upstream.bound if upstream else ""
        return wire.Picture(server.id, server.budget, tuple(others), bound=bound, fleet=fleet)

    def _describe(self, tag: str) -> str:
        process = self._ledger.members[tag].identity
        return f"{process.title or 'process'} {process.pid}"
