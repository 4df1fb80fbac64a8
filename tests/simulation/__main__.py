"""Run many seeds of all worlds on all cores, or replay one.

::

    python -m tests.simulation --seeds 10000          # seeds 0 to 9999 of each world
    python -m tests.simulation --world addresses      # of one
    python -m tests.simulation --replay 4711          # one seed, its trace shortened
    python -m tests.simulation --replay 4711 --whole  # as it was
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import get_context

import msgspec

from tests.simulation import witnesses
from tests.simulation.fleet import world as fleet
from tests.simulation.places import world as addresses
from tests.simulation.scenario import Scenario, draw
from tests.simulation.shrink import failure, shorter
from tests.simulation.world import Violation, World

CHUNK = 20
"""Seeds that a process takes at a time."""


class Tally(msgspec.Struct):
    """What a number of runs came to."""

    seeds: int = 0
    steps: int = 0
    turns: int = 0
    faults: int = 0
    unproven: int = 0
    failed: list[tuple[int, str]] = msgspec.field(default_factory=list)

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.steps += other.steps
        self.turns += other.turns
        self.faults += other.faults
        self.unproven += other.unproven
        self.failed += other.failed


def run(seeds: Iterable[int]) -> Tally:
    """Run them all; what fails is in the tally."""
    tally = Tally()
    for seed in seeds:
        world = World(draw(seed))
        try:
            world.run()
        except Violation as violation:
            tally.failed.append((seed, str(violation)))
        except Exception as error:
            tally.failed.append((seed, f"{type(error).__name__}: {error}"))
        tally.seeds += 1
        tally.steps += world.steps
        tally.turns += world.turns
        tally.faults += len(world.scenario.faults)
        tally.unproven += world.unproven
    return tally


def _run_addresses(seeds: Iterable[int]) -> Tally:
    logging.disable(logging.CRITICAL)  # the real registry logs
    tally = Tally()
    for seed in seeds:
        world = addresses.World(seed)
        try:
            world.run()
        except Exception as error:
            tally.failed.append((seed, f"{type(error).__name__}: {error}"))
        tally.seeds += 1
        tally.steps += world.steps
        tally.faults += world.faults
    return tally


def _run_outages(seeds: Iterable[int]) -> Tally:
    tally = Tally()
    for seed in seeds:
        text = witnesses.failure(seed)
        if text:
            tally.failed.append((seed, text))
        tally.seeds += 1
        tally.steps += witnesses.STEPS
    return tally


def _run_fleet(seeds: Iterable[int]) -> Tally:
    tally = Tally()
    for seed in seeds:
        world = fleet.World(seed)
        try:
            world.run()
        except Exception as error:
            last = "".join(f"\n    {line}" for line in world.log[-40:])
            tally.failed.append((seed, f"{type(error).__name__}: {error}{last}"))
        tally.seeds += 1
        tally.steps += world.kind.steps
        tally.faults += world.faults
    return tally


WORLDS: dict[str, Callable[[Iterable[int]], Tally]] = {
    "members": run,
    "addresses": _run_addresses,
    "outages": _run_outages,
    "fleet": _run_fleet,
}


def run_parallel(
    first: int,
    count: int,
    *,
    world: str = "members",
    processes: int = 0,
    told: Callable[[Tally], None] | None = None,
) -> Tally:
    """Seeds ``first`` to ``first + count - 1`` of that world on all cores; ``told`` hears of the progress."""
    whole = Tally()
    chunks = [range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)]
    with get_context("fork").Pool(processes or os.cpu_count() or 1, collect_seldom) as pool:
        for tally in pool.imap_unordered(WORLDS[world], chunks):
            whole.add(tally)
            if told is not None:
                told(whole)
    whole.failed.sort()
    return whole


def collect_seldom() -> None:
    """A world is full of cycles and short: looking for garbage as often as Python does takes a tenth of the time."""
    gc.set_threshold(50_000, 20, 20)


def legible(text: str) -> str:
    """Tags as ``m101`` and ``s1``."""
    return re.sub(
        r"pm1\.0000000a\.00000b\.(\d+)\.\d+\.0000aa", lambda m: ("m" if int(m[1]) > 100 else "s") + m[1], text
    )


def replay(scenario: Scenario, last: int = 80) -> str:
    """The run as text: its last steps and how it ended."""
    world = World(scenario, tracing=True)
    try:
        world.run()
        end = "no violation"
    except Violation as violation:
        end = f"violated: {violation}"
    lines = [f"{at:10.5f}  {text}" for at, text in world.trace[-last:]]
    head = f"budgets {scenario.budgets}, {len(scenario.workers)} members at the start, faults:"
    faults = [f"    {fault.at:.5f} {fault.kind} {fault.a} {fault.b} {fault.c}" for fault in scenario.faults]
    return legible("\n".join([head, *faults, *lines, end]))


def report(seed: int, text: str) -> str:
    """A failing seed: what is violated, how to replay it, a short trace."""
    scenario = shorter(draw(seed), tries=150)
    return "\n".join(
        [
            f"seed {seed}: {legible(text)}",
            f"    replay: {sys.executable} -m tests.simulation --replay {seed}",
            replay(scenario, last=40),
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--processes", type=int, default=0)
    parser.add_argument("--world", choices=[*WORLDS, "all"], default="all")
    parser.add_argument("--replay", type=int, help="a seed of the members' world")
    parser.add_argument("--whole", action="store_true")
    options = parser.parse_args()
    if options.replay is not None:
        scenario = draw(options.replay)
        if failure(scenario) and not options.whole:
            scenario = shorter(scenario)
        print(replay(scenario, last=1 << 30 if options.whole else 80))
        return 0
    chosen = list(WORLDS) if options.world == "all" else [options.world]
    return max([_simulate(world, options) for world in chosen])


def _simulate(world: str, options: argparse.Namespace) -> int:
    began = time.monotonic()
    tally = _with_progress(world, options.first, options.seeds, options.processes)
    took = time.monotonic() - began
    more = f", {tally.turns} ledger turns, {tally.unproven} bounded waits" if tally.turns else ""
    print(
        f"{world}: {tally.seeds} seeds, {tally.faults} faults, {tally.steps} steps in {took:.1f} s"
        f" ({tally.seeds / took:.0f} seeds/s, {tally.steps / took:.0f} steps/s){more};"
        f" {len(tally.failed)} violations",
        flush=True,
    )
    for seed, text in tally.failed[:20]:
        print(f"seed {seed}: {legible(text)}", flush=True)
    for seed, text in tally.failed[:3] if world == "members" else ():
        print("shortening ...", file=sys.stderr, flush=True)
        print(report(seed, text), flush=True)
    return 1 if tally.failed else 0


class _Lines:
    """Progress for a log: a line now and then."""

    EVERY = 15.0

    def __init__(self, count: int) -> None:
        self.count = count
        self.began = self.last = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        now = time.monotonic()
        if now - self.last >= self.EVERY:
            self.last = now
            left = (now - self.began) / tally.seeds * (self.count - tally.seeds)
            print(
                f"{tally.seeds}/{self.count} seeds, {tally.steps / (now - self.began):,.0f} steps/s,"
                f" {len(tally.failed)} violations, {left:.0f} s to go",
                file=sys.stderr,
                flush=True,
            )


def _with_progress(world: str, first: int, count: int, processes: int) -> Tally:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not sys.stdout.isatty():
        return run_parallel(first, count, world=world, processes=processes, told=_Lines(count))
    columns = (
        TextColumn(world),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns) as progress:
        task = progress.add_task("", total=count, rate="")

        def told(tally: Tally) -> None:
            rate = f"{tally.steps / (time.monotonic() - began):,.0f} steps/s, {len(tally.failed)} violations"
            progress.update(task, completed=tally.seeds, rate=rate)

        return run_parallel(first, count, world=world, processes=processes, told=told)


if __name__ == "__main__":
    sys.exit(main())
