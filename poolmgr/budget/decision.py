"""What the ledger's policy wants changed at one server. Only the ledger changes anything."""

from __future__ import annotations

import msgspec


class Decision(msgspec.Struct):
    """What should change: new limits by tag, tags to ask, when to decide again."""

    raises: list[tuple[str, int]] = msgspec.field(default_factory=list)
    lowers: list[tuple[str, int]] = msgspec.field(default_factory=list)
    asks: list[str] = msgspec.field(default_factory=list)
    wake: float | None = None

    def again(self, at: float) -> None:
        """Decide again at this time, or earlier."""
        self.wake = at if self.wake is None else min(self.wake, at)
