"""What ``poolmgr fleet`` shows, as docs/fleet.md prints it: ``python -m tests.fleet.sample``.

The table is the real script's, in virtual time, and the command's own code prints it.
"""

from __future__ import annotations

import contextlib
import io
import os
from unittest.mock import patch

from poolmgr.cli import fleet as command
from poolmgr.fleet import records, script
from poolmgr.fleet.script import Renewed
from tests.simulation.fleet.table import Table

FLEET, BUDGET = "web", 24
DEMANDS = {"app-1": 8, "app-2": 2}
RANDOM = "a4c0e2d19f", "3bb6e71c25"
"""Of the leases' names."""

LATER = 2_000
"""Milliseconds between the renewals of the two."""


def sample() -> str:
    """The command, and what it prints of a fleet of two hosts."""
    now = 1_800_000_000_000
    table = Table(lambda: now)
    names = {host: script.mark(FLEET) + word for host, word in zip(DEMANDS, RANDOM, strict=True)}
    words = dict.fromkeys(DEMANDS, 0)
    number = ""
    for seq in range(1, 6):
        for host, name in names.items():
            now += LATER
            asked = script.Renewal(
                run="run1", table="" if seq == 1 else number, name=name, seq=seq, word=words[host],
                demand=DEMANDS[host], floor=1, budget=BUDGET, slack=2, lease=10_000, until=0, able=True, host=host,
            )  # fmt: skip
            answer = script.answer(table.call(*asked.arguments()))
            assert isinstance(answer, Renewed)
            number, words[host] = answer.table, answer.grant
        table.call(*script.census("run1", number, names.values()))
        table.call(*script.audited("run1", number, 3))
    found = records.read(FLEET, table.hash, (now + LATER / 2) / 1000)
    assert found is not None
    said = io.StringIO()
    with patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}), contextlib.redirect_stdout(said):
        command._print(found, FLEET)
    lines = (line.rstrip() for line in said.getvalue().rstrip().splitlines())
    return "\n".join(("$ poolmgr fleet", *lines))


if __name__ == "__main__":
    print(sample())
