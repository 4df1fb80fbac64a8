"""The fleet's smallest worlds over the real code, as far as a run of the tests can walk them.

``make simulate-fleet`` walks them further. Rules that are switched off show that a walk can find something.
"""

from __future__ import annotations

import pytest

from tests.simulation.fleet.exhaustive import LARGE, SMALL, World, describe, explore
from tests.simulation.fleet.exhaustive.scenarios import SCENARIOS, follow
from tests.simulation.fleet.mutants import MUTANTS, off

FOUND = {
    "F1 raised though it does not fit": World(name="calm"),
    "F1 marked grants do not count": World(name="calm"),
    "F2 freed when the lease ends": World(name="calm"),
    "F2 said before it is obeyed": World(name="calm"),
    "F6 freed when it is marked": World(name="calm"),
    "F8 a new table raises at once": World(name="FLUSHALL", flushes=1),
}
"""Rules that some ten thousand states need. ``mutants.py`` has a seed for the others, or there is a scenario."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", [*SMALL, *LARGE], ids=lambda world: world.name)
def test_a_small_world_is_safe_in_every_order_of_its_first_steps(world):
    result = explore(world, limit=2_000, progress=False)
    print(describe(world, result))
    assert not result.violation, describe(world, result)
    assert result.states >= 2_000


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FOUND)
def test_a_rule_of_the_fleet_switched_off_has_a_short_trace(name):
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with off(mutant) as edit:
        result = explore(FOUND[name], limit=400_000, edit=edit, progress=False)
    assert result.violation, describe(FOUND[name], result)
    assert 5 < len(result.trace) < 25, describe(FOUND[name], result)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.rule)
def test_a_rule_of_the_fleet_has_a_scenario_that_breaks_without_it(scenario):
    """And does not with it."""
    result = follow(scenario)
    assert not result.violation, describe(scenario.world, result)
    mutant = next(mutant for mutant in MUTANTS if mutant.name == scenario.rule)
    with off(mutant) as edit:
        result = follow(scenario, edit)
    assert result.violation, describe(scenario.world, result)


@pytest.mark.timeout(600)
def test_a_permit_of_the_fleet_that_never_comes_back_is_found():
    """The other half of the claim: nothing is lost. Here the table learns for ever."""
    world = World(name="1 host", hosts=1, names=1)
    assert explore(world).stuck == 0
    result = explore(world, edit=lambda text: text.replace("  t.learning = false\n", ""))
    assert result.complete
    assert result.stuck > 0
