"""What has once found a fault, and what a fuzzer begins with, finds none now, and finds each that is planted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz import targets
from tests.helpers import ROOT


@pytest.mark.parametrize("target", targets.HOMES)
def test_the_corpus_finds_no_fault(target: str):
    """In a process of its own: targets replace parts of the modules that they play to."""
    command = [sys.executable, "-m", "tests.fuzz.replay", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", targets.HOMES)
def test_the_corpus_finds_what_is_planted(target: str):
    command = [sys.executable, "-m", "tests.fuzz.faults", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("target", targets.HOMES)
def test_an_entry_is_small_and_has_a_name(target: str):
    for path in targets.entries(target):
        assert path.stat().st_size <= 2002
        assert "crash" not in path.name, f"say what {path.name} is"
        assert not set(path.name) - set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_supervisor_of_the_fuzzer_grants_permits():
    """Else it could not grant too many, and the fuzzer would find nothing."""
    played = (
        "from tests.fuzz import stage, targets\n"
        "target = stage.Target()\n"
        "for path in targets.entries('supervisor'): target.play(path.read_bytes())\n"
        "target.close()\n"
        "print(target.most)\n"
    )
    done = subprocess.run([sys.executable, "-c", played], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "11", done.stderr
