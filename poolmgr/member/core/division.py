"""How one process divides the connections that its limit of open files leaves over its servers.

Pure arithmetic. A ledger counts one server at a time and knows nothing of descriptors, so limits of
several servers may come to more than the process can open. This module then decides what it may open, from
what the pools of each server need now. It must never leave a server with nothing: two that each wait
for the other's connections would wait forever.

The parts rise together, in three rounds that each begin where the previous one ended:

1. *needed*: what callers had or waited for at some instant of the last second (max-min fair);
2. *kept*: idle connections, so that none is closed unless it is in the way of a need;
3. *unused*: the lowest parts are raised first. So while no server needs more than an even part, all parts
   are even, and do not change with every change of demand.

Connections that a server has open above its part close at the next release, as with a recall. Until then the
others have less room than their parts, by as much: a descriptor is never given twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from poolmgr.budget.allocation import Claim, shares


class Stake(msgspec.Struct, frozen=True):
    """One server's side of the division.

    Attributes:
        limit: permits that its supervisor has granted.
        need: connections that callers could use now, or did at some instant of the last second.
        kept: connections that are not on their way out.
        open: all connections, closing ones too.
    """

    limit: int
    need: int
    kept: int
    open: int


class Part(msgspec.Struct, frozen=True):
    """What one server gets.

    Attributes:
        ceiling: the most connections that it could use, as reported to its supervisor. 0: not known.
        room: connections that may exist now; None: the limit alone bounds them.
    """

    ceiling: int
    room: int | None = None


def divide(left: int, stakes: Sequence[Stake]) -> list[Part]:
    """The part of each server, in order, if the limits of all come to more than ``left``.

    The rooms of all (or the open connections, if more) come to at most ``left``. One exception keeps
    every server going: it may always have one connection, even at the cost of the descriptors that are kept
    for everything else (:data:`poolmgr.kernel.nofile.MARGIN`).

    Args:
        left: connections that the limit of open files leaves, open ones included.
    """
    wanted = _rise(left, stakes, [left] * len(stakes))
    usable = _rise(left, stakes, [stake.limit for stake in stakes])  # descriptors beyond a limit are of use to others
    free = max(0, left - sum(stake.open for stake in stakes))
    more = shares(free, [Claim(part - stake.open) for part, stake in zip(usable, stakes, strict=True)])
    return [
        Part(ceiling=max(1, part, may), room=max(1, min(may, stake.open + extra)))
        for part, may, stake, extra in zip(wanted, usable, stakes, more, strict=True)
    ]


def _rise(left: int, stakes: Sequence[Stake], bounds: Sequence[int]) -> list[int]:
    """The three rounds; no part rises above its bound."""
    parts = [0] * len(stakes)
    for wants in ([stake.need for stake in stakes], [stake.kept for stake in stakes], bounds):
        claims = [
            Claim(max(part, min(want, bound)), floor=part, holding=stake.open)
            for want, part, bound, stake in zip(wants, parts, bounds, stakes, strict=True)
        ]
        parts = shares(left, claims)
    return parts
