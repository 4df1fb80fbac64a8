"""Promise P2 in many worlds without faults: a permit that nobody uses goes to whoever waits, and soon."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from tests.simulation.calm import world
from tests.simulation.scenario import Worker
from tests.simulation.world import World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100")) // 5

SOON = 0.2
"""Seconds for which somebody may wait although something is unused. Half of these worlds stay within 20 ms at their
worst; the rest is that who has nothing to spare is asked again after 50 ms, and then has the guard's time."""


def drawn(rng: random.Random) -> Worker:
    """Steady, hot, in bursts, seldom; some keep, some have two pools."""
    service = rng.choice((0.001, 0.003, 0.01, 0.1))
    threads = rng.randint(1, 8)
    period = rng.choice((0.02, 0.1, 0.5))
    kinds = (
        Worker(threads, service, service * rng.choice((0.1, 1, 5))),
        Worker(threads, service, 0.0005),
        Worker(threads, service, service, on=period, off=period, phase=rng.uniform(0, 2 * period)),
        Worker(1, service, 0.5),
        Worker(threads, service, service, kept=min(threads, rng.randint(1, 3)), keep=rng.choice((0.4, 2.0, 1e6))),
    )
    return msgspec.structs.replace(
        rng.choice(kinds),
        pools=rng.choice((1, 1, 1, 2)),
        lifo=rng.random() < 0.3,
    )


def worst(made: World, seconds: float) -> tuple[float, str]:
    """The longest time for which one permit was unused, idle or free, while somebody waited, and when."""
    longest, text = 0.0, ""
    free_since = made.clock.now
    end = made.clock.now + seconds
    while made.clock.now < end:
        made.until(made.clock.now + 0.005)
        now = made.clock.now
        pools = [pool for process in made.processes.values() for pool in process.pools]
        ledger = made.supervisor.ledger.servers["r0"] if made.supervisor else None
        if ledger is None or ledger.free <= max(0, ledger.own_wanted - ledger.own):
            free_since = now
        waiting = [c.since for pool in pools for c in pool.callers if c.waiting]
        unused = min([free_since, *(held.idle_since for pool in pools for held in pool.core.idle)])
        if waiting and now - max(unused, min(waiting)) > longest:
            longest = now - max(unused, min(waiting))
            text = f"at {now:.3f}: {ledger and ledger.free} free, {pools}"
    return longest, text


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nobody_waits_for_long_while_a_permit_is_unused(seed: int):
    rng = random.Random(seed)
    workers = tuple(drawn(rng) for _ in range(rng.randint(2, 8)))
    threads = sum(worker.threads * worker.pools for worker in workers)
    made = world(rng.randint(2, max(3, threads)), workers, seed)
    longest, text = worst(made, 4.0)
    assert longest <= SOON, f"{longest:.3f} s {text}"
