"""The smallest worlds in every order of every step; ``make simulate-exhaustive`` explores larger ones."""

from __future__ import annotations

import pytest

from poolmgr.supervisor import proof
from tests.simulation.exhaustive import SMALL, describe, explore
from tests.simulation.mutants import MUTANTS, applied

FOUND = (
    "M1 ignores closing",
    "M1 counts only idle",
    "M1 no limit check",
    "M2 acks early",
    "M4 states its limit only",
    "M4 states what is open only",
    "M5 child inherits the limit",
    "S1 no sum check",
    "S1 quarantine not counted",
    "S2 releases when told",
    "S2 ack without sequence",
    "S3 releases at the link's end",
    "S3 no quarantine",
    "S4 restarts without the snapshot",
    "S4 drops the listed that died",
    "S4 drops the unregistered",
)
"""Rules that the smallest worlds need. The others are about time, several servers or the shell."""


@pytest.mark.timeout(600)
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
    with applied(mutant):
        results = [result for world in SMALL if (result := explore(world)).violation]
    assert results, f"no small world needs it: {name}"
    assert len(min((result.trace for result in results), key=len)) < 20


def test_a_permit_that_never_comes_back_is_found(monkeypatch):
    """The other half of the claim: nothing is lost."""
    world = next(world for world in SMALL if world.kills)
    assert not explore(world).stuck
    monkeypatch.setattr(proof, "judge", lambda rows, targets, **how: proof.Verdict(frozenset(), (), ()))
    result = explore(world)
    assert result.stuck
    assert result.trace
