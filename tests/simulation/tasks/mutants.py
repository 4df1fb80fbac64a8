"""The rules of the shell for tasks, switched off: the world of tasks must notice each one.

A ticket that its task loses is no mutant: nothing refers to it any more, so the core hears of its end by itself.

``python -m tests.simulation.tasks.mutants`` shows for each how many seeds it took.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from poolmgr.native import monotonic
from poolmgr.pool import admission
from poolmgr.pool.aio import claims, connector
from poolmgr.pool.aio.parker import TaskParker
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.queue import PoolCore, Ticket, Wake
from poolmgr.pool.waiting import Caller
from tests.simulation.mutants import Mutant, applied
from tests.simulation.tasks.world import failure


def _leaves_only(self: Caller) -> None:
    self._pool._core.leave(self._waiter)


def _rings_here_only(self: TaskParker) -> None:
    if asyncio._get_running_loop() is self._loop:
        self._ring()


async def _swallows(self: TaskParker, seconds: float) -> bool:
    try:
        return await _parks(self, seconds)
    except asyncio.CancelledError:
        return False


def _buries_no_claimants(self: Shard) -> None:
    self.claimants.clear()
    _bury(self)


def _buries_no_connections(self: Shard) -> None:
    while self.claimants:
        self.claimants.pop().leave()


async def _opens_and_forgets(shard: Shard, ticket: Ticket, deadline: float) -> Any:
    try:
        return await connector.made(shard, ticket, deadline)
    except Exception as error:
        admission.attempt_failed(shard, ticket, error)
        raise


async def _waits_and_stays(permits: Any, timeout: float | None, claimants: set[Any]) -> Any:
    parker = TaskParker(asyncio.get_running_loop())
    claimant = permits.claimant(timeout, parker)
    while isinstance(found := claimant.look(), float):
        await claims.sleep(permits, parker, found)
    claimant.leave()
    return found


async def _renews_and_forgets(shard: Shard, connection: Any, reason: str, deadline: float) -> None:
    ticket = connection._ticket
    await connection.disconnect()
    ticket.born = monotonic()
    try:
        await connection.connect()
    except Exception as error:
        admission.attempt_failed(shard, ticket, error)
        raise
    shard._core.reached()
    admission.welcome(shard, connection)


def _settles_quietly(self: PoolCore, now: float, take: Any) -> Any:
    for effect in _advance(self, now, take):
        if not isinstance(effect, Wake) or effect.waiter.fate is None or self.is_head(effect.waiter):
            yield effect


_parks, _bury, _advance = TaskParker.wait, Shard.bury, PoolCore.advance

SEEDS = {
    "what a cancelled waiter was given stays with it": 1,
    "a renewal that is cancelled keeps its place": 59,
    "the next head does not hear that it is the head": 122,
    "a ring from another thread is lost": 1,
    "a cancellation is swallowed": 1,
    "a closed loop keeps its connections": 0,
    "a closed loop keeps its place among those that reconnect": 36,
    "a connect that is cancelled keeps its place": 8,
    "one that reconnects and is cancelled keeps its place among those": 3,
    "those that fail with another's attempt are not woken": 0,
}
"""A seed that finds it, by name."""

MUTANTS = (
    Mutant("what a cancelled waiter was given stays with it", "the others wait", ((Caller, "give_up", _leaves_only),)),
    Mutant(
        "the next head does not hear that it is the head",
        "nobody minds when the next attempt is due",
        ((Shard, "_remind", lambda self: None),),
    ),
    Mutant("a ring from another thread is lost", "it sleeps", ((TaskParker, "ring", _rings_here_only),)),
    Mutant("a cancellation is swallowed", "its task goes on", ((TaskParker, "wait", _swallows),)),
    Mutant("a closed loop keeps its connections", "with their permits", ((Shard, "bury", _buries_no_connections),)),
    Mutant(
        "a closed loop keeps its place among those that reconnect",
        "nobody gets the last permit any more",
        ((Shard, "bury", _buries_no_claimants),),
    ),
    Mutant(
        "a connect that is cancelled keeps its place",
        "and its permit",
        ((connector, "open_here", _opens_and_forgets),),
    ),
    Mutant(
        "one that reconnects and is cancelled keeps its place among those",
        "nobody gets the last permit any more",
        ((claims, "_wait", _waits_and_stays),),
    ),
    Mutant(
        "a renewal that is cancelled keeps its place", "and its permit", ((connector, "_renew", _renews_and_forgets),)
    ),
    Mutant(
        "those that fail with another's attempt are not woken",
        "they sleep",
        ((PoolCore, "advance", _settles_quietly),),
    ),
)


def hunt(mutant: Mutant, seeds: int, first: int = 0) -> tuple[int, str] | None:
    """The first seed that finds it, and how."""
    with applied(mutant):
        for seed in range(first, first + seeds):
            if text := failure(seed):
                return seed, text
    return None


def main() -> int:
    from tests.simulation.tasks import between

    missing = 0
    for mutant in (*MUTANTS, *between.MUTANTS):
        began = time.monotonic()
        found = hunt(mutant, 1000)
        missing += found is None
        print(f"{found[0] if found else '-':>5} {time.monotonic() - began:6.1f} s  {mutant.name}: {found and found[1]}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
