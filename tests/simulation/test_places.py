"""The worlds of addresses and of witnesses, and their rules switched off."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from tests.simulation import witnesses, witnesses_mutants
from tests.simulation.mutants import applied
from tests.simulation.places import mutants, world

SEEDS = max(10, int(os.environ.get("SIMULATION_SEEDS", "100")) // 50)
"""Of addresses: each takes a tenth of a second where nothing else runs."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(3000)
def test_no_seed_breaks_a_rule_of_addresses():
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        found = list(pool.map(world.failure, range(SEEDS)))
    assert [(seed, text) for seed, text in enumerate(found) if text] == []


KNOWN = [mutant for mutant in mutants.MUTANTS if mutant.name in mutants.SEEDS]


@pytest.mark.parametrize("mutant", KNOWN, ids=lambda mutant: mutant.name)
def test_a_rule_of_addresses_switched_off_is_found(mutant):
    seed = mutants.SEEDS[mutant.name]
    assert mutants.hunt(mutant, 1, first=seed), "another seed: python -m tests.simulation.places.mutants"


def test_no_seed_breaks_a_rule_of_outages():
    assert [(seed, text) for seed in range(300) if (text := witnesses.failure(seed))] == []


@pytest.mark.parametrize("mutant", witnesses_mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_rule_of_outages_switched_off_is_found(mutant):
    with applied(mutant):
        assert any(witnesses.failure(seed) for seed in range(1000))
