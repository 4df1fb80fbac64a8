"""Worlds without faults, to measure how permits are shared: whether quickly, fairly and calmly."""

from __future__ import annotations

import msgspec

from tests.simulation.scenario import Scenario, Worker
from tests.simulation.world import World


class Measured(msgspec.Struct, frozen=True):
    """What a stretch of time came to.

    Attributes:
        reconnects: connections made each second.
        used: mean share of the budget that was lent to callers.
        longest: the longest wait of a caller for a connection, in seconds.
        turns: how often each process's callers were served.
        limits: each process's limit at the end.
    """

    reconnects: float
    used: float
    longest: float
    turns: tuple[int, ...]
    limits: tuple[int, ...]


def world(budget: int, workers: tuple[Worker, ...], seed: int = 1) -> World:
    """Nothing fails in it."""
    calm = Scenario(seed, (budget,), workers, (), duration=0.0, slow=0.0, slowness=1.0)
    made = World(calm)
    for kind in workers:
        made.start(kind)
    return made


def measure(made: World, seconds: float, *, sample: float = 0.005) -> Measured:
    """Run on for ``seconds``."""
    processes = list(made.processes.values())
    pools = [process.pools[0] for process in processes]
    created, turns = [pool.created for pool in pools], [_turns(process) for process in processes]
    budget = made.servers["r0"].budget
    began, end = made.clock.now, made.clock.now + seconds
    used = samples = 0
    for pool in pools:
        for caller in pool.callers:
            caller.waited = 0.0
    while made.clock.now < end:
        made.until(min(end, made.clock.now + sample))
        used += sum(len(pool.lent) for pool in pools)
        samples += 1
    now = made.clock.now
    waits = [
        max(caller.waited, now - max(caller.since, began) if caller.waiting else 0.0)
        for pool in pools
        for caller in pool.callers
    ]
    accounts = made.supervisor.ledger.servers["r0"].accounts if made.supervisor else {}
    return Measured(
        reconnects=sum(pool.created - before for pool, before in zip(pools, created, strict=True)) / seconds,
        used=used / samples / budget,
        longest=max(waits),
        turns=tuple(_turns(process) - before for process, before in zip(processes, turns, strict=True)),
        limits=tuple(accounts[process.tag].limit if process.tag in accounts else 0 for process in processes),
    )


def _turns(process: object) -> int:
    return sum(caller.turns for pool in process.pools for caller in pool.callers)  # type: ignore[attr-defined]
