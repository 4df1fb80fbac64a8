"""A supervisor has what its starter had: a limit of open files, a niceness, a scheduling class. It harms nobody."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr.kernel.lockfile import holder
from poolmgr.launch import standing
from poolmgr.launch.standing import ENOUGH_BYTES as BYTES, Standing
from tests.helpers import RedisServer, alive, free_port, wait_for
from tests.program import Program, Programs

STARTER = """
import os, resource, sys
{first}
import poolmgr, redis
client = redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"]))
client.ping()
print(".", flush=True)
sys.stdin.readline()
client.ping()
"""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=40)


@pytest.fixture
def member(server: RedisServer, program: Programs) -> Callable[..., Program]:
    """Starts a process that first does something to itself, then uses a pool, and stays."""
    return lambda first="": program("-c", STARTER.format(first=first), URL=server.url, REDIS_CONNECTION_BUDGET="32")


def served(process: Program) -> bool:
    return process.says() == "."


def test_a_low_limit_of_open_files_refuses_nobody(isolated: Path, server: RedisServer, member) -> None:
    """Of a limit of 80 a supervisor can take in eight."""
    first = member("resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))")
    assert served(first)
    before = holder(f"{isolated}.lock")
    others = [member() for _ in range(10)]
    assert all(served(other) for other in others)
    now = wait_for(lambda: (pid := holder(f"{isolated}.lock")) not in (0, before) and pid, 20)
    assert not alive(before)
    found = standing.of(now)
    assert found is not None
    assert found.files > 80
    for process in (first, *others):
        process.ends("\n")
    assert server.rejected() == 0


def test_a_low_limit_of_file_sizes_keeps_nobody_from_growing(isolated: Path, server: RedisServer, member) -> None:
    """Below it no snapshot can be written, and so nothing can be raised."""
    first = member("resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))")
    wait_for(lambda: holder(f"{isolated}.lock"), 20)
    assert served(member())
    assert served(first)
    assert server.rejected() == 0


def test_what_its_starter_wants_for_itself_is_set_back(isolated: Path, member) -> None:
    """As far as the system lets it: a scheduling class, processors, soft limits."""
    assert served(
        member("""
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
resource.setrlimit(resource.RLIMIT_CPU, (60, resource.RLIM_INFINITY))
""")
    )
    pid = holder(f"{isolated}.lock")
    assert os.sched_getscheduler(pid) == os.SCHED_OTHER
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert "Max cpu time              unlimited            unlimited" in limits


ASKS = """
from poolmgr import launch
succeed = launch.succeed
launch.succeed = lambda *arguments: print(succeed(*arguments), flush=True)
"""
"""A member that says whether it has replaced the supervisor. A thread does that, after the pool serves."""


def test_one_that_somebody_has_placed_is_left_where_it_is(supervisor, member) -> None:
    running = supervisor(32, POOLMGR_LINGER="60")
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (200, 200))
    one = member(ASKS)
    assert {one.says(), one.says()} == {".", "False"}
    assert running.running


def test_successors_only_become_better() -> None:
    """Else two processes would replace each other's for ever."""
    order = [
        Standing(4096, 4096, 0, False), Standing(BYTES, 80, 0, False), Standing(BYTES, 4096, 0, True),
        Standing(BYTES, 4096, 10, False), Standing(BYTES, 4096, 0, False),
    ]  # fmt: skip
    for i, one in enumerate(order):
        for j, other in enumerate(order):
            assert one.exceeds(other) is (i > j)
