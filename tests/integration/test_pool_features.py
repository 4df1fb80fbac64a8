"""Every feature of the pool, on a real server."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

import poolmgr
from poolmgr.exceptions import ConnectionPoolTimeoutError, PoolClosedError
from poolmgr.pool.core import Served, Waiter
from poolmgr.pool.stats import REASONS, Hooks, Stats
from poolmgr.pool.sync import ConnectionPool
from poolmgr.wire import WAIT_BOUNDS, Endpoint
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember, FakePermits
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing, permits, running_server
from tests.proxy import proxy_to


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


def take(pool: ConnectionPool, count: int) -> list[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "timeout", 30)
        return [pool.get_connection() for _ in range(count)]


def give(pool: ConnectionPool, held: list[Any]) -> None:
    while held:
        pool.release(held.pop(0))


# ---- ceilings and waiting --------------------------------------------------------------------------


def test_max_connections_and_timeout(server: RedisServer):
    pool = direct_pool(server, max_connections=2, timeout=0.1)
    held = take(pool, 2)
    start = time.monotonic()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.get_connection()
    assert 0.1 <= time.monotonic() - start < 2
    error = caught.value
    assert error.reason == "pool"
    assert isinstance(error, redis.exceptions.MaxConnectionsError)
    assert isinstance(error, redis.TimeoutError)
    for part in ("after 0.1", "2 in use", "0 idle", "0 waiting", "ceiling 2", "longest holder", "max_connections"):
        assert part in str(error)
    assert pool.stats().timeouts == {"pool": 1}
    give(pool, held)
    nothing_is_missing(pool)


def test_timeout_none_waits_and_timeout_0_does_not(server: RedisServer):
    pool = direct_pool(server, max_connections=1, timeout=None)
    held = take(pool, 1)
    giver = threading.Timer(0.3, give, (pool, held))
    giver.start()
    assert client_of(pool).ping()
    giver.join()
    pool.timeout = 0
    assert client_of(pool).ping(), "an idle connection needs no waiting"
    held = take(pool, 1)
    start = time.monotonic()
    with pytest.raises(ConnectionPoolTimeoutError):
        pool.get_connection()
    assert time.monotonic() - start < 0.05
    give(pool, held)
    cold = direct_pool(server, timeout=0)
    assert client_of(cold).ping(), "nor does connecting"


def test_the_budget_as_the_reason(server: RedisServer):
    pool = direct_pool(server, member=FakeMember(limit=1), timeout=0.05)
    held = take(pool, 1)
    with pytest.raises(ConnectionPoolTimeoutError, match="all 1 permits are taken") as caught:
        pool.get_connection()
    assert caught.value.reason == "budget"
    give(pool, held)
    nothing_is_missing(pool)


def test_a_permit_that_comes_later_is_used_at_once(server: RedisServer):
    pool = direct_pool(server, member=FakeMember(limit=1), timeout=5)
    held = take(pool, 1)
    served = threading.Event()

    def call() -> None:
        client_of(pool).ping()
        served.set()

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: pool._core.starved)
    permits(pool).limit = 2
    start = time.monotonic()
    pool.grow()
    assert served.wait(2)
    assert time.monotonic() - start < 0.2
    thread.join()
    give(pool, held)


def test_max_waiting(server: RedisServer):
    pool = direct_pool(server, max_connections=1, max_waiting=2, timeout=5)
    held = take(pool, 1)
    threads = [threading.Thread(target=lambda: client_of(pool).ping()) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_for(lambda: pool.stats().waiting == 2)
    start = time.monotonic()
    with pytest.raises(ConnectionPoolTimeoutError, match="max_waiting") as caught:
        pool.get_connection()
    assert caught.value.reason == "queue"
    assert time.monotonic() - start < 0.1
    give(pool, held)
    for thread in threads:
        thread.join()
    nothing_is_missing(pool)


def test_first_come_first_served(server: RedisServer):
    pool = direct_pool(server, max_connections=1, timeout=10)
    held = take(pool, 1)
    order: list[int] = []

    def call(number: int) -> None:
        connection = pool.get_connection()
        order.append(number)
        pool.release(connection)

    threads = []
    for number in range(20):
        threads.append(threading.Thread(target=call, args=(number,)))
        threads[-1].start()
        expected = number + 1
        wait_for(lambda expected=expected: pool.stats().waiting == expected)  # type: ignore[misc]
    give(pool, held)
    for thread in threads:
        thread.join()
    assert order == list(range(20))


def test_nobody_barges(server: RedisServer):
    """Whoever releases and comes again at once does not pass those who wait."""
    pool = direct_pool(server, max_connections=1, timeout=10)
    held = take(pool, 1)
    got: list[str] = []

    def call() -> None:
        connection = pool.get_connection()
        got.append("waiter")
        pool.release(connection)

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: pool.stats().waiting == 1)
    give(pool, held)
    connection = pool.get_connection()
    got.append("newcomer")
    pool.release(connection)
    thread.join()
    assert got == ["waiter", "newcomer"]


def test_nobody_takes_a_connection_that_is_about_to_be_handed_over(server: RedisServer):
    """Between a release and the hand-over the connection is idle and somebody waits for it."""
    pool = direct_pool(server, max_connections=1, timeout=10)
    held = take(pool, 1)
    got: list[str] = []

    def call(name: str) -> None:
        connection = pool.get_connection()
        got.append(name)
        pool.release(connection)

    waiter = threading.Thread(target=call, args=("waiter",))
    waiter.start()
    wait_for(lambda: pool.stats().waiting == 1)
    pool._owner[0] = time.monotonic() + 1000  # as if another thread had the turn
    give(pool, held)
    newcomer = threading.Thread(target=call, args=("newcomer",))
    newcomer.start()
    wait_for(lambda: pool.stats().waiting == 2)
    assert pool.stats().idle == 1
    assert got == []
    pool._owner.clear()
    pool._advance(may_open=False)
    waiter.join()
    newcomer.join()
    assert got == ["waiter", "newcomer"]


def test_who_has_the_turn_looks_again_before_it_is_done(server: RedisServer):
    """A release that finds somebody else deciding leaves a note and goes; the note is heeded."""
    pool = direct_pool(server, max_connections=1, timeout=10)
    held = take(pool, 1)
    thread = threading.Thread(target=lambda: client_of(pool).ping())
    thread.start()
    wait_for(lambda: pool.stats().waiting == 1)
    decide = pool._core.advance

    def advance(*arguments: Any) -> Any:
        yield from decide(*arguments)
        give(pool, held)  # when all has been looked at

    pool._core.advance = advance  # type: ignore[method-assign, assignment]
    pool._advance(may_open=False)
    assert not pool._dirty
    assert not pool._available_connections, "it was handed over, without waiting for the waiter to look"
    thread.join()


def test_a_pool_is_attached_once_however_many_come_first(server: RedisServer):
    class Slow(FakeMember):
        def attach(self, endpoint: Endpoint, pool: Any) -> FakePermits:
            time.sleep(0.02)
            return super().attach(endpoint, pool)

    member = Slow()
    pool = direct_pool(server, member=member)
    threads = [threading.Thread(target=lambda: client_of(pool).ping()) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(member.endpoints) == 1


def test_a_waiter_that_goes_hands_on_what_it_was_given(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    connection = pool.get_connection()
    waiter = Waiter(time.monotonic(), lambda: None)
    pool._core.join(waiter)
    pool.release(connection)
    assert waiter.fate == Served(connection)
    pool._give_up(waiter)  # an exception struck before it could look
    assert pool._available_connections == [connection]
    assert pool.stats().closed == {}


def test_connection_as_a_context_manager_with_its_own_timeout(server: RedisServer):
    pool = direct_pool(server, max_connections=1, timeout=30)
    with pool.connection() as connection:
        connection.send_command("PING")
        assert connection.read_response()
        start = time.monotonic()
        with pytest.raises(ConnectionPoolTimeoutError), pool.connection(timeout=0.05):
            pass
        assert time.monotonic() - start < 1
    with pytest.raises(ZeroDivisionError), pool.connection(timeout=None):
        raise ZeroDivisionError
    nothing_is_missing(pool)


def test_max_connecting(server: RedisServer):
    """However many want one: so many are opened at the same time."""
    with proxy_to(server.port) as proxy:
        proxy.frozen = True
        pool = ConnectionPool(host="127.0.0.1", port=proxy.port, member=FakeMember(), max_connecting=3, timeout=10)
        threads = [threading.Thread(target=lambda: client_of(pool).ping()) for _ in range(8)]
        for thread in threads:
            thread.start()
        wait_for(lambda: pool.stats().waiting == 7, what="one connects itself, and all others wait")
        wait_for(lambda: proxy.open == 3)
        pool.grow()  # whoever looks again finds the same
        assert (pool.stats().opening, proxy.accepted) == (3, 3)
        proxy.restore()
        for thread in threads:
            thread.join()
        nothing_is_missing(pool)


# ---- which, how many, how long ---------------------------------------------------------------------


@pytest.mark.parametrize("order", ["fifo", "lifo"])
def test_order(server: RedisServer, order: str):
    pool = direct_pool(server, order=order)
    held = take(pool, 3)
    first, last = held[0], held[-1]
    give(pool, held)
    assert pool.get_connection() is (first if order == "fifo" else last)


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


def test_max_lifetime_without_a_tick(server: RedisServer):
    pool = direct_pool(server, max_lifetime=0.05)
    client_of(pool).ping()
    time.sleep(0.06)
    answers_are_its_own(pool)
    assert pool.stats().closed == {"expired": 1}


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
    pool.timeout = 5
    held = take(pool, 2)
    served = threading.Event()

    def call() -> None:
        client_of(pool).ping()
        served.set()

    thread = threading.Thread(target=call)
    thread.start()
    wait_for(lambda: pool.stats().waiting == 1)
    pool.resize(max_connections=3)
    assert served.wait(2), "a waiter has the new place at once"
    thread.join()
    give(pool, held)
    pool.resize(min_idle=3)
    for wrong in ({"max_connections": 0}, {"min_idle": 9}, {"max_connections": "3"}):
        with pytest.raises(ValueError, match="must be"):
            pool.resize(**wrong)
    nothing_is_missing(pool)


def test_drain(server: RedisServer):
    pool = direct_pool(server)
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


def test_close_lets_holders_finish(server: RedisServer):
    pool = direct_pool(server, max_connections=2, timeout=5)
    held = take(pool, 2)
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            pool.get_connection()
        except redis.RedisError as error:
            waiting.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: pool.stats().waiting == 1)
    giver = threading.Timer(0.1, give, (pool, held[:1]))
    giver.start()
    start = time.monotonic()
    pool.close(timeout=0.3)
    assert 0.3 <= time.monotonic() - start < 1
    thread.join()
    assert isinstance(waiting[0], PoolClosedError)
    with pytest.raises(PoolClosedError):
        pool.get_connection()
    assert not held[1].is_connected, "who did not finish in time is cut off"
    give(pool, held)
    waiting.clear()
    nothing_is_missing(pool)
    assert pool.stats().idle == 0


def test_close_without_a_timeout_is_redis_pys(server: RedisServer):
    with direct_pool(server) as pool:
        client_of(pool).ping()
    assert pool.stats().idle == 0
    assert client_of(pool).ping()


# ---- what it tells ---------------------------------------------------------------------------------


def test_leak_after(server: RedisServer, caplog: pytest.LogCaptureFixture):
    pool = direct_pool(server, leak_after=0.05, name="cache")

    def forgetful() -> Any:
        return pool.get_connection()

    leaked = forgetful()
    time.sleep(0.06)
    with caplog.at_level(logging.WARNING, "poolmgr.pool"):
        pool.tick(0)
        pool.tick(0)
    (record,) = [r for r in caplog.records if r.getMessage() == "pool.leak"]
    assert record.pool == "cache"  # type: ignore[attr-defined]
    assert "forgetful" in record.stack  # type: ignore[attr-defined]
    assert record.holder == "MainThread"  # type: ignore[attr-defined]
    assert pool.stats().leaks == 1
    pool.timeout = 0.01
    pool.max_connections = 1
    with pytest.raises(ConnectionPoolTimeoutError, match=r"longest holder .* \(MainThread\)"):
        pool.get_connection()
    pool.release(leaked)
    nothing_is_missing(pool)


def test_stats(server: RedisServer):
    pool = direct_pool(server, max_connections=2)
    held = take(pool, 1)
    found = pool.stats()
    assert isinstance(found, Stats)
    assert (found.in_use, found.idle, found.opening, found.waiting, found.max_connections) == (1, 0, 0, 0, 2)
    assert (found.checkouts, found.created, found.connect_errors) == (1, 1, 0)
    assert found.longest_held > 0
    with pytest.raises(AttributeError):
        found.idle = 3  # type: ignore[misc]
    held += take(pool, 1)
    before = pool.stats()
    giver = threading.Timer(0.03, give, (pool, held))
    giver.start()
    client_of(pool).ping()
    giver.join()
    found = pool.stats()
    assert found.waits == before.waits + 1
    assert 0.02 < found.wait_seconds - before.wait_seconds < 0.5
    assert len(found.wait_buckets) == len(WAIT_BOUNDS) + 1
    assert sum(found.wait_buckets) == found.waits
    assert set(found.closed) <= set(REASONS)
    counters = pool.counters()
    assert (counters.checkouts, counters.created, counters.waits) == (3, 2, found.waits)


def test_hooks(server: RedisServer, caplog: pytest.LogCaptureFixture):
    heard: list[Any] = []

    def failing(*arguments: Any) -> None:
        heard.append("failing")
        raise RuntimeError("a user's own")

    hooks = Hooks(
        created=lambda c: heard.append("created"),
        closed=lambda c, reason: heard.append(reason),
        checked_out=lambda c: heard.append("checked out"),
        timed_out=failing,
    )
    pool = direct_pool(server, hooks=hooks, max_connections=1, timeout=0.01)
    held = take(pool, 1)
    with pytest.raises(ConnectionPoolTimeoutError):
        pool.get_connection()
    give(pool, held)
    pool.disconnect()
    assert heard == ["created", "checked out", "failing", "pool"]
    assert "pool.hook_failed" in caplog.text


def test_the_repr_answers_what_state_it_is_in(server: RedisServer):
    pool = direct_pool(server, name="cache", max_connections=3, password=None)
    held = take(pool, 2)
    pool.release(held.pop())
    assert "cache ready: 1 in use, 1 idle, 0 opening of 3, 0 waiting>" in repr(pool)
    assert repr(pool) in repr(client_of(pool))
    secret = ConnectionPool(password="hunter2", member=FakeMember())
    assert "hunter2" not in repr(secret)
    give(pool, held)


# ---- how it is set ---------------------------------------------------------------------------------


def test_every_option_in_a_url(server: RedisServer):
    pool = ConnectionPool.from_url(
        f"redis://127.0.0.1:{server.port}/2?max_connections=7&timeout=1.5&min_idle=2&max_waiting=9&idle_timeout=30"
        "&max_lifetime=600&order=lifo&leak_after=4&name=cache&max_connecting=3&socket_timeout=3&client_name=a%20b",
        member=FakeMember(),
        timeout=99,
    )
    assert (pool.max_connections, pool.timeout, pool._core.min_idle, pool.max_waiting) == (7, 1.5, 2, 9)
    assert (pool.idle_timeout, pool.max_lifetime, pool.order, pool.leak_after) == (30, 600, "lifo", 4)
    assert (pool.name, pool._core.max_opening) == ("cache", 3)
    assert pool.connection_kwargs["socket_timeout"] == 3
    assert pool.connection_kwargs["client_name"] == "a b"
    assert pool.connection_kwargs["db"] == 2
    assert ConnectionPool.from_url("redis://h?timeout=none", member=FakeMember()).timeout is None


@pytest.mark.parametrize(
    "option", ["order=random", "timeout=-1", "min_idle=x", "max_waiting=-2", "max_lifetime=nan", "max_connecting=0"]
)
def test_an_option_with_a_wrong_value(option: str):
    with pytest.raises(ValueError, match=option.partition("=")[0]):
        ConnectionPool.from_url(f"redis://localhost?{option}")


def test_every_option_from_the_environment(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    from poolmgr.pool import default

    values = {
        "REDIS_URL": f"redis://127.0.0.1:{server.port}/0?order=fifo", "REDIS_POOL_MAX_CONNECTIONS": "7",
        "REDIS_POOL_TIMEOUT": "1.5", "REDIS_POOL_MIN_IDLE": "2", "REDIS_POOL_MAX_WAITING": "9",
        "REDIS_POOL_IDLE_TIMEOUT": "30", "REDIS_POOL_MAX_LIFETIME": "600", "REDIS_POOL_ORDER": "lifo",
        "REDIS_POOL_LEAK_AFTER": "4", "REDIS_POOL_NAME": "cache", "REDIS_POOL_MAX_CONNECTING": "3",
        "REDIS_SOCKET_TIMEOUT": "3", "REDIS_SOCKET_CONNECT_TIMEOUT": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(default, "_pools", {})
    monkeypatch.setattr(default, "_clients", {})
    pool = poolmgr.get_pool()
    assert (pool.max_connections, pool.timeout, pool._core.min_idle, pool.max_waiting) == (7, 1.5, 2, 9)
    assert (pool.idle_timeout, pool.max_lifetime, pool.leak_after) == (30, 600, 4)
    assert (pool.name, pool._core.max_opening) == ("cache", 3)
    assert default.get_pool(protocol=2).name == "cache-resp2"
    assert pool.order == "fifo", "the URL goes before"
    assert pool.connection_kwargs["socket_timeout"] == 3
    assert pool.connection_kwargs["socket_connect_timeout"] == 1
    assert poolmgr.get_pool() is pool


# ---- permits ---------------------------------------------------------------------------------------


def test_connections_carry_the_permits_name_after_the_users_own():
    with running_server() as server:
        pool = direct_pool(server, member=FakeMember(tag="tag"), client_name="mine")
        client = client_of(pool)
        client.ping()
        (found,) = server.clients()
        assert found["name"] == "mine:tag-1"
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


def test_a_recalled_permit_is_given_up_at_the_release(server: RedisServer):
    pool = direct_pool(server)
    held = take(pool, 3)
    permits(pool).surplus = 2
    give(pool, held)
    assert pool.stats().closed == {"recalled": 2}
    assert pool.stats().idle == 1
    nothing_is_missing(pool)


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


def test_no_more_sockets_than_permits_at_any_time(server: RedisServer):
    pool = direct_pool(server, member=FakeMember(limit=3), timeout=10)
    threads = [threading.Thread(target=answers_are_its_own, args=(pool, 20)) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert permits(pool).most == 3
    assert len(server.clients()) <= 3 + 1
    nothing_is_missing(pool)
