"""The rules of the permit protocol hold in every world that was drawn; ``make simulate SEEDS=10000`` draws more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.__main__ import report, run_parallel
from tests.simulation.mutants import MUTANTS, applied
from tests.simulation.scenario import FAULTS, LIVES, LOSS, STRANGERS, draw
from tests.simulation.shrink import failure, shorter
from tests.simulation.world import World

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100"))


@pytest.mark.timeout(3000)
def test_no_seed_breaks_a_rule_loses_a_permit_or_starves_a_caller():
    tally = run_parallel(0, SEEDS)
    assert tally.seeds == SEEDS
    assert tally.faults > 5 * SEEDS
    assert not tally.failed, report(*tally.failed[0])


def test_a_seed_is_the_same_run_every_time():
    script = (
        "from tests.simulation.scenario import FAULTS, draw\n"
        "from tests.simulation.world import World\n"
        "worlds = [World(draw(seed)).run() for seed in range(12) if len(draw(seed).workers) < 10]\n"
        "print([(world.steps, world.turns, world.clock.now) for world in worlds])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(runs) == 1


def test_a_failing_seed_is_shortened_and_its_trace_ends_with_the_violation():
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "M2 acks early")
    with applied(mutant):
        seed = next(seed for seed in range(50) if len(draw(seed).faults) > 3 and failure(draw(seed)))
        found = shorter(draw(seed))
        assert failure(found)
        assert len(found.faults) < len(draw(seed).faults)
        text = report(seed, failure(draw(seed)))
    assert f"--replay {seed}" in text
    assert "violated: " in text


def test_the_worlds_are_full_of_faults():
    kinds = {fault.kind for seed in range(200) for fault in draw(seed).faults}
    assert kinds == {*FAULTS, LOSS, STRANGERS, *LIVES}
    assert any(draw(seed).lost_snapshot for seed in range(200))
    assert any(len(draw(seed).workers) > 100 for seed in range(1000))
    assert any(World(draw(seed)).run().unproven for seed in range(40) if len(draw(seed).workers) < 10)
