"""A short storm with every fault, in every run of the suite; ``make chaos MINUTES=5`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.storm import Storm


@pytest.mark.parametrize("seed", [1])
def test_no_storm_overspends_the_budget_fails_a_request_or_leaves_anything(short_dir: Path, seed: int) -> None:
    report = Storm(short_dir, seed, seconds=12, least=6).run()
    assert report.passed, f"{report}\n{report.log[-3000:]}"
    assert len(report.done) > 5
