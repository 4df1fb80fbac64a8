"""The fleet's rules hold in every world that was drawn, and each rule switched off is found.

``python -m tests.simulation.fleet.mutants`` looks for the seeds again, ``make simulate ARGS="--world fleet"`` draws
more.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.simulation.__main__ import run_parallel
from tests.simulation.fleet.mutants import MUTANTS, SEEDS as FOUND, hunt
from tests.simulation.fleet.world import World, draw

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100")) // 5


@pytest.mark.timeout(3000)
def test_no_seed_breaks_the_fleet_s_budget_or_loses_a_permit():
    tally = run_parallel(0, SEEDS, world="fleet")
    assert tally.seeds == SEEDS
    assert tally.faults > 5 * SEEDS
    assert not tally.failed, "\n".join(tally.failed[0][1:])


def test_a_seed_is_the_same_run_every_time():
    first, second = World(11), World(11)
    first.run()
    second.run()
    assert first.log == second.log


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in FOUND], ids=lambda mutant: mutant.name)
def test_a_rule_of_the_fleet_switched_off_is_found(mutant):
    """The seed is known that finds it; if the worlds have changed, look for another."""
    assert hunt(mutant, range(mutant.seed, mutant.seed + 1)) is not None, f"seed {mutant.seed} finds it no more"
    World(mutant.seed).run()


def test_the_worlds_are_full_of_faults():
    kinds = [draw(random.Random(seed)) for seed in range(200)]
    for fault in ("pauses", "deaths", "crashes", "flushes", "failovers", "late", "slow", "clocks"):
        assert any(getattr(kind, fault) for kind in kinds), fault
