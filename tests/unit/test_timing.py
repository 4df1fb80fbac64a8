"""No test that measures time is missed by the phase that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT

PLUGIN = """
import pytest
from tests import timing
from tests.timing import pytest_ignore_collect

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    timing.seen(items)
"""

MARKED = "import pytest\n@pytest.mark.timing\ndef test_marked(): pass\ndef test_other(): pass\n"
HIDDEN = "from pytest import mark as called\n@called.timing\ndef test_hidden(): pass\ndef test_other(): pass\n"


def test_a_mark_that_the_text_of_its_file_does_not_show_is_an_error(tmp_path: Path):
    """In the phase that runs all others: it loads all files, each in several processes."""
    ran = collected(tmp_path, HIDDEN, "not timing", "-n1")
    assert "test_a.py::test_hidden" in ran.stdout + ran.stderr
    assert ran.returncode not in (0, 5), "neither green nor empty"


def test_the_phase_loads_no_other_file(tmp_path: Path):
    (tmp_path / "test_b.py").write_text("raise SystemExit('was loaded')")
    ran = collected(tmp_path, MARKED, "timing")
    assert ran.returncode == 0 and "1 passed" in ran.stdout, ran.stdout


def test_the_suite_itself_looks_for_such_marks(tmp_path: Path):
    """A plugin marks the tests of a file whose text does not."""
    (tmp_path / "marks.py").write_text("def pytest_itemcollected(item): item.add_marker('timing')")
    other = str(ROOT / "tests/unit/test_verdict.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "marks", "-mnot timing", other]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ran.returncode == 4 and "test_verdict.py::" in ran.stderr, ran.stdout + ran.stderr


def collected(directory: Path, text: str, marks: str, *options: str) -> subprocess.CompletedProcess[str]:
    (directory / "pytest.ini").write_text("[pytest]\nmarkers = timing\n")
    (directory / "conftest.py").write_text(PLUGIN)
    (directory / "test_a.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"-m{marks}", *options]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True)
