"""``make fuzz SECONDS=60``: bytes drawn by coverage (atheris) against each target, and what callers of the HTTP service
may send, drawn by Hypothesis, against real servers. Each in a process of its own for its part of the time.

Drawing begins with the target's corpus. What finds a fault is left in ``fuzz-TARGET-…`` and named: look at it with
``python -m tests.fuzz.replay TARGET FILE``, put it into the corpus under a name, and mend the fault.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

from tests.fuzz import targets

INSTRUMENTED = [
    "poolmgr.frames",
    "poolmgr.wire",
    "poolmgr.budget",
    "poolmgr.supervisor",
    "poolmgr.settings",
    "poolmgr.pool.options",
]

WORLDS, PIPELINES_A_SECOND = 12, 20
"""Of the property test of the policy: how many, and about how quick."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=[*targets.HOMES, "policy"], action="append", help="this target (repeatable)")
    parser.add_argument("--no-policy", action="store_true", help="without the draws of commands, as the suite has them")
    parser.add_argument("--target", choices=targets.HOMES, help=argparse.SUPPRESS)
    parser.add_argument("--keep", help="a directory for what reaches further than the corpus")
    arguments = parser.parse_args()
    if arguments.target:
        return fuzz(arguments.target, arguments.seconds, arguments.keep)
    chosen = arguments.only or [*targets.HOMES, *([] if arguments.no_policy else ["policy"])]
    seconds = arguments.seconds / len(chosen)
    failed = []
    for target in chosen:
        if target == "policy":
            status = fuzz_policy(seconds)
        else:
            command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--seconds", str(seconds)]
            command += ["--keep", arguments.keep] if arguments.keep else []
            status = subprocess.run(command).returncode
        if status:
            failed.append(target)
    print(f"FAILED: {', '.join(failed)}" if failed else "passed")
    return 1 if failed else 0


def fuzz_policy(seconds: float) -> int:
    """The property tests of the policy, with as many draws as fit, and of what no output may show."""
    examples = max(10, int(seconds * PIPELINES_A_SECOND / WORLDS))
    print(f"policy: {WORLDS} worlds, {examples} pipelines each", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/integration/test_http_properties.py"]
    command.append("tests/unit/test_redaction.py")
    return subprocess.run(command, env={**os.environ, "POOLMGR_FUZZ_EXAMPLES": str(examples)}).returncode


def fuzz(target: str, seconds: float, keep: str | None) -> int:
    """Never returns: libFuzzer ends the process."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        play, close = targets.load(target)
    directory = Path(tempfile.mkdtemp(prefix="pmf"))
    try:
        drawn = Path(keep) / target if keep else directory
        drawn.mkdir(parents=True, exist_ok=True)
        options = [f"-max_total_time={max(1, round(seconds))}", "-max_len=2000", "-timeout=10"]
        options += [f"-artifact_prefix=fuzz-{target}-", "-print_final_stats=1", "-verbosity=0"]
        print(f"{target}: {seconds:.0f} s, {len(targets.entries(target))} to begin with", flush=True)
        atheris.Setup([sys.argv[0], *options, str(drawn), str(targets.CORPUS / target)], play)
        atheris.Fuzz()
    finally:
        close()
        shutil.rmtree(directory, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
