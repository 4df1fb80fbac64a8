"""2b. Cost in instructions: what the processor executes, independent of the machine's other work.

Times swing with the machine's load; instructions hardly do. valgrind's callgrind counts the instructions of one
process, without the server's. :mod:`bench.apps.counted` has it count some hundred repetitions in one thread, after as
many that open the connections and let the interpreter adapt its code. So neither the start nor the garbage that it
leaves is counted, nor the member's thread: its work falls due by the clock, which under valgrind runs fifty times as
fast as the program. System calls count as the instructions that lead to them: the kernel's work shows in the times
only.

A hundredth or two of a GET depends on which entries of CPython's caches collide, and so on a process's hash seed. What
the goal judges is counted in several processes, each with a seed of its own.

Without valgrind the part says so and measures nothing.
"""

from __future__ import annotations

import os
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
SECONDS = 90

TIMES = 500
COLLECTED = re.compile(rb"Collected : (\d+)")
USUAL = "as it comes"
ROUNDS = {"checkout": 1, "get": 3, "ways": 1}
"""Processes, by table."""

CONTESTANTS = {
    "checkout": (pools.OURS, pools.REDIS),
    "get": (pools.OURS, pools.REDIS, pools.DEDICATED),
    "ways": (pools.OURS, pools.DEDICATED),
}
"""By table. :mod:`bench.apps.counted` knows them by these names."""

WAYS = ("RESP2", "without hiredis", "after a pause")
"""It knows these as well. ``after a pause``: our pool looks at a connection that was idle for over a millisecond."""


def run(context: Context) -> Part:
    tables = {
        "checkout": Table(
            key="checkout", title="Instructions for checkout and release", unit="1", reference=pools.REDIS, log=True
        ),
        "get": Table(key="get", title="Instructions for a GET in the client", unit="1", reference=pools.DEDICATED),
        "ways": Table(
            key="ways", title="The same in other settings", unit="1", reference=pools.DEDICATED, axis="how", chart=""
        ),
    }
    part = Part(
        key="instructions",
        title=TITLE,
        text=f"Counted by valgrind (callgrind) in the client's thread, over {TIMES} repetitions in a process that has "
        "done as many before. What was measured as times above is seen here without the noise, and "
        "without what the kernel and the server take of each GET: so this ratio is larger than that of the times. "
        "A pool's connection that was idle for over a millisecond is looked at before it is used (after a pause); "
        "a dedicated connection never is.",
        tables=list(tables.values()),
        goals=[
            Goal(
                what="instructions for checkout and release, against redis.ConnectionPool",
                table="checkout", variant=pools.OURS, against=pools.REDIS, at_most=1 / 8,
            ),
            Goal(
                what="instructions for a GET, against a dedicated connection",
                table="get", variant=pools.OURS, against=pools.DEDICATED, at_most=1.05,
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
        jobs = [
            (key, name, how, seed)
            for key, of in CONTESTANTS.items()
            for seed in range(1, 1 + ROUNDS[key])
            for name in of
            for how in _ways(key)
        ]
        context.steps(len(jobs), TITLE)

        def count(job: tuple[str, str, str, int]) -> int:
            found = _count(valgrind, context.directory, server.port, *job)
            context.step(", ".join(job[:3]))
            return found

        with ThreadPoolExecutor(2) as both:  # a process beside it does not change the count
            counted = list(both.map(count, jobs))
    for (key, name, how, _), instructions in zip(jobs, counted, strict=True):
        tables[key].add(name, instructions / TIMES, how if key == "ways" else "")
    return part


def _ways(key: str) -> tuple[str, ...]:
    return WAYS if key == "ways" else (USUAL,)


def _count(valgrind: str, directory: Path, port: int, key: str, name: str, how: str, seed: int) -> int:
    """Instructions of a process that does it :data:`TIMES` times."""
    done = subprocess.run(
        [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={directory}/callgrind.%p",
            "--toggle-collect=PyNumber_MatrixMultiply",
            sys.executable, "-m", "bench.apps.counted", str(port), key, name, how, str(TIMES),
        ],
        cwd=ROOT, capture_output=True, timeout=600, check=False,
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
    )  # fmt: skip
    found = COLLECTED.search(done.stderr)
    if done.returncode or found is None or found[1] == b"0":
        raise RuntimeError(f"{key}, {name}, {how}: {done.stderr.decode(errors='replace')[-400:]}")
    return int(found[1])
