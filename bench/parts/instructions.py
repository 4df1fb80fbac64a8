"""2b. Cost in instructions: what the processor executes, independent of the machine's other work.

Times swing with the machine's load; instructions hardly do. valgrind's callgrind counts the instructions of one
process, without the server's. Each contestant runs twice, with a few operations and with many. The difference
leaves out the start of Python and of the pool. System calls count as the instructions that
lead to them: the kernel's work shows in the times only.

Without valgrind the part says so and measures nothing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.lib import pools, servers
from bench.lib.part import Context
from bench.lib.results import Goal, Part, Table
from tests.helpers import ROOT

TITLE = "Instructions"
SECONDS = 45

FEW, MANY = 100, 1100
COLLECTED = re.compile(rb"Collected : (\d+)")


CONTESTANTS = {
    "checkout": (pools.OURS, pools.REDIS),
    "get": (pools.OURS, pools.REDIS, pools.DEDICATED),
}
"""By table. :mod:`bench.apps.counted` knows them by these names."""


def run(context: Context) -> Part:
    tables = {
        "checkout": Table(
            key="checkout", title="Instructions for checkout and release", unit="1", reference=pools.REDIS, log=True
        ),
        "get": Table(key="get", title="Instructions for a GET in the client", unit="1", reference=pools.DEDICATED),
    }
    part = Part(
        key="instructions",
        title=TITLE,
        text="Counted by valgrind (callgrind) in the client's process: the difference between "
        f"{MANY:,} and {FEW:,} repetitions. What was measured as times above is seen here without the noise, and "
        "without what the kernel and the server take of each GET: so this ratio is larger than that of the times.",
        tables=list(tables.values()),
        goals=[
            Goal(
                what="instructions for checkout and release, against redis.ConnectionPool",
                table="checkout", variant=pools.OURS, against=pools.REDIS, at_most=1 / 8,
            ),
            Goal(
                what="instructions for a GET, against a dedicated connection",
                table="get", variant=pools.OURS, against=pools.DEDICATED, at_most=1.1,
            ),
        ],
    )  # fmt: skip
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        part.tables, part.goals = [], []
        part.facts["not measured"] = "valgrind is not installed"
        return part
    with servers.server(context.directory) as server, servers.supervisor(context.directory / "s"):
        with server.observer() as client:
            client.set("bench", "value")
        jobs = [(key, name, count) for key, of in CONTESTANTS.items() for name in of for count in (MANY, FEW)]
        context.steps(len(jobs), TITLE)

        def count(job: tuple[str, str, int]) -> int:
            found = _count(valgrind, context.directory, server.port, *job)
            context.step(f"{job[0]}, {job[1]}")
            return found

        with ThreadPoolExecutor(2) as both:  # a process beside it does not change the count
            counted = dict(zip(jobs, both.map(count, jobs), strict=True))
    for key, name, times in jobs:
        if times == MANY:
            each = (counted[key, name, MANY] - counted[key, name, FEW]) / (MANY - FEW)
            tables[key].add(name, each)
    return part


def _count(valgrind: str, directory: Path, port: int, key: str, name: str, times: int) -> int:
    """Instructions of a process that does it so many times."""
    done = subprocess.run(
        [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={directory}/callgrind.%p",
            sys.executable, "-m", "bench.apps.counted", str(port), key, name, str(times),
        ],
        cwd=ROOT, capture_output=True, timeout=240, check=False,
    )  # fmt: skip
    found = COLLECTED.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"{key}, {name}: {done.stderr.decode(errors='replace')[-400:]}")
    return int(found[1])
