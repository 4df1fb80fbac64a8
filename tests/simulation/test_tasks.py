"""The world of tasks, and the rules of the shell for tasks switched off."""

from __future__ import annotations

import os

import pytest

from tests.simulation.tasks import between, mutants
from tests.simulation.tasks.world import failure

SEEDS = max(20, int(os.environ.get("SIMULATION_SEEDS", "100")) // 20)
"""Each takes a twentieth of a second where nothing else runs."""


@pytest.mark.timeout(3000)
def test_no_seed_breaks_a_rule_of_tasks():
    assert [(seed, text) for seed in range(SEEDS) if (text := failure(seed))] == []


@pytest.mark.parametrize("mutant", [*mutants.MUTANTS, *between.MUTANTS], ids=lambda mutant: mutant.name)
def test_a_rule_of_tasks_switched_off_is_found(mutant):
    """By the seed that is known to find it, or by another one: tasks take other steps in other versions of Python."""
    seed = (mutants.SEEDS | between.SEEDS)[mutant.name]
    found = mutants.hunt(mutant, 1, first=seed) or mutants.hunt(mutant, 400)
    assert found, "another seed: python -m tests.simulation.tasks.mutants"
    assert failure(found[0]) == "", "it has to be found by the rule's absence alone"
