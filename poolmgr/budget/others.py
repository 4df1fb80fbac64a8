"""How many clients of a server are none of ours, from how many there are.

Pure. A server says how many clients it has at hardly any cost; who they are takes a list of them. How many are ours is
known in two ways: what members have said is open, which is late, and what they are charged with, which is the most that
can be. So growth of our own looks like somebody else's until it is reported. A reading is therefore judged twice: by
what was reported when it was taken, and by what was reported when the next one was. What is above everything charged is
somebody else's at once.
"""

from __future__ import annotations

from collections import deque

LATE = 1.25
"""Seconds by which what members say may be late: they report once a second."""


class Others:
    """One server's."""

    def __init__(self) -> None:
        self._before: deque[tuple[float, int, int]] = deque()
        """When, everyone, and ours as far as was reported. The first one is the latest that is old enough."""

    def read(self, everyone: int, opened: int, charged: int, now: float) -> int:
        """How many are certainly, or by two readings between which everybody has reported, not ours.

        Args:
            everyone: the server's count.
            opened: ours, as far as is reported; what is not reported counts as charged.
            charged: ours at most.
            now: monotonic seconds.
        """
        before = self._before
        while len(before) > 1 and now >= before[1][0] + LATE:
            before.popleft()
        likely = certain = everyone - charged
        if before and now >= before[0][0] + LATE:
            _, then, said = before[0]
            likely = min(everyone - opened, then - max(said, opened))
        if not before or now >= before[-1][0] + LATE / 4:
            before.append((now, everyone, opened))
        return max(0, certain, likely)
