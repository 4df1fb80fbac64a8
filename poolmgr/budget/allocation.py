"""Integer max-min fair shares with floors, ceilings and weights.

A pure function of its arguments. It knows nothing of members, messages or time:
:mod:`poolmgr.budget.sharing` decides which members give permits and which get them.

Max-min fairness ("progressive filling", Bertsekas and Gallager, *Data Networks*, 6.5.2): all shares
rise together in proportion to their weights; a claim that has all it wants stops rising; the rest go on
until nothing is left. In whole permits the last ones, fewer than there are claims, are ties: a tie goes to
the claim that already holds the permit, so that nothing moves without need, then by rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Claim(msgspec.Struct, frozen=True):
    """What one member could use.

    Attributes:
        demand: permits it could use now; its share is never larger.
        floor: permits it gets before any claim gets more, as far as it has demand.
        ceiling: the most permits it can use; None: no bound.
        weight: shares rise in this proportion; more than 0.
        holding: permits it holds now; it wins a tie for one that it holds.
        rank: decides the other ties; smaller first.
    """

    demand: int
    floor: int = 1
    ceiling: int | None = None
    weight: float = 1.0
    holding: int = 0
    rank: float = 0.0


def shares(capacity: int, claims: Sequence[Claim]) -> list[int]:
    """Share of each claim, in order. Their sum is ``min(capacity, Σ min(demand, ceiling))``.

    Raises:
        ValueError: a weight is not positive.
    """
    if any(claim.weight <= 0 for claim in claims):
        raise ValueError("a weight must be more than 0")
    upper = [max(0, c.demand if c.ceiling is None else min(c.demand, c.ceiling)) for c in claims]
    capacity = max(0, capacity)
    if sum(upper) <= capacity:
        return upper
    lower = [min(max(0, c.floor), top) for c, top in zip(claims, upper, strict=True)]
    if sum(lower) > capacity:
        # Not even the floors fit: share those.
        lower, upper = [0] * len(claims), lower
    return _fill(capacity, claims, lower, upper)


def _fill(capacity: int, claims: Sequence[Claim], lower: list[int], upper: list[int]) -> list[int]:
    """Share ``capacity`` within the bounds, where ``Σ lower <= capacity < Σ upper``."""
    level = _level(capacity, claims, lower, upper)
    base = [
        min(max(int(level * claim.weight + 1e-9), low), top)
        for claim, low, top in zip(claims, lower, upper, strict=True)
    ]
    left = capacity - sum(base)
    if left > 0:
        # A claim whose floor is above the level already has more than its part.
        ties = [
            i
            for i, claim in enumerate(claims)
            if base[i] < upper[i] and lower[i] <= level * claim.weight + 1e-9 < base[i] + 1
        ]
        ties.sort(key=lambda i: (claims[i].holding <= base[i], claims[i].rank, i))
        for i in ties[:left]:
            base[i] += 1
    return base


def _level(capacity: int, claims: Sequence[Claim], lower: list[int], upper: list[int]) -> float:
    """The height to which shares per weight rise: ``Σ clamp(level·weight, lower, upper) = capacity``.

    The sum grows piecewise linearly with the level; its slope changes where a claim leaves its floor
    and where it has all it wants. One pass over these points in order finds the level.
    """
    points: list[tuple[float, float]] = []
    for claim, low, top in zip(claims, lower, upper, strict=True):
        if top > low:
            points.append((low / claim.weight, claim.weight))
            points.append((top / claim.weight, -claim.weight))
    points.sort()
    filled, slope, level = float(sum(lower)), 0.0, 0.0
    for at, change in points:
        if slope > 0 and filled + slope * (at - level) >= capacity:
            return level + (capacity - filled) / slope
        filled += slope * (at - level)
        level = at
        slope += change
    return level
