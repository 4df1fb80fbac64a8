"""Ceilings and waiting, on a real server: who comes first is served first, and who is not is told why."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import redis

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core import bounds
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.pool.waiting import Caller
from poolmgr.wire import Endpoint
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember, FakePermits
from tests.pools import client_of, direct_pool, give, nothing_is_missing, permits, take
from tests.proxy import proxy_to
from tests.stopwatch import Stopwatch
from tests.threads import Calls


@pytest.mark.usefixtures("flavour")
def test_max_connections_and_timeout(server: RedisServer):
    pool = direct_pool(server, max_connections=2, timeout=0.1)
    held = take(pool, 2)
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.get_connection()
    assert watch.seconds() >= 0.1 and watch.fair() < 2
    error = caught.value
    assert error.reason == "pool"
    assert isinstance(error, redis.exceptions.MaxConnectionsError)
    assert isinstance(error, redis.TimeoutError)
    for part in (
        "within 0.1",
        "2 in use",
        "0 idle",
        "0 waiting",
        "max_connections 2",
        "Longest checkout",
        "Raise the pool's",
    ):
        assert part in str(error)
    assert pool.stats().timeouts == {"pool": 1}
    give(pool, held)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
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
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError):
        pool.get_connection()
    assert watch.fair() < 0.2
    give(pool, held)
    cold = direct_pool(server, timeout=0)
    assert client_of(cold).ping(), "nor does connecting"


@pytest.mark.usefixtures("flavour")
def test_the_budget_as_the_reason(server: RedisServer):
    pool = direct_pool(server, member=FakeMember(limit=1), timeout=0.05)
    held = take(pool, 1)
    with pytest.raises(ConnectionPoolTimeoutError, match="all 1 permits are taken") as caught:
        pool.get_connection()
    assert caught.value.reason == "budget"
    give(pool, held)
    nothing_is_missing(pool)


class Flickering(FakePermits):
    """No supervisor can be had, and each attempt to start one ends between two looks at that."""

    looks = 0

    @property
    def obstacle(self) -> str:
        self.looks += 1
        return "" if self.looks % 2 else "none can be started"

    @obstacle.setter
    def obstacle(self, value: str) -> None:
        pass


@pytest.mark.parametrize("way", ["known", "flickering", "deaf"])
@pytest.mark.usefixtures("flavour")
def test_what_is_lent_comes_back_whatever_keeps_the_pool_from_growing(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, way: str
):
    monkeypatch.setitem(bounds.LONGEST, bounds.SUPERVISOR, 0.1)
    pool = direct_pool(server, member=FakeMember(limit=1), timeout=20)
    held = take(pool, 1)
    found = permits(pool)
    found.pending = bounds.SUPERVISOR
    if way == "flickering":
        found.__class__ = Flickering
    elif way == "known":
        found.obstacle = "none can be started"
    giver = threading.Timer(0.5, give, (pool, held))
    giver.start()
    assert client_of(pool).ping()
    giver.join()
    pool.disconnect()
    permits(pool).limit = 0
    with pytest.raises(ConnectionPoolTimeoutError):
        pool.get_connection()  # nothing is lent
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_permit_that_comes_later_is_used_at_once(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("poolmgr.pool.waiting.SLICE", 60.0)  # nobody looks by itself
    pool = direct_pool(server, member=FakeMember(limit=1), timeout=60)
    held = take(pool, 1)
    served = threading.Event()

    def call() -> None:
        client_of(pool).ping()
        served.set()

    thread = Calls(call)
    wait_for(lambda: pool._core.starved)
    permits(pool).limit = 2
    pool.grow()
    assert served.wait(30)
    thread.join()
    give(pool, held)


@pytest.mark.usefixtures("flavour")
def test_max_waiting(server: RedisServer):
    pool = direct_pool(server, max_connections=1, max_waiting=2, timeout=5)
    held = take(pool, 1)
    threads = Calls(lambda: client_of(pool).ping(), times=2)
    wait_for(lambda: pool.stats().waiting == 2)
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError, match="max_waiting") as caught:
        pool.get_connection()
    assert caught.value.reason == "queue"
    assert watch.fair() < 2
    give(pool, held)
    threads.join()
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
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


@pytest.mark.usefixtures("flavour")
def test_nobody_barges(server: RedisServer):
    """Whoever releases and comes again at once does not pass those who wait."""
    pool = direct_pool(server, max_connections=1, timeout=10)
    held = take(pool, 1)
    got: list[str] = []

    def call() -> None:
        connection = pool.get_connection()
        got.append("waiter")
        pool.release(connection)

    thread = Calls(call)
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

    waiter = Calls(lambda: call("waiter"))
    wait_for(lambda: pool.stats().waiting == 1)
    pool._owner[0] = time.monotonic() + 1000  # as if another thread had the turn
    give(pool, held)
    newcomer = Calls(lambda: call("newcomer"))
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
    thread = Calls(lambda: client_of(pool).ping())
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
    Calls(lambda: client_of(pool).ping(), times=10).join()
    assert len(member.endpoints) == 1


def test_a_waiter_that_goes_hands_on_what_it_was_given(server: RedisServer):
    pool = direct_pool(server, max_connections=1)
    connection = pool.get_connection()
    caller = Caller(pool, time.monotonic(), None, lambda: None)
    caller.join()
    pool.release(connection)
    assert caller.pause() is None, "it is served"
    caller.give_up()  # an exception struck before it could look
    assert pool._available_connections == [connection]
    assert pool.stats().closed == {}


@pytest.mark.usefixtures("flavour")
def test_connection_as_a_context_manager_with_its_own_timeout(server: RedisServer):
    pool = direct_pool(server, max_connections=1, timeout=30)
    with pool.connection() as connection:
        connection.send_command("PING")
        assert connection.read_response()
        watch = Stopwatch()
        with pytest.raises(ConnectionPoolTimeoutError), pool.connection(timeout=0.05):
            pass
        assert watch.fair() < 1
    with pytest.raises(ZeroDivisionError), pool.connection(timeout=None):
        raise ZeroDivisionError
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_max_connecting(server: RedisServer):
    """However many want one: so many are opened at the same time."""
    with proxy_to(server.port) as proxy:
        proxy.frozen = True
        pool = ConnectionPool(host="127.0.0.1", port=proxy.port, member=FakeMember(), max_connecting=3, timeout=10)
        threads = Calls(lambda: client_of(pool).ping(), times=8)
        wait_for(lambda: pool.stats().waiting == 7, what="one connects itself, and all others wait")
        wait_for(lambda: proxy.open == 3)
        pool.grow()  # whoever looks again finds the same
        assert (pool.stats().opening, proxy.accepted) == (3, 3)
        proxy.restore()
        threads.join()
        nothing_is_missing(pool)
