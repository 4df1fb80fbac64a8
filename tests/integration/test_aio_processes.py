"""Tasks under the host's budget: a real supervisor, threads and tasks in one process, several loops, children."""

from __future__ import annotations

import os
import sys

import pytest

from tests import warm
from tests.helpers import ROOT, RedisServer, Servers, free_port
from tests.walker import LOOPS

pytestmark = pytest.mark.parametrize("loop", LOOPS)

FORKED = "is multi-threaded, use of fork() may lead to deadlocks in the child."
"""docs/limits.md says what that is about."""

BUDGET = 4
OBSERVERS = 2


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    """A server that refuses one connection more than the budget."""
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


def run(server: RedisServer, name: str, loop: str, budget: int = BUDGET) -> None:
    """It ends well, says nothing on its way, and the server has refused nothing."""
    done = warm.run(
        [sys.executable, "-X", "dev", "-m", "tests.aio_programs", name, loop],
        env={**os.environ, "REDIS_URL": server.url, "REDIS_CONNECTION_BUDGET": str(budget)},
        cwd=ROOT, timeout=150, check=False, cold="child" in name,
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr
    # uvloop's loops warn at their end of what they still have, and Python from 3.12 on of a fork in a process with
    # threads; only the application can help that.
    said = [line for line in done.stderr.splitlines() if "Warning" in line or "Traceback" in line or "Error" in line]
    said = [line for line in said if not line.endswith(FORKED)]
    if loop == "uvloop":
        said = [line for line in said if "unclosed resource <TCPTransport" not in line]
    assert said == [], done.stderr
    assert server.rejected() == 0


def test_a_permit_goes_from_threads_to_tasks_and_back(server: RedisServer, loop: str):
    run(server, "a_permit_goes_from_threads_to_tasks_and_back", loop)


def test_the_default_client(server: RedisServer, loop: str):
    run(server, "the_default_client", loop)


def test_a_lifespan_says_goodbye(server: RedisServer, loop: str):
    run(server, "a_lifespan_says_goodbye", loop)


def test_a_lifespan_leaves_alone_what_is_in_use(server: RedisServer, loop: str):
    run(server, "a_lifespan_leaves_alone_what_is_in_use", loop)


def test_the_loop_is_not_held_up_by_the_first_use(server: RedisServer, loop: str):
    run(server, "the_loop_is_not_held_up_by_the_first_use", loop)


def test_a_loop_that_is_closed_without_a_goodbye_gives_its_permits_back(server: RedisServer, loop: str):
    run(server, "a_loop_that_is_closed_without_a_goodbye", loop)


def test_one_pool_in_several_loops_at_once(server: RedisServer, loop: str):
    run(server, "one_pool_in_several_loops_at_once", loop)


def test_two_loops_and_threads_share_what_there_is(redis_server: Servers, loop: str):
    server = redis_server(port=free_port(), maxclients=7 + OBSERVERS)
    run(server, "two_loops_and_threads_share_what_there_is", loop, budget=7)


def test_a_loop_that_is_closed_during_a_connect(server: RedisServer, loop: str):
    run(server, "a_loop_that_is_closed_during_a_connect", loop)


def test_many_short_loops(server: RedisServer, loop: str):
    run(server, "many_short_loops", loop)


def test_a_child_does_not_touch_its_parent_s_transports(server: RedisServer, loop: str):
    run(server, "a_child_does_not_touch_its_parent_s_transports", loop)


def test_children_of_multiprocessing(server: RedisServer, loop: str):
    run(server, "children_of_multiprocessing", loop)


def test_each_connection_counts_as_two_descriptors(redis_server: Servers, loop: str):
    run(redis_server(port=free_port()), "each_connection_counts_as_two_descriptors", loop, budget=300)
