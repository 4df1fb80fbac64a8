"""Explore the worlds whose names contain one of the words given; without words, all but the largest."""

from __future__ import annotations

import sys

from tests.simulation.exhaustive import LARGE, LARGEST, SMALL, describe, explore


def _progress(known: int, waiting: int) -> None:
    print(f"\r{known:,} states, {waiting:,} of them to be explored   ", end="", file=sys.stderr, flush=True)


def main() -> int:
    words = sys.argv[1:]
    named = [w for w in (*SMALL, *LARGE, *LARGEST) if any(word in w.name for word in words)]
    chosen = named if words else [*SMALL, *LARGE]
    wrong = 0
    for world in chosen:
        result = explore(world, told=_progress)
        print("\r" + describe(world, result), flush=True)
        wrong += bool(result.violation or result.stuck or not result.complete)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
