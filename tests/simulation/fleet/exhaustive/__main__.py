"""Explore the worlds whose names contain one of the words given; ``--limit`` states of each at most."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.fleet.exhaustive import LARGE, SMALL, describe, explore


def _progress(known: int, waiting: int) -> None:
    print(f"\r{known:,} states, {waiting:,} of them to be explored   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fleet.exhaustive")
    parser.add_argument("--limit", type=int, default=20_000_000)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    wrong = 0
    for world in (*SMALL, *LARGE):
        if options.words and not any(word in world.name for word in options.words):
            continue
        result = explore(world, limit=options.limit, told=_progress if sys.stderr.isatty() else None)
        print("\r" + describe(world, result), flush=True)
        wrong += bool(result.violation or result.stuck > 0)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
