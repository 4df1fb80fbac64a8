"""The time of ``.ci/run`` by slice: the table, its budgets, and where they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import slices
from tests.helpers import ROOT
from tests.slices import ALL, BUDGETS, Cost, Phase


def test_slices_share_what_the_run_took():
    files = {
        "tests/unit/a.py": Cost(3, 10.0, 1.0),
        "tests/unit/b.py": Cost(1, 10.0, 2.0),
        "tests/systemd/c.py": Cost(2, 20.0),
    }
    found = slices.shares(Phase(8.0, files))
    assert found == {"unit": Cost(4, 4.0, 3.0), "systemd": Cost(2, 4.0)}


def test_all_steps_and_all_folders_have_a_budget_and_these_sum_up_to_a_quarter_of_an_hour():
    steps = set(re.findall(r"^step (\w+)", (ROOT / ".ci/run").read_text(), re.MULTILINE))
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert "lint" in steps and "unit" in folders
    assert (steps - {"test"}) | folders <= set(BUDGETS)
    assert sum(BUDGETS.values()) <= ALL


def test_the_budgets_are_those_of_the_document():
    chapter = (ROOT / "ARCHITECTURE.md").read_text().partition("| slice | seconds |")[2].partition("\n\n")[0]
    assert {
        name: int(seconds) for name, seconds in re.findall(r"^\| (\w+) \| (\d+) \|", chapter, re.MULTILINE)
    } == BUDGETS


@pytest.mark.parametrize("options", [(), ("-n1",)], ids=str)
def test_a_run_of_pytest_leaves_its_costs(tmp_path: Path, options: tuple[str, ...]):
    (tmp_path / "pytest.ini").touch()
    (tmp_path / "test_a.py").write_text(
        "import subprocess, sys\n"
        "code = 'import time\\nwhile time.process_time() < 0.2: pass'\n"
        "def test_a(): subprocess.run([sys.executable, '-c', code])\n"
        "def test_b(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.slices", "-ocache_dir=kept", *options]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    found = slices.kept(tmp_path / "kept")
    (cost,) = found.files.values()
    assert cost.tests == 2
    assert cost.processor >= 0.2
    assert 0.2 <= cost.seconds <= found.wall
