"""The rules by which the parts of a pool in several loops share it, switched off; and how the shell carries them out.

Rules that spare a connect, or that hold only where another loop is held up, are no mutants: what breaks without them
lasts no longer here than what is allowed. ``tests/unit/test_pool_parts.py`` has the properties of each.
"""

from __future__ import annotations

from typing import Any

from poolmgr.pool import admission, parts
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.aio.shards import Shards
from poolmgr.pool.parts import NEVER, Part, Return
from tests.simulation.mutants import Mutant

_came_back = parts.came_back


def _its_own(part: Part, others: Any, ceiling: int, now: float) -> int:
    return ceiling


def _nothing(found: Any, count: int) -> list[int]:
    return [0] * len(found)


def _again_and_again(part: Part, now: float) -> float:
    return NEVER if not parts.lacks(part, now) else max(0.0, part.got_at + parts.WORTH * part.connect_time - now)


def _lacks_at_the_ceiling_only(part: Part, now: float) -> bool:
    return parts.needy(part) and now >= part.retry_at and part.size >= part.ceiling


def _instead(of: Return, found: Return) -> Any:
    def decide(brought: Any, sender: Any, now: float) -> Return:
        what = _came_back(brought, sender, now)
        return found if what is of else what

    return decide


def _lies_there(self: Shards, connection: Any) -> None:
    connection._shard._idle.append(connection)


def _plans_once(self: Shards, shard: Shard, now: float) -> float:
    return parts.patience(shard.part(), now) if len(self._shards) > 1 and shard._queue else NEVER


def _opens_no_more(pool: Any, ticket: Any, connection: Any, seconds: float) -> None:
    pool._core.opened(ticket, seconds)
    admission.welcome(pool, connection)


SEEDS = {
    "each loop has the pool's ceiling": 1,
    "no loop gives up what lies idle": 519,
    "a lower ceiling closes nothing": 504,
    "no loop asks another one": 5,
    "a loop asks while it has asked": 0,
    "a loop without a permit asks no other one": 5,
    "a right to open that an errand brings is lost": 5,
    "kept connections are not handed on": 80,
    "the head is not told that its look comes earlier": 45,
    "who has opened for itself does not open the next one": 883,
}
"""A seed that finds it, by name."""

MUTANTS = (
    Mutant("each loop has the pool's ceiling", "together they exceed it", ((parts, "room", _its_own),)),
    Mutant("no loop gives up what lies idle", "another one's task has nothing", ((parts, "gives", _nothing),)),
    Mutant("a lower ceiling closes nothing", "each loop has as many", ((Shards, "_shrink", lambda self: None),)),
    Mutant("no loop asks another one", "its tasks wait", ((parts, "patience", lambda part, now: NEVER),)),
    Mutant("a loop asks while it has asked", "errands without an end", ((parts, "patience", _again_and_again),)),
    Mutant(
        "a loop without a permit asks no other one", "its tasks wait", ((parts, "lacks", _lacks_at_the_ceiling_only),)
    ),
    Mutant(
        "a right to open that an errand brings is lost",
        "nobody opens",
        ((parts, "came_back", _instead(Return.HAND_OVER, Return.NOTHING)),),
    ),
    Mutant("kept connections are not handed on", "one lies idle beside a waiter", ((Shards, "_keep", _lies_there),)),
    Mutant("the head is not told that its look comes earlier", "it sleeps", ((Shards, "_patience", _plans_once),)),
    Mutant(
        "who has opened for itself does not open the next one", "others wait", ((admission, "opened", _opens_no_more),)
    ),
)
