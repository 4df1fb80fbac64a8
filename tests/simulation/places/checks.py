"""What must hold in a world of addresses."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NoReturn

from poolmgr.member.core.process import Attachment
from poolmgr.supervisor.upstreams.upstream import Upstream
from tests.simulation.places.process import Process
from tests.simulation.places.supervisor import Clerk

if TYPE_CHECKING:
    from tests.simulation.places.world import World

SETTLED = 1.0
"""Seconds after which what has moved is noticed, and taken back where it is too much."""

KNOWN = 2.0
"""Seconds after which no more is open than the budget: two questions, which it takes to know a balancer, and the time
in which what is too much is taken back."""

ASKING = 0.1
"""Seconds within which those that are asked have answered, where nobody hangs."""


class Violation(Exception):
    """Something that must hold did not."""


class Checks:
    """Those of one world.

    Attributes:
        touched: members that may have more open than before.
        jumps: servers at which more may be charged than before.
        ledger_changed: the supervisor has done something.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.touched: set[Process] = set()
        self.jumps: set[str] = set()
        self.ledger_changed = True
        self.outstanding: dict[str, int] = {}

    def violated(self, text: str) -> NoReturn:
        raise Violation(f"{self.world.clock.now:.4f}: {text}")

    def step(self) -> None:
        clerk = self.world.clerk
        if self.world.clock.now > self.world.moved + KNOWN:
            for server in self.world.servers:
                if server.count > self.world.budget:
                    self.violated(f"{server.name} counts {server.count} of {self.world.budget}")
        if clerk is None:
            return
        if self.ledger_changed:
            self.ledger_changed = False
            self.touched.update(self.world.processes.values())
            self._check_sums(clerk)
        for process in self.touched:
            if process.alive:
                self._check_charges(clerk, process)
        self.touched.clear()

    def known(self, attachment: Attachment) -> None:
        """Nothing is opened at a server of which it is not known which one it is."""
        upstream = (
            None
            if self.world.clerk is None
            else self.world.clerk.registry.addresses.by_key.get(attachment.endpoint.key)
        )
        if upstream is not None and not upstream.resolved and attachment.dispatcher.account.server == upstream.id:
            self.violated(f"something is opened at {upstream.id} before it is known which server that is")

    def union(self, new: set[str], known: set[str], upstream: Upstream) -> None:
        """A server that is met is known already only if one of the known addresses leads to it still, or hangs, so that
        it cannot be asked."""
        hangs = any(server.hangs for key in known for server in self.world.addresses[key])
        if not known or hangs or upstream.sameness.several or self.world.clock.now < self.world.moved + ASKING:
            return
        if not {s for key in new for s in self.world.addresses[key]} & {
            s for key in known for s in self.world.addresses[key]
        }:
            self.violated(f"{sorted(new)} are united with {sorted(known)}, which lead elsewhere")

    def _check_charges(self, clerk: Clerk, process: Process) -> None:
        counts: dict[str, int] = {}
        for dispatcher in process.core.dispatchers():
            account = dispatcher.account
            for states in (account.live, account.closing, account.lost):
                for owner in states.values():
                    upstream = clerk.registry.addresses.by_key.get(owner.endpoint.key)
                    id = upstream.id if upstream is not None else owner.endpoint.key
                    counts[id] = counts.get(id, 0) + 1
        for id, count in counts.items():
            known = clerk.ledger.servers.get(id)
            charged = known.accounts.get(process.tag) if known is not None else None
            if charged is None or count > charged.charge:
                self.violated(f"{process.tag} has {count} open at {id}, charged {charged}")

    def _check_sums(self, clerk: Clerk) -> None:
        for id, known in clerk.ledger.servers.items():
            outstanding = known.outstanding
            before = self.outstanding.get(id, outstanding)
            if id not in self.jumps and outstanding > max(known.budget, before):
                self.violated(f"{id}: {outstanding} outstanding of {known.budget}, {before} before")
            self.outstanding[id] = outstanding
        self.jumps.clear()

    def partition(self) -> None:
        """Addresses of one server are one upstream, and no others; a balancer is one with all that lead to its
        servers."""
        assert self.world.clerk is not None
        used = {key for process in self.world.processes.values() for key in process.attachments}
        for one, two in itertools.combinations(sorted(used), 2):
            a, b = (
                self.world.clerk.registry.addresses.by_key.get(one),
                self.world.clerk.registry.addresses.by_key.get(two),
            )
            if a is None or b is None:
                self.violated(f"{one} or {two} is not known")
            alike = self.world.addresses[one] == self.world.addresses[two] and len(self.world.addresses[one]) == 1
            if alike and a is not b:
                self.violated(f"{one} and {two} lead to one server, and are two")
            several = any(len(servers) > 1 for servers in self.world.addresses.values()) or self._had_several
            if not alike and not several and a is b:
                self.violated(f"{one} and {two} lead to two servers, and are one")

    @property
    def _had_several(self) -> bool:
        assert self.world.clerk is not None
        return any(upstream.sameness.several for upstream in self.world.clerk.registry.upstreams.values())

    def whole(self) -> None:
        """Nobody else wants anything: one process gets the whole budget of each server."""
        for process in self.world.processes.values():
            process.wants.clear()
        hot = self.world.start_process()
        self.world.until(self.world.clock.now + 1.0)
        assert self.world.clerk is not None
        if self._had_several:
            return
        for key in sorted(hot.attachments):
            hot.wants[key] = self.world.budget
            self.world.until(self.world.clock.now + 1.0)
            mine = sum(s.open and s.attachment.endpoint.key == key for s in hot.sockets)
            if mine < self.world.budget:
                self.violated(f"{hot.tag} has {mine} of {self.world.budget} by {key}")
            hot.wants[key] = 0
            self.world.until(self.world.clock.now + 0.5)
