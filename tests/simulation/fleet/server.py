"""A server process: its clients in every state that the fleet's rules can meet, its table, its clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from poolmgr.fleet import gate
from poolmgr.fleet.duty import Seen
from tests.simulation.fleet.table import Table

HANDSHAKE = 7_000
"""Milliseconds after which a connection without a name is not suspected any more (``Findings.handshake``)."""

Stage = Literal["air", "accepted", "sent", "named", "open", "shut"]
"""A connection's way: under way to the server; accepted; its packet has arrived; it has its name; past its gate; told
that its gate is shut."""


class Client(msgspec.Struct, eq=False):
    """One connection, as the server has it.

    Attributes:
        owner: the number of its process's life; ``ended``: that process is gone.
        wish: the name that its packet will give it, with the table that its process was told. lease: the name that it
            has.
        slow: what is under way for it arrives after that time.
        since: when it was accepted, by the server's clock.
    """

    id: int
    owner: int
    wish: str
    table: str
    stage: Stage = "air"
    lease: str = ""
    ended: bool = False
    slow: float = 0.0
    since: int = 0
    server: Any = None


class Server:
    """See the module's docstring. ``run`` is its ``run_id``."""

    def __init__(
        self, run: str, clock: Callable[[], int], edit: Callable[[str], str], later: Callable[[str], str] | None = None
    ) -> None:
        self.run = run
        self.clock = clock
        self.table = Table(clock, edit, later)
        self.clients: list[Client] = []
        self._serial = 0

    def connect(self, owner: int, wish: str, table: str) -> Client:
        """A SYN is on its way."""
        client = Client(0, owner, wish, table, server=self)
        self.clients.append(client)
        return client

    def accept(self, client: Client) -> None:
        """Clients are numbered when they are accepted."""
        self._serial += 1
        client.id, client.stage, client.since = self._serial, "accepted", self.clock()

    def fresh(self) -> int:
        """A fencer's connection, opened and answered: those that had arrived before were accepted before it."""
        for client in [c for c in self.clients if c.stage == "air"]:
            self.accept(client)
        self._serial += 1
        return self._serial

    def advance(self, client: Client) -> None:
        """The next thing that the server does for it."""
        match client.stage:
            case "air":
                self.accept(client)
            case "sent":
                client.lease, client.stage = client.wish, "named"
            case "named":
                client.stage = "shut" if self.gate(client) else "open"

    def gate(self, client: Client) -> str:
        """What the gate's commands say now."""
        records, clock = (self.table.command(*c) for c in gate.commands("t", client.wish))
        return gate.shut(records, clock, client.table)

    def drop(self, client: Client) -> None:
        """It is closed, or killed."""
        if client in self.clients:
            self.clients.remove(client)

    def list(self) -> list[Seen]:
        """CLIENT LIST."""
        return [Seen(c.id, c.lease, suspect=self._suspect(c)) for c in self.clients if c.stage != "air"]

    def _suspect(self, client: Client) -> bool:
        return client.stage != "air" and not client.lease and self.clock() - client.since <= HANDSHAKE

    def coming(self, fresh: int) -> frozenset[str]:
        """The names that suspects will have which were accepted before that connection."""
        return frozenset(c.wish for c in self.clients if c.id < fresh and self._suspect(c))

    def kill(self, id: int) -> None:
        """CLIENT KILL ID."""
        for client in self.clients:
            if client.id == id and client.stage != "air":
                self.drop(client)
                return

    def held(self) -> int:
        """Connections that are past their gate, their owners alive or not."""
        return sum(c.stage == "open" for c in self.clients)

    def counted(self) -> int:
        """What ``maxclients`` counts."""
        return sum(c.stage != "air" for c in self.clients)

    def busy(self) -> Iterator[Client]:
        """Those for which the server has something to do."""
        return (c for c in self.clients if c.stage in ("air", "sent", "named"))
