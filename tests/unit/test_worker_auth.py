"""Who may call the worker service, and the token that is made when none is set."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poolmgr import settings
from tests.helpers import ROOT, wait_for
from worker import token
from worker.auth import Gate
from worker.errors import Problem


@pytest.fixture
def gate() -> Gate:
    return Gate(settings.load({"WORKER_TOKEN": "full", "WORKER_READONLY_TOKEN": "reader"}))


@pytest.mark.parametrize(
    ("authorization", "query", "readonly"),
    [
        ("Bearer full", "", False),
        ("bearer  full ", "", False),
        ("Bearer reader", "", True),
        (None, "_token=full", False),
        (None, "EX=1&_token=reader", True),
        (None, "%5Ftoken=full", False),
        ("Bearer full", "_token=wrong", False),
    ],
)
def test_a_token_opens_the_gate(gate, authorization, query, readonly):
    assert gate.readonly(authorization, query) is readonly


@pytest.mark.parametrize(
    ("authorization", "query"),
    [
        (None, ""),
        ("", ""),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer ful", ""),
        ("Bearer fullx", ""),
        ("Bearer FULL", ""),
        ("Basic full", ""),
        ("full", ""),
        (None, "_token="),
        (None, "token=full"),
        ("Bearer wrong", "_token=full"),
        ("Bearer \udcff\u00e9", ""),
    ],
)
def test_anything_else_is_a_401(gate, authorization, query):
    with pytest.raises(Problem, match="Unauthorized") as caught:
        gate.readonly(authorization, query)
    assert caught.value.status == 401


def test_without_a_readonly_token_an_empty_one_opens_nothing():
    with pytest.raises(Problem):
        Gate(settings.load({"WORKER_TOKEN": "full"})).readonly("Bearer ", "")


def test_a_made_token_is_long_private_and_the_same_for_all(short_dir: Path):
    path = short_dir / "token"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(token.ensure, [path] * 64))
    assert [made for _, made in answers].count(True) == 1
    found = {text for text, _ in answers}
    assert len(found) == 1
    assert len(found.pop()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in short_dir.iterdir()] == ["token"], "nothing half-made is left"


HOLD = """
import os, sys
from poolmgr import settings
from worker import token
found = settings.load()
token.hold(found)
print(token.current(found), flush=True)
if sys.stdin.read() == "release":
    token.release()
"""


def master() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    return process, process.stdout.readline()


def test_the_last_master_removes_it(short_dir: Path):
    first, its = master()
    second, theirs = master()
    assert its == theirs
    first.communicate("release")
    assert (short_dir / "token").exists()
    second.communicate("release")
    assert not (short_dir / "token").exists()


def test_a_killed_master_leaves_it_and_the_next_goes_on_with_it(short_dir: Path):
    first, its = master()
    first.kill()
    first.wait()
    wait_for((short_dir / "token").exists)
    second, theirs = master()
    assert its == theirs
    second.communicate("release")
    assert not (short_dir / "token").exists()


def test_a_token_from_the_environment_makes_no_file(short_dir: Path):
    found = settings.load({**os.environ, "WORKER_TOKEN": "x"})
    token.hold(found)
    token.release()
    assert list(short_dir.iterdir()) == []
