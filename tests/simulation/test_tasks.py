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


PINNED = {
    76: "a right to open was granted to an errand again and again, within one callback",
    17: "a loop lost its last connection to another one, and its head slept on",
    314: "a loop that waited to try again held a place that another one could have used",
    411: "a lower ceiling was each loop's, and not that of all together",
    883: "a caller opened a connection for itself, and the next one that max_connecting had put off was not opened",
}
"""Seeds that found a fault, by what it was."""


@pytest.mark.parametrize("seed", PINNED)
def test_a_fault_of_once_is_none_any_more(seed):
    assert failure(seed) == "", PINNED[seed]


@pytest.mark.parametrize("mutant", [*mutants.MUTANTS, *between.MUTANTS], ids=lambda mutant: mutant.name)
def test_a_rule_of_tasks_switched_off_is_found(mutant):
    seed = (mutants.SEEDS | between.SEEDS)[mutant.name]
    assert failure(seed) == "", "it has to be found by the rule's absence alone"
    assert mutants.hunt(mutant, 1, first=seed), "another seed: python -m tests.simulation.tasks.mutants"
