"""Explore the worlds whose names contain one of the words given; ``--limit`` states of each at most.

Without words: those that are small enough for the end, or with ``--all`` the others too.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

from tests.simulation.fleet.exhaustive import LARGE, SMALL, describe
from tests.simulation.fleet.exhaustive.layers import explore

EVERY = 10.0
"""Seconds between two lines of progress, where they are no line of a terminal's that is written over."""


class Progress:
    """Says how far a walk has come."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def __call__(self, known: int, depth: int, waiting: int) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self.last < (0.2 if terminal else EVERY):
            return
        self.last = now
        text = f"  {now - self.began:5.0f} s: {known:,} states, {depth} steps deep, {waiting:,} to be looked at"
        print(f"\r{text}   " if terminal else text, end="" if terminal else "\n", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fleet.exhaustive")
    parser.add_argument("--limit", type=int, default=1_000_000_000)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    wrong = 0
    for world in (*SMALL, *LARGE):
        if any(word in world.name for word in options.words) or (not options.words and (options.all or world in SMALL)):
            result = explore(world, limit=options.limit, told=Progress())
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(f"\r{describe(world, result)}; {peak:,.0f} MB so far", flush=True)
            wrong += bool(result.violation or result.stuck > 0)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
