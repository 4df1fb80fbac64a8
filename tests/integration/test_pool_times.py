"""What a call may last: ``timeout`` for connections that others hold, and a bound of its own for everything else.

With real supervisors, started by the pool. ``docs/times.md`` is the table that this file holds true.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis

from poolmgr import launch, settings
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.kernel.lockfile import holder
from poolmgr.member.core import bounds
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, alive, kill, wait_for
from tests.permits import FakeMember
from tests.pools import Processes, client_of, direct_pool, pool_with, slow_names
from tests.stopwatch import Stopwatch
from tests.threads import Calls

pytestmark = pytest.mark.usefixtures("flavour")

Make = Callable[..., ConnectionPool]


@pytest.fixture
def make(server: RedisServer, process: Processes) -> Make:
    """Makes pools, each in a process of its own."""
    return lambda **options: process().pool(server.port, **options)


def all_at_once(pool: ConnectionPool, count: int) -> tuple[list[Any], list[ConnectionPoolTimeoutError]]:
    """So many callers in the same instant, who keep what they get."""
    held: list[Any] = []
    refused: list[ConnectionPoolTimeoutError] = []

    def call() -> None:
        try:
            held.append(pool.get_connection())
        except ConnectionPoolTimeoutError as error:
            refused.append(error)

    Calls(call, times=count).join()
    return held, refused


def supervisor() -> int:
    return wait_for(lambda: holder(settings.load().socket + ".lock"), what="a supervisor has the lock")


@pytest.mark.parametrize("timeout", [0, 0.1])
@pytest.mark.parametrize(("budget", "callers"), [(1, 1), (9, 1), (22, 20)])
def test_nothing_is_in_use_so_the_first_callers_of_a_host_need_no_patience(
    make: Make, monkeypatch: pytest.MonkeyPatch, timeout: float, budget: int, callers: int
):
    """The supervisor is started, the server resolved, connections are opened two at a time: all are served."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", str(budget))
    pool = make(timeout=timeout)
    held, refused = all_at_once(pool, callers)
    assert (len(held), refused) == (callers, [])
    while held:
        pool.release(held.pop())
    assert client_of(pool).ping()


def test_the_budget_to_its_last_permit_needs_no_patience_and_the_next_caller_is_refused_at_once(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    """Below a budget of four the supervisor keeps nothing back; and it says so when there is nothing more."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "3")
    pool = make(timeout=0)
    held, refused = all_at_once(pool, 12)
    assert len(held) == 3
    assert {error.reason for error in refused} == {"budget"}
    assert "3" in str(refused[0])
    took = []
    for _ in range(3):
        start = time.monotonic()
        with pytest.raises(ConnectionPoolTimeoutError) as caught:
            pool.get_connection()
        took.append(time.monotonic() - start)
        assert caught.value.reason == "budget"
    assert min(took) < 0.02
    while held:
        pool.release(held.pop())


def test_what_another_process_holds_is_waited_for_as_long_as_timeout_says(make: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "3")
    other, pool = make(timeout=0), make(timeout=0.3)
    held, _ = all_at_once(other, 3)
    assert len(held) == 3
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.get_connection()
    assert caught.value.reason == "budget"
    assert watch.seconds() >= 0.3 and watch.fair() < 2
    pool.timeout = 10
    giver = threading.Timer(0.2, lambda: other.release(held.pop()))
    giver.start()
    assert client_of(pool).ping()
    giver.join()
    while held:
        other.release(held.pop())


def test_a_supervisor_that_was_killed_is_replaced_in_its_own_time(make: Make, monkeypatch: pytest.MonkeyPatch):
    """Growth needs the next one; so does a reconnect inside a command."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "9")
    pool = make(timeout=0)
    first = pool.get_connection()
    for deed in ("grow", "reconnect"):
        pid = supervisor()
        kill(pid)
        wait_for(lambda pid=pid: not alive(pid))  # type: ignore[misc]
        if deed == "grow":
            pool.release(first)
            first, second = pool.get_connection(), pool.get_connection()
            pool.release(second)
        else:
            first.disconnect()
            first.send_command("PING")
            assert first.read_response()
    pool.release(first)


@pytest.mark.parametrize("timeout", [0, None])
def test_where_no_supervisor_can_be_started_callers_hear_why_at_once_whatever_their_timeout(
    make: Make, monkeypatch: pytest.MonkeyPatch, timeout: float | None
):
    monkeypatch.setattr(launch, "MODULE", "tests.fake_supervisor")
    monkeypatch.setenv("FAKE", "refuse")
    pool = make(timeout=timeout)
    watch = Stopwatch()
    _, refused = all_at_once(pool, 5)
    assert watch.fair() < bounds.JOINING
    assert len(refused) == 5
    assert all(error.reason == "supervisor" for error in refused)
    assert "could not start: the snapshot is another's" in str(refused[0])


def test_where_no_supervisor_can_be_started_a_release_is_waited_for_all_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch
):
    """What this process holds it can give back without a supervisor."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "3")
    pool = make(timeout=10)
    held, _ = all_at_once(pool, 3)
    assert len(held) == 3
    monkeypatch.setattr(launch, "MODULE", "tests.fake_supervisor")
    monkeypatch.setenv("FAKE", "refuse")
    pid = supervisor()
    kill(pid)
    wait_for(lambda: not alive(pid))
    with pytest.raises(ConnectionPoolTimeoutError, match="could not start"), pool.connection(timeout=1):
        pass
    permits = pool._origin.attach()
    assert permits is not None
    wait_for(lambda: permits.obstacle, what="it is known that none can be started")
    giver = threading.Timer(0.3, lambda: pool.release(held.pop()))
    giver.start()
    assert client_of(pool).ping()
    giver.join()
    while held:
        pool.release(held.pop())


@pytest.mark.parametrize("timeout", [0, None])
def test_one_that_never_answers_is_waited_for_within_a_bound_of_its_own(
    make: Make, monkeypatch: pytest.MonkeyPatch, timeout: float | None
):
    monkeypatch.setitem(bounds.LONGEST, bounds.SUPERVISOR, 0.6)
    monkeypatch.setattr(launch, "MODULE", "tests.fake_supervisor")
    monkeypatch.setenv("FAKE", "deaf")
    pool = make(timeout=timeout)
    watch = Stopwatch()
    with pytest.raises(ConnectionPoolTimeoutError) as caught:
        pool.get_connection()
    assert watch.seconds() >= 0.6 and watch.fair() < 3
    assert caught.value.reason == "supervisor"


def test_whom_a_slow_connect_holds_up_waits_for_no_one_else(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    resolve = socket.getaddrinfo

    def slow(*args: Any) -> Any:
        time.sleep(0.2)
        return resolve(*args)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    pool = direct_pool(server, host="localhost", timeout=0, max_connecting=1)
    held, refused = all_at_once(pool, 4)
    assert (len(held), refused) == (4, [])
    while held:
        pool.release(held.pop())


def test_a_caller_that_would_be_one_too_many_for_its_pool_is_refused_while_others_connect(server: RedisServer):
    pool = direct_pool(server, host="localhost", timeout=0.1, max_connections=1)
    with slow_names() as go:
        first = Calls(lambda: client_of(pool).ping())
        wait_for(lambda: pool.stats().opening == 1)
        with pytest.raises(ConnectionPoolTimeoutError) as caught:
            pool.get_connection()
        assert caught.value.reason == "pool"
        go.set()
        first.join()


def test_retries_of_a_connect_end_with_its_own_bound(monkeypatch: pytest.MonkeyPatch):
    """Not with ``timeout``, which may be 0: a first attempt that fails is repeated as the user's retries say."""
    tries = []

    def refused(*args: Any) -> Any:
        tries.append(time.monotonic())
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 3)
    for longest, attempts in ((60.0, 4), (0.02, 1)):
        monkeypatch.setitem(bounds.LONGEST, "connecting", longest)
        pool = pool_with(host="127.0.0.1", port=1, member=FakeMember(), timeout=0, retry=retry)
        tries.clear()
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()
        assert len(tries) == attempts
