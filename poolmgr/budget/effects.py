"""What one turn of the ledger decided, for its shell to carry out: plain values.

The shell acts on a turn in one order only (rule S1): if it says ``persist``, the shell writes the snapshot
first; then it sends everything. If it cannot write the snapshot, it abandons the turn
(:meth:`poolmgr.budget.ledger.Ledger.abandon`) and may send only its :meth:`Turn.rest`.
"""

from __future__ import annotations

import msgspec

from poolmgr.wire import Ask, Limit


class Tell(msgspec.Struct, frozen=True):
    """Send ``message`` to the member ``tag`` if ``link`` is still its newest."""

    tag: str
    link: int
    message: Limit | Ask


class Turn(msgspec.Struct):
    """What one turn decided. With ``persist``, the snapshot must be on disk before any of it is done."""

    tells: list[Tell] = msgspec.field(default_factory=list)
    own: list[str] = msgspec.field(default_factory=list)
    """Servers at which the supervisor may open one more connection of its own."""
    persist: bool = False
    wake: float | None = None
    """When to settle again even if nothing happens."""
    undo: list[tuple[str, str, list[tuple[int, int]]]] = msgspec.field(default_factory=list)
    """(server, tag, its ``told`` before) for each raise, and for each recall meant to make a raise possible."""

    def rest(self) -> list[Tell]:
        """The part to send when the snapshot could not be written: answers, and recalls for a budget that is
        overdrawn."""
        undone = {(server, tag) for server, tag, _ in self.undo}
        return [tell for tell in self.tells if (tell.message.server, tell.tag) not in undone]


class Decision(msgspec.Struct):
    """What should change: new limits by tag, tags to ask, when to decide again."""

    raises: list[tuple[str, int]] = msgspec.field(default_factory=list)
    lowers: list[tuple[str, int]] = msgspec.field(default_factory=list)
    asks: list[str] = msgspec.field(default_factory=list)
    wake: float | None = None

    def again(self, at: float) -> None:
        """Decide again at this time, or earlier."""
        self.wake = at if self.wake is None else min(self.wake, at)
