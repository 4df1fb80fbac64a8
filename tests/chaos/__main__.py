"""``make chaos MINUTES=5 SEED=1``: a storm with a progress bar."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from tests.chaos.storm import Storm


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="the same seed draws the same faults")
    parser.add_argument("--budget", type=int, default=12)
    parser.add_argument("--log", help="write the service's log here")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    directory = Path(tempfile.mkdtemp(prefix="pmc"))
    seconds = arguments.minutes * 60
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[fault]}"), TimeRemainingColumn()
        ) as progress:
            task = progress.add_task(f"seed {seed}", total=seconds, fault="")
            storm = Storm(directory, seed, seconds, budget=arguments.budget)

            def tell(what: str) -> None:
                progress.update(task, completed=seconds - max(0.0, storm.remaining), fault=what)
                progress.console.print(f"{seconds - storm.remaining:7.1f} s  {what}", highlight=False)

            storm.tell = tell
            report = storm.run()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(report)
    if arguments.log:
        Path(arguments.log).write_text(report.log)
    print("passed" if report.passed else f"FAILED; again: make chaos MINUTES={arguments.minutes:g} SEED={seed}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
