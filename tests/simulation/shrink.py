"""A failing scenario made shorter: leave out what is not needed for it to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tests.simulation.scenario import Scenario
from tests.simulation.world import Violation, World


def failure(scenario: Scenario) -> str:
    """What is violated; empty if nothing is."""
    try:
        World(scenario).run()
    except Violation as violation:
        return str(violation)
    except Exception as error:  # a crash of the code under test is a failure like any other
        return f"{type(error).__name__}: {error}"
    return ""


def shorter(scenario: Scenario, tries: int = 400) -> Scenario:
    """The smallest failing one that is found by leaving out faults and members, within ``tries`` runs."""
    left = [tries]

    def fails(candidate: Scenario) -> bool:
        left[0] -= 1
        return left[0] >= 0 and bool(failure(candidate))

    plainer: list[dict[str, Any]] = [{"repeats": 0.0}, {"slow": 0.0}, {"budgets": scenario.budgets[:1]}]
    for change in plainer:
        candidate = msgspec.structs.replace(scenario, **change)
        if candidate != scenario and fails(candidate):
            scenario = candidate
    before = None
    while before != scenario and left[0] > 0:
        before = scenario
        scenario = _leave_out(scenario, "faults", fails)
        scenario = _leave_out(scenario, "workers", fails)
    return scenario


def _leave_out(scenario: Scenario, what: str, fails: Callable[[Scenario], bool]) -> Scenario:
    """Delta debugging (Zeller): leave out halves, then quarters, then single ones."""
    items: tuple[Any, ...] = getattr(scenario, what)
    size = max(1, len(items) // 2)
    while items:
        at = 0
        while at < len(items):
            candidate = msgspec.structs.replace(scenario, **{what: items[:at] + items[at + size :]})
            if fails(candidate):
                scenario, items = candidate, getattr(candidate, what)
            else:
                at += size
        if size == 1:
            break
        size //= 2
    return scenario
