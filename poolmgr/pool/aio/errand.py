"""What one loop sends into other loops' queues to get what their tasks have; :mod:`poolmgr.pool.parts` decides when,
and what is done with it."""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from poolmgr.pool.queue import Fate, Waiter


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
