"""What tests of the ledger share: one with a server, and the time."""

from __future__ import annotations

import random

from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity
from poolmgr.budget.effects import Turn
from poolmgr.budget.ledger import Ledger
from poolmgr.wire import Limit, Report
from tests import invariant

R = "tcp://r:6379"


class Book:
    """A ledger with one server, and the time."""

    def __init__(self, budget: int = 10, ledger: Ledger | None = None) -> None:
        self.ledger = ledger or Ledger(owner=Identity("supervisor", 1), rng=random.Random(1))
        self.now = 100.0
        self.server = self.ledger.server(R, run_id="x")
        if ledger is None:
            self.ledger.set_budget(R, budget, self.now)
        self.ledger.hold_raises(R, False)
        self.links: dict[str, int] = {}

    def join(self, *tags: str, holds: int = 0, opened: int | None = None, link: int = 1) -> None:
        """``opened``: how much of what they hold is open; None: all of it."""
        stated, of_that = {R: holds} if holds else {}, None if opened is None else {R: opened}
        for tag in tags:
            assert self.ledger.register(Identity(tag, 2), link, stated, self.now, opened=of_that)
            self.links[tag] = link
            self.ledger.attach(tag, R, self.now)

    def tell(self, tag: str, limit: int) -> Turn:
        """Raise or lower by hand, policy aside."""
        turn = Turn()
        account = self.server.accounts[tag]
        change = self.ledger._raise if limit > account.limit else self.ledger._lower
        change(self.server, tag, limit, self.now, turn)
        return turn

    def report(self, tag: str, *, acked: int | None = None, link: int | None = None, **busy: int) -> None:
        account = self.server.accounts[tag]
        busy.setdefault("peak", busy.get("in_use", 0) + busy.get("waiting", 0))
        acked = account.seq if acked is None else acked
        self.ledger.report(tag, link or self.links[tag], Report(R, acked, **busy), self.now)

    def pins(self, tag: str, count: int, waiting: int = 0) -> None:
        """It joins with so many connections, all of them pinned."""
        self.join(tag, holds=count)
        self.report(tag, open=count, in_use=count, pinned=count, waiting=waiting)

    def settle(self, later: float = 0.0) -> Turn:
        self.now += later
        turn = self.ledger.settle(self.now)
        invariant.check(self.ledger)
        return turn

    def charge(self, tag: str) -> int:
        return self.server.accounts[tag].charge

    def limit(self, tag: str) -> int:
        return self.server.accounts[tag].limit


def limits(turn: Turn) -> dict[str, int]:
    return {tell.tag: tell.message.limit for tell in turn.tells if isinstance(tell.message, Limit)}


def successor(book: Book, *, alive: bool) -> Book:
    """The ledger of the next supervisor. ``alive``: whether the listed processes still run."""
    saved = recovery.save(book.ledger, book.now)
    ledger = recovery.restored(saved, book.now, alive=lambda who: alive, owner=Identity("successor", 3))
    invariant.check(ledger)
    return Book(ledger=ledger)
