"""What the parts of one pool decide between them, where a pool is used in several event loops and has a part in each.

Pure: no I/O, no clock, no threads; what is known of the parts goes in, a decision comes out, and a shell
(:mod:`poolmgr.pool.aio.shards`) carries it out. Within one part :mod:`poolmgr.pool.queue` decides.

A connection cannot leave its loop; its place in the pool and its permit can. So a part whose tasks wait sends an errand
into the other parts' queues, where it stands as old as its head is. What comes back there when its turn has come is
closed: the place is free at once, and the permit when the server has confirmed the end. No time has to pass and no
further loop has to run: the thread that gives a connection back does it all, and wakes the task.

That costs a connect, and soon another one, since the other loop will want the connection back. So it is done at once
only for a part that has nothing. Another head must have waited longer than some connects take, and a part that got
something waits before it asks again (:func:`patience`): whatever an errand brings, the next one is not sent at the same
time. Parts whose tasks are served sooner than that leave each other alone.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from poolmgr.pool.queue import Fate, Granted, Served

T = TypeVar("T")

WORTH = 4
"""Connects that could be made while a head waits, before it gets what another loop's tasks could use; and between two
errands of a part that still has nothing."""

RESERVED = 1.0
"""Seconds for which what a part was given is kept for it. Its loop may be held up."""

REST = 16
"""Connects that could be made between two errands of a part that has something."""

NEVER = float("inf")


class Part(NamedTuple):
    """What is known of one part at one instant.

    Attributes:
        size: its connections: lent, idle and being opened.
        ceiling: how many it may have, as was decided last.
        idle: its connections that nobody uses.
        opening: its connections that are being opened.
        since: since when the first of its own tasks has waited; None: none waits.
        refused: the member had no permit for it, and no answer is on its way that could change this.
        closed: the pool was closed.
        asking: it has sent an errand that has not come back.
        got_at: when it last got something of another part.
        reserved_until: what it got then is kept for it until this time; 0: nothing is.
        connect_time: seconds that a connect of its takes.
        retry_at: before that it does not connect, since attempts have failed.
    """

    size: int
    ceiling: int
    idle: int = 0
    opening: int = 0
    since: float | None = None
    refused: bool = False
    closed: bool = False
    asking: bool = False
    got_at: float = -NEVER
    reserved_until: float = 0.0
    connect_time: float = 0.01
    retry_at: float = 0.0

    @property
    def lent(self) -> int:
        """Its connections out with tasks."""
        return max(0, self.size - self.idle - self.opening)


def needy(part: Part) -> bool:
    """Whether its tasks wait, and nothing is on its way to them."""
    return part.since is not None and not part.idle and not part.opening and not part.closed


def lacks(part: Part, now: float) -> bool:
    """Whether its tasks wait for something that only other parts can give, and that they could use now."""
    return needy(part) and now >= part.retry_at and (part.size >= part.ceiling or part.refused)


def in_turn(parts: Iterable[tuple[Part, T]]) -> list[T]:
    """Those whose tasks wait; first the one whose task has waited longest."""
    waiting = [(part.since, one) for part, one in parts if part.since is not None]
    return [one for _, one in sorted(waiting, key=lambda pair: pair[0])]


def room(part: Part, others: Sequence[Part], ceiling: int, now: float) -> int:
    """How many connections a part may have: the pool's ceiling is for all together.

    A place that another part was given, and has yet to take, is kept for that one; of two parts that were given one
    the first comes first. What a part has, it may keep.
    """
    free = max(0, ceiling - sum(other.size for other in others))
    mine = part.reserved_until if now < part.reserved_until else NEVER
    kept = sum(now < other.reserved_until < mine and needy(other) for other in others)
    return max(min(free, part.size), free - kept)


def gives(parts: Sequence[Part], count: int) -> list[int]:
    """How many idle connections each part gives up, so that so many are closed: one by one, always the part that has
    most connections then."""
    left = [part.size for part in parts]
    given = [0] * len(parts)
    for _ in range(count):
        able = [place for place, part in enumerate(parts) if given[place] < part.idle]
        if not able:
            break
        most = max(able, key=left.__getitem__)
        left[most] -= 1
        given[most] += 1
    return given


def patience(part: Part, now: float) -> float:
    """Seconds until a part sends an errand for what others' tasks could use; 0: now; infinity: it need not."""
    if part.asking or part.since is None or not lacks(part, now):
        return NEVER
    if part.lent == 0:
        return max(0.0, part.got_at + WORTH * part.connect_time - now)
    return max(0.0, part.since + WORTH * part.connect_time - now, part.got_at + REST * part.connect_time - now)


def is_served(part: Part) -> bool:
    """Whether what it has asked for, and what is kept for it, may be another's."""
    return not needy(part)


class Return(enum.Enum):
    """What is done with that which an errand has brought."""

    NOTHING = "nothing: it was withdrawn"
    OPEN = "its sender's first task opens a connection, in its own loop"
    KEEP = "the connection lies idle again: its own loop's next task gets it"
    CLOSE = "the connection is closed: its place and its permit are kept for the sender"
    HAND_OVER = "the right to open a connection there is dropped: place and permit are kept for the sender"
    DROP = "that right is dropped: whose turn it is gets it"


def came_back(brought: Fate | None, sender: Part | None, now: float) -> Return:
    """What is done with that which an errand has brought.

    Args:
        brought: None: a connection could be opened for it, by a thread that may open some.
        sender: None: its loop is no more.
    """
    wanted = sender is not None and lacks(sender, now)
    if brought is None:
        return Return.OPEN if sender is not None else Return.NOTHING
    if isinstance(brought, Served):
        return Return.CLOSE if wanted else Return.KEEP
    if isinstance(brought, Granted):
        return Return.HAND_OVER if wanted else Return.DROP
    return Return.NOTHING
