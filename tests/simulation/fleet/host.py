"""A host around the real lease: what it hands out to its members, what these have open, what is on its disk.

What a host's own rules promise is taken for granted, since ``tests/simulation`` shows it: members open no more than is
handed out, a lower number is obeyed before it counts, and what was handed out is on disk before.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from poolmgr.fleet.lease import Lease, SavedLease, Terms
from poolmgr.fleet.script import Refused, Renewal, Renewed
from tests.simulation.fleet.server import Client, Server

IN_THE_AIR = 1
"""Connects of one host at the same time (``max_connecting``)."""


class Disk(msgspec.Struct):
    """A snapshot: the lease, and what was handed out."""

    lease: SavedLease = SavedLease()
    handed: int = 0


class Host:
    """See the module's docstring.

    Attributes:
        life: the number of its processes' life; a host that dies and comes back has a new one, and an empty disk.
        under_way: requests that were sent and may still be executed. inbox: answers that have not been read.
        handed: permits that members have under the present name.
        tables: which table gave what a name has, as members were told.
        stale: the same under earlier names, until the members have obeyed the end of that name.
    """

    def __init__(
        self, world_clock: Callable[[], float], server: Server, life: int, rng: random.Random, terms: Terms
    ) -> None:
        self.clock = world_clock
        self.server = server
        self.life = life
        self.rng = rng
        self.terms = terms
        self.alive = True
        self.paused_until = 0.0
        self.demand = 0
        self.handed = 0
        self.stale: dict[str, int] = {}
        self.tables: dict[str, str] = {}
        self.disk = Disk()
        self.clients: list[Client] = []
        self.under_way: list[Renewal] = []
        self.late: dict[int, float] = {}
        self.inbox: list[tuple[int, Renewed | Refused]] = []
        self.orphans: list[Renewal] = []
        """Those of the former that nobody waits for: whose supervisor has ended, and its connection with it."""
        self.duty = ""
        self.lease = self._lease(None, 0)

    def _lease(self, saved: SavedLease | None, held: int) -> Lease:
        return Lease(
            self.terms, lambda: f"{self.rng.getrandbits(40):010x}", self.rng, saved=saved, held=held, now=self.clock()
        )

    # ---- what it has ------------------------------------------------------------------------------

    @property
    def outstanding(self) -> int:
        """As its ledger has it."""
        return self.handed + sum(self.stale.values())

    def named(self, name: str) -> list[Client]:
        """Its connections of that name."""
        return [c for c in self.clients if c.wish == name]

    def connecting(self) -> int:
        return sum(c.stage not in ("open", "shut") for c in self.clients)

    # ---- its supervisor ---------------------------------------------------------------------------

    def save(self) -> None:
        """The snapshot is written."""
        self.disk = Disk(self.lease.saved(), self.outstanding)
        self.lease.on_disk(self.disk.lease)

    def arrived(self, now: float) -> list[Renewal]:
        """Requests that the server may execute now."""
        return [request for request in self.under_way if now >= self.late.get(request.seq, 0.0)]

    def send(self, budget: int, slack: int, arrives: float) -> bool:
        """Send what is due; it arrives after that time."""
        self.lease.settle(self.outstanding, self.clock())
        want = max(self.demand, 1)
        request = self.lease.request(self.server.run, want, budget, slack, self.clock())
        if request is None:
            return False
        self.under_way.append(request)
        self.late[request.seq] = arrives
        return True

    def read(self) -> None:
        """Read the oldest answer."""
        seq, answer = self.inbox.pop(0)
        fenced, name = self.lease.fenced, self.lease.name
        self.lease.answered(seq, answer, self.clock())
        if self.lease.fenced > fenced:
            self.fence(name)
        elif isinstance(answer, Renewed) and answer.duty:
            self.duty = answer.duty

    def fence(self, name: str) -> None:
        """F7: all members are told 0 under the next name. Until they have heard that, they may go on."""
        if self.handed:
            self.stale[name] = self.handed
        self.handed = 0

    def hand_out(self) -> None:
        """A member waits: another permit, if the ledger has one (S1)."""
        if self.lease.name and self.outstanding < self.lease.limit and self.handed < self.demand:
            self.handed += 1
            self.save()
        self.tell()

    def tell(self) -> None:
        """Members hear under which name, and of which table, their limits are."""
        if self.lease.name:
            self.tables[self.lease.name] = self.lease.table

    def take_back(self) -> None:
        """A member obeys a lower limit: what it does not use is closed, and then it says so (S2)."""
        mine = self.named(self.lease.name)
        if self.handed > 0 and (self.outstanding > self.lease.limit or self.handed > self.demand):
            idle = [c for c in mine if c.stage == "open"]
            if len(mine) == self.handed and idle:
                self.close(idle[0])
                mine.pop()
            if self.handed > len(mine):
                self.handed -= 1

    def crash(self, *, lost: bool = False) -> None:
        """The supervisor is killed; a successor continues from the disk. Members state what they hold (S4), and under
        which name: that is all there is if the snapshot is lost too."""
        before = self.lease.name
        self.inbox.clear()
        self.orphans = list(self.under_way)
        self.duty = ""
        if lost:
            self.disk = Disk(SavedLease(before if self.handed else next(iter(self.stale), "")), self.outstanding)
        self.lease = self._lease(self.disk.lease, max(self.disk.handed, self.outstanding))
        if self.lease.name != before and self.handed:
            self.fence(before)
        if self.lease.name in self.stale:
            self.handed += self.stale.pop(self.lease.name)
        self.save()

    def die(self) -> None:
        """All its processes are killed. What it sent may still arrive."""
        self.alive = False
        for client in self.clients:
            client.ended = True
        self.clients.clear()
        self.inbox.clear()

    def move(self, server: Server) -> None:
        """Its name leads to another server process now. What is open at the earlier one counts until it is closed
        there, or that process has ended."""
        self.server = server
        self.inbox.clear()
        if self.lease.under_way:
            self.lease.failed(self.clock())

    # ---- its members ------------------------------------------------------------------------------

    def connect(self) -> None:
        """A member opens a connection within its limit, under the name that it was told."""
        if self.connecting() >= IN_THE_AIR or self.lease.blocked:
            return
        for name, most in [(self.lease.name, min(self.handed, self.demand)), *self.stale.items()]:
            if name in self.tables and len(self.named(name)) < most:
                self.clients.append(self.server.connect(self.life, name, self.tables[name]))
                return

    def handshake(self) -> None:
        """Members send their packets, read what their gates said, and close what must not be used."""
        for client in list(self.clients):
            server = client.server
            if client not in server.clients:
                self.gone(client)
            elif server is not self.server and self.rng.random() < 0.3:
                self.close(client)
            elif client.stage == "accepted":
                client.stage = "sent"
            elif client.stage == "shut":
                self.close(client)
                if client.wish == self.lease.name:
                    self.lease.shut(self.clock())

    def close(self, client: Client) -> None:
        """Closed, and confirmed by the server (M3)."""
        client.server.drop(client)
        self.gone(client)

    def gone(self, client: Client) -> None:
        """A member has seen its end."""
        if client in self.clients:
            self.clients.remove(client)

    def obey(self) -> None:
        """A member has heard that an earlier name is over: it closes what it has of it, and says so."""
        for name in list(self.stale):
            for client in self.named(name):
                self.close(client)
            del self.stale[name]
            return
