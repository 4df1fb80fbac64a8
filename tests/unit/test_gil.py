"""A Python without the GIL is refused in one line, by whatever relies on it. Real ones: ``make matrix``."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from poolmgr import gil
from tests.helpers import python

WITHOUT = "import sys; sys._is_gil_enabled = lambda: False\n"


@pytest.mark.parametrize(
    "use",
    ["poolmgr.ConnectionPool", "poolmgr.get_client()", "poolmgr.SentinelConnectionPool", "import poolmgr.asyncio"],
)
def test_what_relies_on_it_is_not_loaded(use: str) -> None:
    done = python(f"{WITHOUT}import poolmgr\n{use}", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"ImportError: {gil.REFUSED}"


def test_the_rest_goes_on() -> None:
    """The errors, for one; and a fork, before which the pool is loaded, says nothing."""
    fork = "pid = os.fork()\nif pid:\n    os.waitpid(pid, 0)\nelse:\n    os._exit(0)"
    assert python(f"{WITHOUT}import os, poolmgr\npoolmgr.PoolmgrError\n{fork}").stderr == ""


def test_a_supervisor_refuses_in_one_line() -> None:
    start = "import runpy; runpy.run_module('poolmgr.supervisor', run_name='__main__', alter_sys=True)"
    done = python(WITHOUT + start, check=False)
    assert (done.returncode, done.stderr) == (1, f"poolmgr.supervisor: {gil.REFUSED}\n")


def test_a_supervisor_that_is_started_has_it() -> None:
    """The options are none, or some that this Python takes."""
    code = "from poolmgr import gil; raise SystemExit(not gil.held())"
    done = subprocess.run([sys.executable, *gil.options(), "-c", code], env={**os.environ, "PYTHON_GIL": ""})
    assert done.returncode == 0
