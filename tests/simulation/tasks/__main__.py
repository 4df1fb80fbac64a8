"""``python -m tests.simulation.tasks --seeds 1000``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.simulation.tasks.world import failure


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    began = time.process_time()
    found = 0
    for seed in range(options.first, options.first + options.seeds):
        if text := failure(seed):
            found += 1
            print(f"seed {seed}: {text}", flush=True)
    print(f"{options.seeds} seeds, {found} violations, {time.process_time() - began:.1f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
