"""A fork at any instant: the child has an empty pool, and the parent notices nothing."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from poolmgr.pool.sync.pool import ConnectionPool
from tests.forks import ended_well, in_child
from tests.helpers import RedisServer, python, wait_for
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing
from tests.threads import Calls, meanwhile


@pytest.fixture
def pool(server: RedisServer) -> Iterator[ConnectionPool]:
    pool = direct_pool(server, max_connections=4, timeout=5)
    yield pool
    pool.disconnect()


def test_parent_and_child_use_the_pool_at_once(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    children = [in_child(lambda: answers_are_its_own(pool, 50)) for _ in range(3)]
    answers_are_its_own(pool, 50)
    for child in children:
        ended_well(child)
    answers_are_its_own(pool)
    assert pool.stats().created == 1
    nothing_is_missing(pool)


def test_a_connection_lent_at_the_fork_is_not_shared(pool: ConnectionPool):
    """The child goes on with the same object, on a socket of its own, and gives it back without harm."""
    connection = pool.get_connection()
    connection.send_command("CLIENT", "ID")
    mine = connection.read_response()

    def work() -> None:
        connection.send_command("CLIENT", "ID")
        assert connection.read_response() != mine
        pool.release(connection)
        assert pool.stats().in_use == 0
        answers_are_its_own(pool)

    child = in_child(work)
    connection.send_command("CLIENT", "ID")
    assert connection.read_response() == mine
    ended_well(child)
    connection.send_command("CLIENT", "ID")
    assert connection.read_response() == mine
    pool.release(connection)
    nothing_is_missing(pool)


def test_fork_while_another_thread_holds_every_lock_and_the_turn(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    ready, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            pool._owner[0] = time.monotonic() + 1000
            ready.set()
            leave.wait()
            pool._owner.clear()

    thread = Calls(hold)
    ready.wait()

    def work() -> None:
        Calls(lambda: answers_are_its_own(pool), times=8).join()
        with pool._lock:
            pool.disconnect()

    try:
        ended_well(in_child(work))
    finally:
        leave.set()
        thread.join()
    answers_are_its_own(pool)


def test_fork_while_others_wait_and_connect(pool: ConnectionPool):
    held = [pool.get_connection() for _ in range(4)]
    waiting = Calls(lambda: client_of(pool).ping(), times=4)
    wait_for(lambda: pool.stats().waiting == 4)

    def work() -> None:
        found = pool.stats()
        assert (found.in_use, found.idle, found.waiting, found.opening) == (0, 0, 0, 0)
        answers_are_its_own(pool)
        nothing_is_missing_in_child(pool)

    child = in_child(work)
    for connection in held:
        pool.release(connection)
    held.clear()
    waiting.join()
    ended_well(child)
    nothing_is_missing(pool)


def nothing_is_missing_in_child(pool: ConnectionPool) -> None:
    assert pool.stats().in_use == 0
    assert pool._core.size == pool.stats().idle


def test_forks_under_load_at_random_instants(pool: ConnectionPool):
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers_are_its_own(pool, 1)

    with meanwhile(load, ended=stop, times=6):
        for _ in range(25):
            ended_well(in_child(lambda: answers_are_its_own(pool, 2)))
    nothing_is_missing(pool)


def test_a_child_that_closes_its_pool_or_ends_closes_nothing_of_the_parent(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    held = pool.get_connection()
    ended_well(in_child(pool.disconnect))
    ended_well(in_child(lambda: pool.close(timeout=1)))
    held.send_command("PING")
    held.read_response()
    pool.release(held)
    assert pool.stats().closed == {}
    assert pool.stats().created == 1


def test_close_in_the_parent_while_the_child_lives(pool: ConnectionPool):
    client_of(pool).ping()
    go, done = os.pipe()

    def work() -> None:
        answers_are_its_own(pool)
        os.read(go, 1)
        answers_are_its_own(pool)

    child = in_child(work)
    pool.disconnect()
    os.write(done, b"x")
    ended_well(child)
    answers_are_its_own(pool)


def test_a_pool_made_before_the_fork_like_under_preload(server: RedisServer):
    pool = direct_pool(server, min_idle=2)
    children = [in_child(lambda: answers_are_its_own(pool, 10)) for _ in range(4)]
    for child in children:
        ended_well(child)
    assert pool.stats().created == 0


def test_a_child_inherits_no_counters_and_no_holder(pool: ConnectionPool):
    held: list[Any] = [pool.get_connection()]

    def work() -> None:
        found = pool.stats()
        assert (found.checkouts, found.created, found.longest_held) == (0, 0, 0.0)
        assert pool._created_connections == 0
        assert pool.pid == os.getpid()

    ended_well(in_child(work))
    pool.release(held.pop())


def test_a_pool_made_before_gevent_patches_works_in_greenlets(server: RedisServer):
    result = python(
        f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from poolmgr.pool import fork
from poolmgr.pool.sync.pool import ConnectionPool
from tests.permits import FakeMember
pool = ConnectionPool(host="127.0.0.1", port={server.port}, max_connections=3, member=FakeMember(), timeout=5)
from gevent import monkey
monkey.patch_all()
import gevent, redis, time
client = redis.Redis(connection_pool=pool)
client.set("k", "mine")
start = time.monotonic()
jobs = [gevent.spawn(client.blpop, ["nothing"], 0.2) for _ in range(3)]
jobs += [gevent.spawn(client.get, "k") for _ in range(20)]
gevent.joinall(jobs, timeout=5, raise_error=True)
assert all(job.value == b"mine" for job in jobs[3:]), [job.value for job in jobs]
assert time.monotonic() - start < 2
# a greenlet killed in the middle of a command leaves nothing behind
for _ in range(50):
    job = gevent.spawn(client.blpop, ["nothing"], 5)
    gevent.sleep(0.002)
    job.kill()
    assert client.get("k") == b"mine"
import gc
gc.collect()
assert pool.stats().in_use == 0, pool
print("fine")
""",
        timeout=30,
        check=False,
    )
    assert result.stdout.strip() == "fine", result.stderr
