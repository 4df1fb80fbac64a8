"""Half a minute of the fleet's oracle, in every run of the suite; ``make fleet-oracle SECONDS=300`` is the long one."""

from __future__ import annotations

import os
import shutil

import pytest

from tests.fleet import oracle

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="the program ip (package iproute2) is not installed"),
    pytest.mark.skipif(shutil.which("nsenter") is None, reason="there is no nsenter (util-linux)"),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", [1])
def test_no_fault_overspends_the_fleets_budget_or_fails_a_request_elsewhere(seed: int) -> None:
    with oracle.oracle(seed) as made:
        made.run(20.0)
        assert made.rejected == 0, made.log
        assert not made.unexplained, [*made.log, *made.unexplained]
        assert made.good > 100
        assert sum(made.faults.values()) > 5


def test_without_the_proof_it_rejects() -> None:
    """Or it could not see anything."""
    for seed in (1, 2, 3):
        with oracle.oracle(seed, "proof") as made:
            made.run(25.0)
            if made.rejected:
                return
    pytest.fail("no connection was rejected in three runs")
