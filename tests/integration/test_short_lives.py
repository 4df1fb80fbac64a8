"""Processes that live for a moment each: children that end in ``os._exit``, scripts one after the other."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from tests.helpers import RedisServer, free_port, run_script, wait_for

BEGIN = """
import multiprocessing, os, sys, time
import poolmgr, redis

def task(number):
    client = redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"], timeout=30))
    client.incr("done")
    return os.getpid()
"""

POOL = """
with multiprocessing.get_context("fork").Pool(6, maxtasksperchild=1) as pool:
    pids = pool.map(task, range(24), chunksize=1)
assert len(set(pids)) == 24, "each task has a process of its own"
"""

HORSES = """
def horse(number):
    pid = os.fork()
    if pid == 0:
        task(number)
        os._exit(0)  # no goodbye, no finalizers
    return pid

left = 24
while left:
    for pid in [horse(left - i) for i in range(min(6, left))]:
        os.waitpid(pid, 0)
        left -= 1
"""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=5)


@pytest.fixture
def run(server: RedisServer) -> Callable[[str], None]:
    def run(code: str) -> None:
        main = "if __name__ == '__main__':\n" + textwrap.indent(code.strip(), "    ")
        run_script(BEGIN + main, URL=server.url)

    return run


def test_children_of_a_multiprocessing_pool_say_goodbye(run, server, supervisor):
    """A budget of 4 and six processes, each for one task."""
    running = supervisor(4, POOLMGR_LINGER="60")
    run(POOL)
    with server.observer() as observer:
        assert observer.get("done") == "24"
    assert len(running.events("member.left")) >= 12, "the last ones are ended by the pool"
    assert not running.events("quarantine.unproven")
    assert server.rejected() == 0


def test_children_that_say_nothing_are_proven_gone_quickly(run, server, supervisor):
    running = supervisor(4, POOLMGR_LINGER="60")
    run(HORSES)
    with server.observer() as observer:
        assert observer.get("done") == "24"
    assert not running.events("quarantine.unproven"), "there was always something to look with"
    assert server.rejected() == 0


def test_a_finalizer_of_the_users_may_use_the_pool(run, server, supervisor):
    """The goodbye is the last one, and what comes after it joins again."""
    running = supervisor(4, POOLMGR_LINGER="60")
    run("""
import multiprocessing.util
def child():
    multiprocessing.util.Finalize(None, task, (1,), exitpriority=-10)
    task(0)
    multiprocessing.util.Finalize(None, task, (2,), exitpriority=-2000)
one = multiprocessing.get_context("fork").Process(target=child)
one.start(); one.join()
assert one.exitcode == 0
""")
    with server.observer() as observer:
        assert observer.get("done") == "3"
    assert running.events("member.left")
    wait_for(lambda: running.server()["charged"] + running.server()["quarantine"] == 0, 10, what="all is given back")
