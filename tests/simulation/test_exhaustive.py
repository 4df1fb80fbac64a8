"""The smallest worlds in every order of every step; ``make simulate-exhaustive`` explores larger ones."""

from __future__ import annotations

import pytest

from poolmgr.supervisor.upstreams import proof
from tests.simulation.exhaustive import SMALL, describe, explore
from tests.simulation.mutants import MUTANTS, applied

FOUND = {
    "M1 ignores closing": "1 member, budget 1, supervisor crash",
    "M1 counts only idle": "1 member, budget 1, supervisor crash",
    "M1 no limit check": "1 member, budget 1, supervisor crash",
    "M2 acks early": "1 member, budget 1, supervisor crash",
    "M4 states its limit only": "1 member, budget 1, supervisor crash",
    "M4 states what is open only": "1 member, budget 1, supervisor crash",
    "M5 child inherits the limit": "2 members, budget 1, fork",
    "S1 no sum check": "2 members, budget 1, kill",
    "S1 quarantine not counted": "2 members, budget 1, kill",
    "S2 releases when told": "1 member, budget 1, supervisor crash",
    "S2 ack without sequence": "1 member, budget 1, supervisor crash",
    "S3 releases at the link's end": "1 member, budget 2, cut",
    "S3 no quarantine": "2 members, budget 1, kill",
    "S4 restarts without the snapshot": "1 member, budget 1, supervisor crash",
    "S4 drops the listed that died": "2 members, budget 1, supervisor crash and kill",
    "S4 drops the unregistered": "1 member, budget 1, supervisor crash",
    "snapshot of the newest limits": "1 member, budget 2, supervisor crash and smaller budget",
}
"""Rules that the smallest worlds need, and the smallest that does. The others are about time, several servers or
the shell."""


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("world", SMALL, ids=lambda world: world.name)
def test_a_small_world_is_safe_in_every_order_of_every_step(world):
    result = explore(world)
    print(describe(world, result))
    assert result.complete, describe(world, result)
    assert not result.stuck, describe(world, result)
    assert result.states > 500


@pytest.mark.parametrize("name", FOUND)
def test_a_rule_switched_off_is_found_with_a_short_trace(name):
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    world = next(world for world in SMALL if world.name == FOUND[name])
    with applied(mutant):
        result = explore(world)
    assert result.violation, describe(world, result)
    assert 5 < len(result.trace) < 20, describe(world, result)


def test_a_permit_that_never_comes_back_is_found(monkeypatch):
    """The other half of the claim: nothing is lost."""
    world = next(world for world in SMALL if world.kills)
    assert not explore(world).stuck
    monkeypatch.setattr(proof, "judge", lambda rows, targets, **how: proof.Verdict(frozenset(), (), ()))
    result = explore(world)
    assert result.stuck
    assert result.trace
