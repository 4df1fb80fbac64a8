"""The fleet's smallest worlds over the real code, as far as a run of the tests can walk them.

``make simulate-fleet-small`` walks the smallest to their end. Rules that are switched off show that a walk can find
something.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest

from tests.simulation.fleet.exhaustive import LARGE, SMALL, World, alike, describe, explore, layers, states
from tests.simulation.fleet.exhaustive.explore import Exploration
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


LONE = (
    World(name="1 host, a death", hosts=1, deaths=1),
    World(name="1 host, FLUSHALL", hosts=1, names=1, flushes=1),
)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", LONE, ids=lambda world: world.name)
def test_the_walk_by_layers_comes_to_the_same_end(world):
    one, other = explore(world), layers.explore(world)
    assert one.complete
    assert other.complete
    assert (one.states, one.depth, one.stuck) == (other.states, other.depth, other.stuck)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "faults",
    [
        {"deaths": 1, "slow": 1, "late": 1, "fencers": 2},
        {"flushes": 1, "lost": 1, "crashes": 1},
        {"failovers": 1, "lags": 1, "old": True, "back": 1},
        {"budget": 2, "demands": (0, 2), "ticks": True, "deaths": 1, "reborn": 1},
        {"hosts": 3, "names": 1, "deaths": 1},
    ],
    ids=" ".join,
)
def test_the_walk_by_layers_takes_the_same_steps(faults):
    """Each layer has as many states."""
    world = World(name="the same", **faults)
    walk, other = Exploration(world, lambda text: text, progress=False), layers.Layers(world)
    walk.run(6_000)
    depths = [0]
    for parent in walk.parent[1:]:
        depths.append(depths[parent] + 1)
    of = Counter(depths)
    other.run(sum(of[depth] for depth in range(depths[-1])), progress=False)
    assert [of[depth] for depth in range(depths[-1])] == [*map(len, other.layers)][: depths[-1]]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["F2 said before it is obeyed", "F8 a new table raises at once"])
def test_the_walk_by_layers_finds_a_shortest_trace(name):
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    with off(mutant) as edit:
        one = explore(FOUND[name], limit=400_000, edit=edit, progress=False)
        other = layers.explore(FOUND[name], limit=400_000, edit=edit, progress=False)
    assert other.violation
    assert other.trace
    assert len(other.trace) == len(one.trace)


def test_the_walk_by_layers_finds_a_permit_that_never_comes_back():
    world = World(name="1 host", hosts=1, names=1)
    assert layers.explore(world).stuck == 0
    result = layers.explore(world, edit=lambda text: text.replace("  t.learning = false\n", ""))
    assert result.stuck == explore(world, edit=lambda text: text.replace("  t.learning = false\n", "")).stuck > 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", LONE, ids=lambda world: world.name)
def test_a_walk_with_all_of_each_state_sees_the_same(world, monkeypatch):
    """The states of the smaller walk are those of the whole one, without what they leave out: none is missing, and none
    is new. But where members have heard of no table, they have in the smaller one."""

    def seen():
        walk = Exploration(world, lambda text: text, progress=False)
        assert walk.run(100_000).complete
        return [walk.state(packed) for packed in walk.order]

    def left(state):
        return state._replace(rows=tuple(states.canonical(row)._replace(told=()) for row in state.rows))

    small = seen()
    with monkeypatch.context() as patched:
        patched.setattr(states, "forget", lambda row: row)
        whole = seen()
    assert len(whole) > 1.5 * len(small)
    assert {left(state) for state in whole} == {left(state) for state in small}


WORLDS = (
    World(name="a death, two fencers", deaths=1, fencers=2),
    World(name="FLUSHALL", flushes=1),
    World(name="a supervisor crash", crashes=1),
    World(name="slow connects", slow=1),
    World(name="lost and late", lost=1, late=1),
    World(name="an old primary lives on", failovers=1, lags=1, old=True, back=1),
    World(name="an old pass", budget=2, demands=(0, 2), ticks=True),
)


def _compared(world: World, states: int = 60) -> Counter[str]:
    walk = Exploration(world, lambda text: text, progress=False)
    walk.run(10_000)
    chosen = random.Random(1).sample(walk.order, states)
    return alike.compare(walk, [walk.state(packed) for packed in chosen])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_what_a_walk_leaves_out_of_a_state_is_read_by_nothing(world):
    changed = _compared(world)
    print(changed)
    assert changed.total() > 100
    assert changed["Record.seq"]
    assert changed["Reply.learning"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("field", "value"), [("grant", 0), ("marked", False), ("end", states.PASSED), ("seq", 0)])
def test_what_a_walk_must_not_leave_out_is_found(monkeypatch, field, value):
    """A lease's record, without one of the things that are read of it."""
    forget = states.forget

    def too_much(row):
        row = forget(row)
        places = [[r and r._replace(**{field: value}) for r in place] for place in row.records]
        return row._replace(records=tuple(map(tuple, places)))

    monkeypatch.setattr(states, "forget", too_much)
    with pytest.raises(AssertionError, match=f"Record.{field} matters|Request.seq matters"):
        _compared(World(name="late requests", budget=2, demands=(0, 2), late=2), states=600)
