"""The limit of open files: what it leaves, and when it is raised. In processes of their own, with real limits."""

from __future__ import annotations

import resource
import subprocess
import sys
import textwrap

import pytest

from tests.helpers import ROOT

PRELUDE = """
import os, resource
from poolmgr.kernel import nofile
used = len(os.listdir("/proc/self/fd")) - 1  # reading it takes one
def soft():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""


@pytest.fixture
def run():
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 400:
        pytest.skip("too few descriptors here")

    def run(soft: int, hard: int, code: str) -> None:
        limit = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        command = [sys.executable, "-c", limit + PRELUDE + textwrap.dedent(code)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    return run


def test_the_hard_limit_is_what_leaves_room(run) -> None:
    run(
        64,
        300,
        """
        assert abs(nofile.left(0) - (300 - used - nofile.MARGIN)) <= 1
        assert nofile.left(5) == nofile.left(0) + 5
        assert nofile.left(5, 2) == 5 + nofile.left(0) // 2, "a further one takes two"
        assert soft() == 64, "asking changes nothing"
        """,
    )


def test_there_is_always_room_for_one(run) -> None:
    run(20, 20, "assert nofile.left(0) == 1")


def test_the_soft_limit_is_raised_when_more_is_needed_and_not_before(run) -> None:
    run(
        100,
        300,
        """
        room = 100 - used - nofile.MARGIN - 1
        assert not nofile.make_room(0, room)
        assert not nofile.make_room(3, room + 3)
        assert not nofile.make_room(3, room // 2 + 3, 2)
        assert soft() == 100
        assert nofile.make_room(0, room + 2)
        assert soft() == 300
        assert not nofile.make_room(0, 1000), "there is no more to be had"
        """,
    )


def test_where_it_cannot_be_raised_the_soft_limit_is_what_leaves_room(run) -> None:
    run(
        100,
        300,
        """
        def refuse(*_):
            raise ValueError("not allowed to raise maximum limit")
        nofile.resource.setrlimit = refuse
        assert not nofile.make_room(0, 200)
        assert abs(nofile.left(0) - (100 - used - nofile.MARGIN)) <= 1
        """,
    )


def test_no_limit_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    from poolmgr.kernel import nofile

    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert nofile.left(0) == 0
    assert not nofile.make_room(0, 10**6)
