"""Which connection is used, how many are kept and for how long, on a real server."""

from __future__ import annotations

import threading
import time

import pytest

from poolmgr.exceptions import PoolClosedError
from tests.helpers import RedisServer, stopped, wait_for
from tests.pools import answers_are_its_own, client_of, direct_pool, give, nothing_is_missing, take
from tests.stopwatch import Stopwatch
from tests.threads import Calls


@pytest.mark.parametrize("order", ["fifo", "lifo"])
@pytest.mark.usefixtures("flavour")
def test_order(server: RedisServer, order: str):
    pool = direct_pool(server, order=order)
    held = take(pool, 3)
    first, last = held[0], held[-1]
    give(pool, held)
    assert pool.get_connection() is (first if order == "fifo" else last)


@pytest.mark.usefixtures("flavour")
def test_min_idle_is_refilled_in_the_background(server: RedisServer):
    pool = direct_pool(server, min_idle=3)
    client_of(pool).ping()

    def refilled() -> bool:
        pool.tick(0)
        return pool.stats().idle >= 3

    wait_for(refilled)
    held = take(pool, 2)
    wait_for(refilled)
    assert pool.stats().created <= 7, "no more than it takes"
    give(pool, held)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_idle_timeout_shrinks_to_what_the_last_period_needed(server: RedisServer):
    pool = direct_pool(server, idle_timeout=0.2, max_connecting=1)
    give(pool, take(pool, 6))
    pool.tick(0)  # a period begins
    give(pool, take(pool, 3))  # all six are used in turn, but never more than three at once
    give(pool, take(pool, 3))
    time.sleep(0.21)
    pool.tick(0)
    assert pool.stats().idle == 3
    assert pool.stats().closed == {"idle": 3}
    pool.resize(min_idle=1)
    time.sleep(0.21)
    pool.tick(0)
    assert pool.stats().idle == 1, "min_idle stays"
    assert 0 < pool.tick(0) <= 0.2


@pytest.mark.usefixtures("flavour")
def test_max_lifetime_with_jitter(server: RedisServer):
    pool = direct_pool(server, max_lifetime=100)
    held = take(pool, 8)
    lives = [connection._expires - connection._since for connection in held]
    assert max(lives) - min(lives) > 0.5, "not all at once"
    assert all(90 <= life <= 100 for life in lives)
    give(pool, held[:4])
    for connection in held:
        connection._expires = 0.0
    idle = pool.stats().idle
    pool.tick(0)
    assert pool.stats().closed == {"expired": idle}
    assert pool.tick(0) > 1, "what is out comes back by itself: there is nothing to look for meanwhile"
    give(pool, held)
    assert pool.stats().closed == {"expired": 8}
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_max_lifetime_without_a_tick(server: RedisServer):
    pool = direct_pool(server, max_lifetime=0.05)
    client_of(pool).ping()
    time.sleep(0.06)
    answers_are_its_own(pool)
    assert set(pool.stats().closed) == {"expired"}


@pytest.mark.usefixtures("flavour")
def test_resize(server: RedisServer):
    pool = direct_pool(server, max_connections=5)
    held = take(pool, 5)
    give(pool, held[3:])
    held = held[:3]
    pool.resize(max_connections=2)
    assert pool.stats().in_use == 3
    assert pool.stats().idle == 0
    give(pool, held)
    assert pool.stats().idle == 2
    assert pool.stats().closed == {"resized": 3}
    pool.timeout = 60
    held = take(pool, 2)
    served = threading.Event()

    def call() -> None:
        client_of(pool).ping()
        served.set()

    thread = Calls(call)
    wait_for(lambda: pool.stats().waiting == 1)
    pool.resize(max_connections=3)
    assert served.wait(30), "a waiter has the new place at once"
    thread.join()
    give(pool, held)
    pool.resize(min_idle=3)
    for wrong in ({"max_connections": 0}, {"min_idle": 9}, {"max_connections": "3"}):
        with pytest.raises(ValueError, match="must be"):
            pool.resize(**wrong)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_drain(server: RedisServer):
    pool = direct_pool(server, max_connections=3)  # else a fourth one may be on its way
    held = take(pool, 3)
    give(pool, held[1:])
    held = held[:1]
    pool.drain()
    assert pool.stats().idle == 0
    connection = pool.get_connection()
    pool.release(connection)
    give(pool, held)
    assert pool.stats().closed == {"drained": 3}
    assert pool._available_connections == [connection], "what was made after the drain stays"
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
@pytest.mark.parametrize("end", ["disconnect", "drain", "reset"])
def test_what_is_being_opened_is_closed_with_the_idle_ones(server: RedisServer, end: str):
    """For the queue, when it is ready; by a caller, when it comes back."""
    pool = direct_pool(server, timeout=10, socket_timeout=20)
    held, got = take(pool, 1), []

    def get() -> None:
        got.append(pool.get_connection())

    with stopped(server.pid):
        waiting = Calls(get)
        wait_for(lambda: pool.stats().opening == 1, what="one is being opened for the queue")
        give(pool, held)
        waiting.join(10)
        getattr(pool, end)()
    wait_for(lambda: pool.stats().opening == 0, what="it is ready")
    give(pool, got)
    wait_for(lambda: pool.stats().idle == 0, what="both are closed")
    with stopped(server.pid):
        opening = Calls(get)
        wait_for(lambda: pool.stats().opening == 1, what="a caller connects")
        getattr(pool, end)()
    opening.join(10)
    give(pool, got)
    assert pool.stats().idle == 0
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_close_lets_holders_finish(server: RedisServer):
    pool = direct_pool(server, max_connections=2, timeout=5)
    held = take(pool, 2)
    waiting = Calls(pool.get_connection)
    wait_for(lambda: pool.stats().waiting == 1)
    giver = threading.Timer(0.1, give, (pool, held[:1]))
    giver.start()
    watch = Stopwatch()
    pool.close(timeout=0.3)
    assert watch.seconds() >= 0.3 and watch.fair() < 3
    assert isinstance(waiting.errors()[0], PoolClosedError)
    with pytest.raises(PoolClosedError):
        pool.get_connection()
    assert not held[1].is_connected, "who did not finish in time is cut off"
    give(pool, held)
    nothing_is_missing(pool)
    assert pool.stats().idle == 0


def test_close_without_a_timeout_is_redis_pys(server: RedisServer):
    with direct_pool(server) as pool:
        client_of(pool).ping()
    assert pool.stats().idle == 0
    assert client_of(pool).ping()
