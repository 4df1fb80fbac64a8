"""``python -m bench``: measure, show, and write down (``make bench``).

    run [PART ...]     measure (all parts, about a quarter of an hour), show tables, write JSON, charts and document
    report             make charts and document again from the JSON
    guard              takes seconds: only ratios, with generous bounds; exit status 1 if one is exceeded

Every part runs in its own process (:mod:`bench.lib.part`). A part that fails is reported, and the others go on.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import poolmgr
from bench import guard, report
from bench.lib import machine, part as parts
from bench.lib.results import Run, load
from bench.lib.terminal import Screen
from tests.helpers import ROOT

RESULT = ROOT / "docs" / "benchmarks" / "results.json"


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if options.action == "guard":
        return guard.main()
    if options.action == "report":
        report.write(load(options.json))
        return 0
    result = measure(options.parts or list(parts.PARTS), quick=options.quick)
    whole = not options.parts and not options.quick
    target = options.json if whole or options.json != RESULT else None
    if target is not None:
        result.save(target)
    if whole:
        report.write(result)
        print(f"written: {options.json}, {report.DOCUMENT}, and charts beside them")
    missed = [j for p in result.parts for j in p.judged() if j.met is False]
    failed = [p for p in result.parts if p.error]
    return 1 if failed or (options.check and missed) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run", help="measure")
    run.add_argument("parts", nargs="*", choices=[*parts.PARTS, []], metavar="PART", help=", ".join(parts.PARTS))
    run.add_argument("--quick", action="store_true", help="short: shows that all works; figures mean little")
    run.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    run.add_argument("--json", type=Path, default=RESULT, help="where the figures are written")
    again = actions.add_parser("report", help="make charts and document again from the JSON")
    again.add_argument("--json", type=Path, default=RESULT)
    actions.add_parser("guard", help="compare ratios with generous bounds")
    return parser.parse_args()


def measure(keys: list[str], *, quick: bool) -> Run:
    """Measure these parts, with a progress bar; each is shown as soon as it is done."""
    started = time.monotonic()
    result = Run(
        when=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=poolmgr.__version__,
        revision=machine.revision(),
        quick=quick,
        machine=machine.describe(),
        software=machine.software(),
    )
    weights = {key: parts.module(key).SECONDS for key in keys}
    with Screen(sum(weights.values())) as screen:
        for key in keys:
            with screen.part(parts.module(key).TITLE, weights[key]) as ticker:
                found = parts.run(key, quick=quick, progress=ticker)
            result.parts.append(found)
            screen.show(found)
    result.seconds = round(time.monotonic() - started, 1)
    return result


if __name__ == "__main__":
    sys.exit(main())
