"""States that the walk does not tell apart: does the same follow from them?

A state of a walk is changed in one place, whatever that is. If it still counts as the same state, the real code is
asked what follows from both. So nothing is left out of a state, and nothing renumbered, that a rule reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from tests.simulation.fleet.exhaustive.explore import Exploration
from tests.simulation.fleet.exhaustive.states import CURRENT, LINKS, OLD, Row, State, canonical

ENDS = ("end", "until")
NUMBERS = ("seq", "last")
NAMES = ("slot", "joining", "place", "stage")
"""Which one, not how many: another one means something else, or nothing."""


def variants(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """This value with one place in it changed; and the name of that place."""
    if isinstance(value, bool):
        yield name, not value
    elif isinstance(value, int):
        others = (1, 2) if name in ENDS else (0, 1, value + 1, 9 * LINKS) if name in NUMBERS else (0, 1, value + 1)
        yield from ((name, other) for other in dict.fromkeys(others) if other != value and name not in NAMES)
    elif isinstance(value, tuple):
        fields = getattr(value, "_fields", None)
        for k, part in enumerate(value):
            where = f"{type(value).__name__}.{fields[k]}" if fields else name
            for place, changed in variants(part, fields[k] if fields else name):
                parts = [*value[:k], changed, *value[k + 1 :]]
                yield (place if "." in place else where), type(value)(*parts) if fields else tuple(parts)


def followers(walk: Exploration, state: State, i: int, row: Row) -> set[Any]:
    """What follows from a state in which this is row ``i``."""
    steps, together = walk.steps, walk.together
    rest = state.rows[:i] + state.rows[i + 1 :]
    found: set[Any] = {
        (state.heads, state.fencers, step.fault, step.row)
        for step in steps.local(row, state.heads)
        if step.row != canonical(row)  # nothing has happened
    }
    for place in (CURRENT, OLD):
        for step in steps.execute(row, state.heads, tuple(other.records[place] for other in rest), place):
            found.add((step.heads, state.fencers, step.fault, step.row))
    for _, fault, heads, fencers, rows in together.all(state.heads, state.fencers, (row, *rest)):
        found.add((heads, fencers, fault, *map(canonical, rows)))
    return found


def _unheard(after: Any) -> Any:
    """Without what members have heard of tables."""
    return tuple(part._replace(told=()) if isinstance(part, Row) else part for part in after)


def _covers(afters: set[Any], after: Any) -> bool:
    """One of them is the same, or is when its members have heard of their lease's table, or of none."""

    def covers(other: Any) -> bool:
        rows = [(x, y) for x, y in zip(other, after, strict=True) if isinstance(x, Row)]
        return _unheard(other) == _unheard(after) and all(
            t in (0, s, x.lease.table if x.lease.slot == k else 0)
            for x, y in rows
            for k, (s, t) in enumerate(zip(x.told, y.told, strict=True))
        )

    return any(len(other) == len(after) and covers(other) for other in afters)


def compare(walk: Exploration, states: list[State]) -> Counter[str]:
    """How often which place was changed in a state that was still the same; what followed was.

    Raises:
        AssertionError: something else followed.
    """
    changes: Counter[str] = Counter()
    for state in states:
        for i, row in enumerate(state.rows):
            expected: set[Any] | None = None
            for where, varied in variants(row):
                if canonical(varied) != row or any(varied.told[k] not in (0, t) for k, t in enumerate(row.told)):
                    continue  # a name that is new was told to no member
                if expected is None:
                    expected = followers(walk, state, i, row)
                own = (state.heads, state.fencers, -1, row)
                got = followers(walk, state, i, varied)
                if where == "Row.told":
                    # Fewer: members that have heard of no table cannot use a limit that is over.
                    unlike = [after for after in got if not _covers(expected | {own}, after)]
                else:
                    unlike = list(got ^ expected)
                assert not unlike, f"{where} matters in {state}: {varied}: {unlike[0]}"
                assert walk._broken(varied) == walk._broken(row)
                changes[where] += 1
    return changes
