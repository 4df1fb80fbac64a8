"""How many clients of a server are not ours, from the total.

Pure. A server reports the number of its clients at hardly any cost; telling them apart takes a list of them. Two
numbers bound ours: what members have reported open, which is late, and what they are charged with, the maximum. So our
own growth looks foreign until it is reported. A reading is therefore judged twice: by what was reported when it was
taken, and by what was reported at the next one. Clients beyond everything charged are foreign at once.
"""

from __future__ import annotations

from collections import deque

LATE = 1.25
"""Seconds by which members' reports may be late: they report once a second."""


class Others:
    """One server's."""

    def __init__(self) -> None:
        self._before: deque[tuple[float, int, int]] = deque()
        """(time, all clients, ours as far as reported). The first entry is the latest that is old enough."""

    def read(self, everyone: int, opened: int, charged: int, now: float) -> int:
        """How many are not ours, certainly or by two readings between which all members have reported.

        Args:
            everyone: the server's count.
            opened: ours, as far as reported; without a report, what is charged.
            charged: the most that can be ours.
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
