"""The fleet's rules hold in every world that was drawn, and each rule switched off is found.

``python -m tests.simulation.fleet.mutants`` looks for the seeds again, ``make simulate ARGS="--world fleet"`` draws
more.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.simulation.__main__ import run_parallel
from tests.simulation.fleet.mutants import MUTANTS, SEEDS as FOUND, hunt
from tests.simulation.fleet.world import LEASE, Kind, World, draw

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "100")) // 5


@pytest.mark.timeout(3000)
def test_no_seed_breaks_the_fleet_s_budget_or_loses_a_permit():
    tally = run_parallel(0, SEEDS, world="fleet")
    assert tally.seeds == SEEDS
    assert tally.faults > 5 * SEEDS
    assert not tally.failed, "\n".join(tally.failed[0][1:])


def test_a_seed_is_the_same_run_every_time():
    first, second = World(11), World(11)
    first.run()
    second.run()
    assert first.log == second.log


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.name in FOUND], ids=lambda mutant: mutant.name)
def test_a_rule_of_the_fleet_switched_off_is_found(mutant):
    """By the seed that is known to find it; if the script gives out permits otherwise by now, by another one."""
    found = hunt(mutant, range(mutant.seed, mutant.seed + 1)) or hunt(mutant, range(200))
    assert found is not None, "python -m tests.simulation.fleet.mutants looks for a seed"
    World(found[0], mutant.kind).run()


def test_a_supervisor_gets_no_answer_to_its_predecessors_question():
    """Without a snapshot both number their questions alike. The answer goes to a connection that has ended."""
    world = World(0, Kind(hosts=1))
    (host,) = world.hosts
    world.now = LEASE
    host.save()
    assert host.send(6, 2, 0.0)
    host.crash(lost=True)
    world.now = 2 * LEASE
    host.save()
    assert host.send(6, 2, 0.0)
    predecessors, own = host.under_way
    assert predecessors.seq == own.seq
    world._execute(host, predecessors)
    assert host.inbox == []
    world._execute(host, own)
    assert [seq for seq, _ in host.inbox] == [own.seq]


def test_the_worlds_are_full_of_faults():
    kinds = [draw(random.Random(seed)) for seed in range(200)]
    for fault in ("pauses", "deaths", "crashes", "flushes", "failovers", "late", "slow", "clocks"):
        assert any(getattr(kind, fault) for kind in kinds), fault


def later(text: str) -> str:
    """The script of a later version, which has a field more in each record and in the table's."""
    for old, new in (
        ("'able' or '-', host, rest)", "'able' or '-', host, ' later')"),
        ("local function head_text(t)\n", "local function head_text(t)\n  t.rest = ' later'\n"),
    ):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def test_two_versions_of_the_script_share_a_table():
    """Every other question is answered by the script of a later version. What it adds is kept by the earlier one."""
    kept, seeds = 0, 20
    for seed in range(seeds):
        world = World(seed, later=later)
        world.run()
        fields = world.server.table.hash
        assert fields["!"].endswith(" later")
        assert all(len(text.split()) in (9, 10) for field, text in fields.items() if field != "!" and field[0] != "x")
        kept += sum(text.endswith(" later") for field, text in fields.items() if field != "!")
    assert kept > seeds


def test_a_field_of_a_later_version_that_is_lost_is_noticed():
    """The check above can fail."""

    def forgets(text: str) -> str:
        return text.replace("t.ripe, t.marked, t.rest)", "t.ripe, t.marked, '')")

    worlds = [World(seed, edit=forgets, later=later) for seed in range(10)]
    for world in worlds:
        world.run()
    assert not all(world.server.table.hash["!"].endswith(" later") for world in worlds)
