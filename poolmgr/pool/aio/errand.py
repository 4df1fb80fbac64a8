"""How a loop whose tasks wait gets what another loop's tasks have, where one pool is used in several loops.

A connection cannot leave its loop; its place in the pool and its permit can. So the head of a queue sends an
:class:`Errand` into the other loops' queues, where it stands as old as the head is. What comes back there when its turn
has come is closed: the place is free at once, and the permit when the server has confirmed the end. No time has to pass
and no further loop has to run: the thread that gives a connection back does it all, and wakes the task.

It costs a connect, and soon another one, since the other loop will want the connection back. So it is done at once
only for a loop that has nothing. Another head must have waited longer than some connects take, and a loop that got one
waits before it asks again (:func:`patience`). Loops whose tasks are served sooner than that leave each other alone.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from poolmgr.pool.queue import Fate, PoolCore, Waiter

WORTH = 4
"""Connects that could be made while a head waits, before it gets what another loop's tasks could use; and between two
errands of a loop that still has nothing."""

RESERVED = 1.0
"""Seconds for which what a loop was given is kept for it. It may be held up."""

REST = 16
"""Connects that could be made between two errands of a loop that has something."""


class Errand(Waiter):
    """Stands in other loops' queues for the head of one.

    Args:
        sender: the shard that it is for.
        back: where it is put when there is something to do for it, in the thread in which that is found out.
    """

    __slots__ = ("_back", "sender")

    elsewhere = True

    def __init__(self, since: float, sender: Any, back: deque[Errand]) -> None:
        super().__init__(since, self._come_back)
        self.sender = weakref.ref(sender)
        self._back = back

    def _come_back(self) -> None:
        self._back.append(self)

    def brought(self) -> Fate | None:
        """What it has got, at the first call; None: nothing, or it was asked before."""
        try:
            return self._fate.pop(1)
        except KeyError:
            return None

    def settle(self, fate: Fate) -> bool:
        if not super().settle(fate):
            return False
        self._fate[1] = fate
        return True


def head(core: PoolCore) -> Waiter | None:
    """The first task of its own that waits in this queue."""
    for waiter in tuple(core.queue):
        if waiter.fate is None and not waiter.elsewhere:
            return waiter
    return None


def patience(core: PoolCore, waiter: Waiter, last: float, now: float) -> float:
    """Seconds until the head of a queue may have what another loop's tasks could use; 0: at once.

    Args:
        last: when its loop got something last.
    """
    connect = core.connect_time
    if core.lent == 0:
        return max(0.0, last + WORTH * connect - now)
    return max(0.0, waiter.since + WORTH * connect - now, last + REST * connect - now)
