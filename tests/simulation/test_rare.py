"""Rules that few seeds need: each is known to be found by one, beyond those that every run tries."""

from __future__ import annotations

import pytest

from poolmgr.budget.ledger import Ledger
from tests.simulation.mutants import Mutant, applied
from tests.simulation.scenario import draw
from tests.simulation.shrink import failure

RARE = (
    (
        Mutant(
            "S3 what comes back is replaced in memory only",
            "the next supervisor finds the process alive",
            ((Ledger, "persist", lambda self: None),),
        ),
        2789,
    ),
)


@pytest.mark.parametrize(("mutant", "seed"), RARE, ids=lambda value: getattr(value, "name", str(value)))
def test_a_rule_switched_off_is_found_by_its_seed(mutant: Mutant, seed: int) -> None:
    assert not failure(draw(seed))
    with applied(mutant):
        assert failure(draw(seed)), "scenarios have changed: look for another seed"
