"""The simulation is itself tested: any rule switched off, it finds a violation within the seeds that every
run of CI explores; and the same seed passes with all rules on."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, hunt

SEEDS = 2000
"""How many seeds CI explores."""


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_rule_switched_off_is_found(mutant):
    # The seed that is known to find it first; if scenarios have changed, look for another.
    known = hunt(mutant, 1, first=mutant.seed)
    found = known or hunt(mutant, SEEDS)
    assert found is not None, f"{mutant.name}: not one of {SEEDS} seeds finds it"
    assert found[0] < SEEDS, f"{mutant.name}: only seed {found[0]} finds it, the tests run {SEEDS}"
