"""The pool and its permits: each socket has one and bears its name, and gives it up when it is recalled."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import redis

from poolmgr.member.ports import PINNED_AFTER
from tests.helpers import RedisServer, Servers, free_port, python, wait_for
from tests.permits import FakeMember
from tests.pools import (
    answers_are_its_own,
    client_of,
    direct_pool,
    give,
    nothing_is_missing,
    permits,
    running_server,
    take,
)
from tests.threads import Calls


@pytest.mark.usefixtures("flavour")
def test_connections_carry_the_permits_name_after_the_users_own():
    with running_server() as server:
        pool = direct_pool(server, member=FakeMember(tag="tag"), client_name="mine")
        client = client_of(pool)
        client.ping()
        (found,) = server.clients()
        assert found["name"] == "mine:tag-1"
        if server.kind.names_libraries:
            assert found["lib-name"] == "redis-py:tag-1"
            assert found["lib-ver"] == redis.__version__
        connection = pool.get_connection()
        connection.disconnect()
        connection.connect()
        assert {c["name"] for c in server.clients()} >= {"mine:tag-2"}, "a new socket has a new permit and its name"
        pool.release(connection)
        pool.disconnect()
        permits(pool).sweep()
        pool = direct_pool(server, member=FakeMember(tag="tag"))
        client_of(pool).ping()
        assert [c["name"] for c in server.clients()] == ["tag-1"]
        pool.disconnect()


@pytest.mark.usefixtures("flavour")
def test_a_recalled_permit_is_given_up_at_the_release(server: RedisServer):
    pool = direct_pool(server)
    held = take(pool, 3)
    permits(pool).surplus = 2
    give(pool, held)
    assert pool.stats().closed == {"recalled": 2}
    assert pool.stats().idle == 1
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_shed_closes_the_oldest_idle_connections(server: RedisServer):
    pool = direct_pool(server)
    held = take(pool, 3)
    youngest = held[-1]
    give(pool, held)
    assert pool.shed(2) == 2
    assert pool._available_connections == [youngest]
    assert pool.shed(5) == 1
    assert pool.stats().closed == {"recalled": 3}
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_usage_tells_the_member_how_busy_the_pool_is(server: RedisServer):
    pool = direct_pool(server, max_connections=9, timeout=None)
    give(pool, take(pool, 4))
    pool.usage(reset=True)
    held = take(pool, 3)
    found = pool.usage(reset=False)
    assert (found.lent, found.idle, found.waiting, found.low, found.ceiling) == (3, 1, 0, 1, 9)
    assert found.timeout == float("inf")
    give(pool, held)
    assert pool.usage(reset=True).low == 1
    assert pool.usage(reset=True).low == 4
    time.sleep(0.03)
    assert 0.03 <= pool.usage(reset=False).quiet < 1
    give(pool, held)
    pool.disconnect()  # the next test counts the server's clients


@pytest.mark.usefixtures("flavour")
def test_no_more_sockets_than_permits_at_any_time(server: RedisServer):
    before = {client["id"] for client in server.clients()}  # of other tests, until their pools are collected
    pool = direct_pool(server, member=FakeMember(limit=3), timeout=10)
    Calls(lambda: answers_are_its_own(pool, 20), times=10).join()
    assert permits(pool).most == 3
    assert len([client for client in server.clients() if client["id"] not in before]) <= 3 + 1
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_connection_that_a_caller_keeps_is_told_to_the_member_as_pinned(server: RedisServer):
    pool = direct_pool(server)
    start = time.monotonic()
    kept, brief = take(pool, 2)
    assert pool.usage(reset=False).pinned == 0
    wait_for(lambda: pool.usage(reset=False).pinned == 2, 2)
    assert time.monotonic() - start >= PINNED_AFTER
    give(pool, [brief])
    assert pool.usage(reset=False).pinned == 1
    again = take(pool, 1)
    assert pool.usage(reset=False).pinned == 1, "of the same connection, lent anew"
    give(pool, [kept, *again])
    assert pool.usage(reset=False).pinned == 0


THREADS = """
import gc, logging, os, threading
from django.conf import settings
logging.basicConfig(format="%(message)s")
cache = {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": os.environ["URL"],
         "OPTIONS": {"pool_class": "poolmgr.ConnectionPool"}}
settings.configure(CACHES={"default": cache})
from django.core.cache import cache
def work():
    for _ in range(3):
        cache.set("k", 1)
        assert cache.get("k") == 1
for _ in range(40):
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_a_pool_for_each_thread_goes_with_its_thread_and_loses_nothing(redis_server: Servers, isolated: Path) -> None:
    """Django keeps one for each thread. Its end is a cycle of garbage, whose objects are ended in any order."""
    server = redis_server(maxclients=13, port=free_port())
    environ = {"URL": server.url, "REDIS_CONNECTION_BUDGET": "12", "POOLMGR_SOCKET": str(isolated)}
    ended = python(THREADS, environ=environ, timeout=100)
    assert ended.stderr == ""
    assert server.rejected() == 0
