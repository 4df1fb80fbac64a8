"""The benchmarks' own arithmetic: a ratio, a spread and a verdict that are wrong would be believed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bench.lib.layout import rows, spread
from bench.lib.measure import percentile, turns
from bench.lib.results import Goal, Part, Run, Spread, Table, load


def table() -> Table:
    made = Table(key="t", title="Time", unit="ms", reference="peer")
    for ours, peer in ((1.0, 2.0), (30.0, 60.0), (3.0, 4.0)):  # the second round was slow for both
        made.add("ours", ours)
        made.add("peer", peer)
    return made


def test_a_ratio_is_taken_round_by_round():
    assert table().ratio("ours") == Spread(0.5, 0.5, 0.75, 3)


def test_from_ten_rounds_on_the_spread_leaves_out_a_tenth_at_each_end():
    assert Spread.of([100, *range(1, 10)]) == Spread(5.5, 2, 9, 10)


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (Goal(what="", table="t", variant="ours", against="peer", at_most=0.5), True),
        (Goal(what="", table="t", variant="ours", against="peer", at_most=0.49), False),
        (Goal(what="", table="t", variant="ours", at_least=4), False),
        (Goal(what="", table="t", variant="nobody", at_most=1), None),
        (Goal(what="", table="other", variant="ours", at_most=1), None),
    ],
)
def test_a_goal_is_judged_by_the_median(goal: Goal, met: bool | None):
    part = Part(key="p", title="P", tables=[table()], goals=[goal])
    assert part.judged()[0].met is met


def test_contestants_take_turns_and_nobody_is_always_first():
    order = list(turns(["a", "b", "c"], 4, collect=False))
    assert [sorted(name for number, name in order if number == n) for n in range(4)] == [["a", "b", "c"]] * 4
    assert len({next(name for number, name in order if number == n) for n in range(4)}) > 1


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(1, 101)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1.0)) == (50, 99, 100)
    assert math.isnan(percentile([], 0.5))


def test_places_are_laid_out_across():
    made = Table(key="t", title="T", unit="1/s", reference="peer", axis="threads")
    for place in (1, 2):
        made.add("ours", 2 * place, place)
        made.add("peer", place, place)
    head, body = rows(made, " / ")
    assert head == ["threads", "ours", "peer"]
    assert body == [["1", "2 / 2×", "1"], ["2", "4 / 2×", "2"]]


def test_figures_have_three_digits():
    assert spread(Spread(12345.6, 0.01234, 123.4, 5), "ms") == "12,300 ms (0.0123–123)"


def test_a_run_is_read_as_it_was_written(tmp_path: Path):
    run = Run(
        when="now", version="1", revision="", quick=False, machine={}, software={},
        parts=[Part(key="p", title="P", tables=[table()])],
    )  # fmt: skip
    run.save(tmp_path / "results.json")
    assert load(tmp_path / "results.json").parts[0].tables[0].ratio("ours") == table().ratio("ours")


def test_the_guard_notices_what_has_become_slow():
    for package in ("psycopg_pool", "sqlalchemy", "rich"):
        pytest.importorskip(package)
    from bench import guard

    found = {}
    for key, (variant, against, _, bound) in guard.BOUNDS.items():
        found[key] = Table(key=key, title=key, unit="s")
        found[key].add(variant, 1.01 * bound)
        found[key].add(against, 1.0)
    assert all(ratio > bound for _, ratio, bound in guard.judge(found))
