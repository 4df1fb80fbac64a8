"""What tests of the pool's core share: one with permits, whose effects are carried out in the plainest way."""

from __future__ import annotations

from typing import Any

from poolmgr.pool.queue import Granted, Open, PoolCore, Ticket, Waiter, Wake


class Permit:
    """Counts itself."""

    name = ""
    gate = None
    permits: Any = None
    serial = 0

    def __init__(self, out: set[Permit]) -> None:
        self.out = out
        out.add(self)

    def gone(self) -> None:
        self.out.discard(self)

    def hold(self, sock: object, below: int = -1) -> None:
        pass

    def close(self, sock: object) -> None:
        self.gone()


class Connection:
    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket
        self.permit = ticket.claim()


class Desk:
    """A core with permits: carries effects out in the plainest way."""

    def __init__(self, ceiling: int = 100, permits: int = 100, **options: Any) -> None:
        self.core = PoolCore(ceiling=ceiling, **options)
        self.limit = permits
        self.permits: set[Permit] = set()
        self.woken: list[Waiter] = []
        self.opening: list[Ticket] = []
        self.now = 100.0

    def take(self) -> Permit | None:
        return Permit(self.permits) if len(self.permits) < self.limit else None

    def advance(self, may_open: bool = True) -> None:
        for effect in self.core.advance(self.now, self.take if may_open else None):
            if isinstance(effect, Wake):
                self.woken.append(effect.waiter)
            else:
                assert isinstance(effect, Open)
                self.opening.append(effect.ticket)

    def call(self) -> Waiter:
        waiter = Waiter(self.now, lambda: None)
        self.core.join(waiter)
        self.advance()
        return waiter

    def opened(self, ticket: Ticket, seconds: float = 0.01) -> Connection:
        connection = Connection(ticket)
        self.core.opened(ticket, seconds)
        return connection

    def first(self) -> Connection:
        """A connection that a caller has made for itself."""
        waiter = self.call()
        assert isinstance(waiter.fate, Granted)
        return self.opened(waiter.fate.ticket)

    def give(self, connection: Connection) -> None:
        self.core.arrived(connection.ticket, connection)
        self.advance(may_open=False)

    def close(self, connection: Connection) -> None:
        self.core.drop(connection.ticket)
        if connection.permit is not None:
            connection.permit.gone()
