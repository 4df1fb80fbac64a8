"""The order in which a turn is carried out: what a successor must know is written before anybody acts on it."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

from poolmgr.budget.effects import Tell
from poolmgr.supervisor.committer import Committer
from poolmgr.supervisor.disk.snapshot import SupersededError
from poolmgr.wire import Ask, Limit
from tests.unit.book import Book, R


class Shell:
    """The real turns, and a list of what they did in which order: ``saved`` with what the snapshot says."""

    def __init__(self, budget: int = 10) -> None:
        self.book = Book(budget=budget)
        self.did: list[tuple[Any, ...]] = []
        self.error: Exception | None = None
        self.turns = Committer(
            self.book.ledger,
            self,  # type: ignore[arg-type]
            deliver=self._deliver,
            superseded=lambda: self.did.append(("ends",)),
            settled=lambda: None,
        )
        self.turns.granted = lambda server: self.did.append(("opens", server))
        self.book.now = self.turns.clock()

    path = "/snapshot"

    def write(self, saved: Any) -> None:
        """As the writer of snapshots."""
        if self.error is not None:
            raise self.error
        (server,) = saved.servers
        charges = {member.identity.tag: sum(member.charges.values()) for member in saved.members}
        self.did.append(("saved", charges, server.own))

    def _deliver(self, tell: Tell) -> None:
        if isinstance(tell.message, Limit):
            self.did.append(("told", tell.tag, tell.message.limit))
        else:
            assert isinstance(tell.message, Ask)

    def turn(self) -> list[tuple[Any, ...]]:
        """Have one; what was done in it."""
        self.did.clear()
        self.book.now = self.turns.clock()
        self.turns.run()
        return list(self.did)


def scene(play: Callable[[], None]) -> None:
    async def run() -> None:
        play()

    asyncio.run(run())


def test_a_raise_is_told_after_the_snapshot_that_shows_it():
    def play() -> None:
        shell = Shell()
        shell.book.join("a")
        shell.book.report("a", waiting=4)
        saved, told = shell.turn()
        assert told[:2] == ("told", "a")
        assert saved == ("saved", {"a": told[2]}, 0)
        assert told[2] >= 4

    scene(play)


def test_an_own_connection_is_opened_after_the_snapshot_that_shows_it():
    def play() -> None:
        shell = Shell()
        shell.turn()
        shell.book.ledger.want_own(R, 1, shell.turns.clock())
        assert shell.turn() == [("saved", {}, 1), ("opens", R)]

    scene(play)


def test_without_a_snapshot_nothing_is_raised_and_nothing_opened_until_it_can_be_written():
    def play() -> None:
        shell = Shell(budget=20)
        shell.book.join("a")
        shell.turn()
        limit = shell.book.limit("a")
        shell.error = OSError(errno.ENOSPC, "No space left on device")
        shell.book.report("a", open=limit, in_use=limit, waiting=5)
        shell.book.ledger.want_own(R, 1, shell.turns.clock())
        assert shell.turn() == shell.turn() == []
        assert "No space left" in shell.turns.unwritten
        assert (shell.book.limit("a"), shell.book.charge("a"), shell.book.ledger.own(R)) == (limit, limit, 0)
        shell.error = None
        shell.book.report("a", open=limit, in_use=limit, waiting=5)
        saved, told, opens = shell.turn()
        assert (saved, told[:2], opens) == (("saved", {"a": told[2]}, 1), ("told", "a"), ("opens", R))
        assert told[2] > limit
        assert shell.turns.unwritten == ""

    scene(play)


def test_whoever_may_have_been_superseded_tells_nobody_anything():
    def play() -> None:
        shell = Shell()
        shell.book.join("a")
        shell.error = SupersededError()
        shell.book.report("a", waiting=4)
        did = shell.turn()
        assert did[0] == ("ends",)
        assert not [told for told in did if told[0] in ("told", "opens") and told[-1]]

    scene(play)
