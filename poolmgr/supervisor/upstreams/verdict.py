"""Whether a server is down: its users' verdict.

The supervisor's own reach is not the server's health: a server that it cannot reach is *unseen*. An outage begins when
a second member confirms another's failed connect, while neither a member nor the supervisor has had a reply since; any
reply ends it. If there is no other member, one failure is enough. If no other member reports its attempt, the
supervisor counts as the second, unless members have had replies from a server that it does not reach. Pure. Times are
monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

NEVER = float("-inf")

ALONE = 1.0
"""Seconds after which the supervisor alone suffices to confirm a failed connect."""


class Failure(msgspec.Struct, frozen=True):
    """A failed connect of a member's.

    Attributes:
        began, at: when the attempt began; when it was reported.
        way: the endpoint's key.
    """

    began: float
    at: float
    way: str
    error: str


class Verdict:
    """What is known about one server.

    Attributes:
        replied: when a member or the supervisor last had a reply.
        unseen_since: when the first of the supervisor's unanswered looks began; None: the last one was answered.
        ours: those looks failed for reasons of our own (TLS files that are not available here).
        down: why, while it is down; and since when.
    """

    def __init__(self) -> None:
        self.replied = NEVER
        self.unseen_since: float | None = None
        self.ours = False
        self.down: Failure | None = None
        self.down_at = NEVER
        self._failures: dict[str, Failure] = {}

    # ---- what happens ----------------------------------------------------------------------------

    def seen(self, at: float) -> None:
        """A look was answered then."""
        self.unseen_since = None
        self.replied = max(self.replied, at)

    def not_seen(self, began: float, *, ours: bool = False) -> None:
        """A look that began then was not answered."""
        self.unseen_since = began if self.unseen_since is None else self.unseen_since
        self.ours = ours

    def failed(self, tag: str, failure: Failure) -> None:
        self._failures[tag] = failure

    def heard(self, at: float) -> None:
        """A member had a reply then."""
        self.replied = max(self.replied, at)

    def gone(self, tag: str) -> None:
        """That member has left."""
        self._failures.pop(tag, None)

    # ---- what follows ----------------------------------------------------------------------------

    @property
    def blind(self) -> bool:
        """The supervisor cannot reach the server, but members have had replies since."""
        return self.unseen_since is not None and self.replied > self.unseen_since

    @property
    def witnesses(self) -> dict[str, Failure]:
        """Members whose connects have failed since the last reply."""
        return {tag: failure for tag, failure in self._failures.items() if failure.began > self.replied}

    def accused(self, others: Collection[str], now: float) -> tuple[Failure | None, bool]:
        """The failed connect that may begin an outage, if there is one, and whether it is confirmed.

        Args:
            others: members that could connect.
        """
        witnesses = self.witnesses
        if self.down is not None or self.unseen_since is None or not witnesses:
            return None, False
        last = max(witnesses.values(), key=lambda failure: failure.at)
        first = min(failure.at for failure in witnesses.values())
        by_us = not self.blind and not self.ours and now >= max(first, self.unseen_since) + ALONE
        return last, by_us or len(witnesses) > 1 or not set(others) - witnesses.keys()

    def begin(self, failure: Failure, now: float) -> None:
        """The outage begins."""
        self.down, self.down_at = failure, now

    @property
    def over(self) -> bool:
        """Whether a reply has come since it began."""
        return self.down is not None and self.replied > self.down_at

    def end(self) -> None:
        self.down, self.down_at = None, NEVER
        self._failures.clear()
