"""The simulation is itself tested: any rule switched off, it finds a violation within the seeds that every
run of CI explores; and the same seed passes with all rules on."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, applied, hunt
from tests.simulation.scenario import draw
from tests.simulation.shrink import failure

SEEDS = 2000
"""How many seeds CI explores."""

FOUND = [mutant for mutant in MUTANTS if not mutant.harmless]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mutant", FOUND, ids=lambda mutant: mutant.name)
def test_a_rule_switched_off_is_found(mutant):
    # The seed that is known to find it first; if scenarios have changed, look for another.
    known = hunt(mutant, 1, first=mutant.seed)
    found = known or hunt(mutant, SEEDS)
    assert found is not None, f"{mutant.name}: not one of {SEEDS} seeds finds it"
    assert found[0] < SEEDS, f"{mutant.name}: only seed {found[0]} finds it, the tests run {SEEDS}"


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.harmless], ids=lambda mutant: mutant.name)
def test_a_rule_whose_absence_is_known_to_have_no_effect_has_none(mutant):
    assert len(mutant.harmless) > 40, "it must be said why"
    with applied(mutant):
        for seed in range(60):
            scenario = draw(seed)
            if len(scenario.workers) < 20:
                assert not failure(scenario), f"seed {seed} finds it after all"
