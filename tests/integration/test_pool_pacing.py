"""While a server does not answer: attempts to connect are few and paced, nobody waits for one in vain, and callers
hear what is known. Afterwards no place and no permit is missing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import pytest
import redis

from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member.core import bounds
from poolmgr.member.ports import Outage
from poolmgr.pool import admission
from tests.helpers import RedisServer, free_port, wait_for
from tests.pools import (
    answers_are_its_own,
    client_of,
    direct_pool,
    nothing_is_missing,
    only,
    permits,
    pool_on,
    slow_names,
    warm,
)
from tests.proxy import Proxy, proxy_to
from tests.stopwatch import Stopwatch
from tests.threads import Calls


@pytest.mark.usefixtures("flavour")
def test_a_refusing_server_is_not_hammered_and_nobody_waits_long(proxy: Proxy, said: Callable[[], list[str]]):
    """Attempts are spaced with full jitter; callers fail with what the last attempt said."""
    pool = pool_on(proxy)
    proxy.refuse()
    stop = time.monotonic() + 1.5
    slowest: list[float] = []
    errors: set[str] = set()

    def call() -> None:
        while time.monotonic() < stop:
            watch = Stopwatch()
            try:
                client_of(pool).ping()
            except redis.ConnectionError as error:
                errors.add(str(error))
            slowest.append(watch.fair())

    Calls(call, times=12).join()
    assert pool.stats().connect_errors < 60
    assert max(slowest) < 1.2
    assert all("Error 111" in text for text in errors)
    assert only(said(), "Error 111"), "one line for an outage"
    proxy.restore()
    assert client_of(pool).ping()
    assert pool._core.failures == 0
    nothing_is_missing(pool)


def test_pauses_between_attempts_grow_with_full_jitter_and_are_kept(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
):
    bounds = [min(1.0, 0.008 * 2**failures) for failures in range(1, 12)]
    for failures, bound in enumerate(bounds, 1):
        draws = [admission.BACKOFF.compute(failures) for _ in range(500)]
        assert 0 <= min(draws) < 0.1 * bound
        assert 0.9 * bound < max(draws) <= bound
    pauses: list[float] = []
    told: list[int] = []

    class Noted:
        def compute(self, failures: int) -> float:
            told.append(failures)
            pauses.append(0.02 * failures)
            return pauses[-1]

    monkeypatch.setattr(admission, "BACKOFF", Noted())
    with proxy_to(free_port()) as proxy:  # it accepts, finds nobody behind it, and closes
        pool = pool_on(proxy)
        for _ in range(6):
            with pytest.raises(redis.ConnectionError):
                client_of(pool).ping()
        assert told == [1, 2, 3, 4, 5, 6]
        gaps = [after - before for before, after in itertools.pairwise(proxy.accepted_at)]
        assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=False)), (gaps, pauses)
    assert len(said()) == 1
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_server_that_accepts_and_never_answers(proxy: Proxy, said: Callable[[], list[str]]):
    pool = pool_on(proxy, timeout=0.3, socket_timeout=1.5)
    proxy.stalled = True
    watch = Stopwatch()
    outcomes = Calls(lambda: client_of(pool).ping(), times=5).errors()
    assert watch.fair() < 5
    assert len(outcomes) == 5
    assert all(isinstance(e, redis.TimeoutError) for e in outcomes)
    assert not any(isinstance(e, ConnectionPoolTimeoutError) for e in outcomes), "no connection was held by others"
    proxy.cut()  # attempts that began before the server was back fail now; they do not fail us
    proxy.restore()
    pool.timeout = 5
    answers_are_its_own(pool)
    assert only(said(), "Timeout reading")
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_caller_does_not_fail_with_an_attempt_that_began_before_it_came(proxy: Proxy):
    """As with redis-py's pools, whose callers see errors of their own connections only."""
    pool = pool_on(proxy, timeout=5, socket_timeout=5, max_connecting=1)
    proxy.stalled = True
    first = Calls(lambda: client_of(pool).ping())
    wait_for(lambda: proxy.open == 1)
    proxy.stalled = False
    answers: list[object] = []
    late = Calls(lambda: answers.append(client_of(pool).ping()))
    wait_for(lambda: pool.stats().waiting == 1)
    proxy.cut()
    assert isinstance(first.errors()[0], redis.ConnectionError)
    late.join()
    assert answers == [True]
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_an_attempt_for_the_queue_is_one_attempt(proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    """What redis-py would repeat in silence is known after the first try; commands are repeated as they were."""

    class Long:
        def compute(self, failures: int) -> float:
            return 60.0

    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 3)
    pool = pool_on(proxy, timeout=10, socket_timeout=0.2, retry=retry)
    held = pool.get_connection()
    monkeypatch.setattr(admission, "BACKOFF", Long())
    proxy.stalled = True
    tried = proxy.accepted
    waiting = Calls(lambda: client_of(pool).ping())
    wait_for(lambda: pool.stats().connect_errors)
    assert proxy.accepted == tried + 1
    assert permits(pool).troubles[0][0] == "unreachable"
    proxy.stalled = False
    pool.release(held)
    waiting.join()
    monkeypatch.undo()
    pool._core.retry_at = 0.0
    held = pool.get_connection()
    waiting = Calls(lambda: client_of(pool).ping())
    wait_for(lambda: pool.stats().created == 2)
    waiting.join()
    pool.release(held)
    assert [connection.retry.get_retries() for connection in pool._available_connections] == [3, 3]
    nothing_is_missing(pool)


def test_slow_name_resolution_holds_up_its_own_caller_only(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
):
    """A caller behind it waits for no connection of others, so its bound is not ``timeout`` but the time to connect."""
    monkeypatch.setitem(bounds.LONGEST, "connecting", 0.4)
    pool = direct_pool(server, timeout=0.05, max_connecting=1)
    with slow_names() as go:
        first = Calls(lambda: client_of(pool).ping())
        wait_for(lambda: pool.stats().opening == 1)
        watch = Stopwatch()
        with pytest.raises(ConnectionPoolTimeoutError, match="being opened") as caught:
            client_of(pool).ping()
        assert caught.value.reason == "server"
        assert watch.seconds() >= 0.4 and watch.fair() < 2
        go.set()
        first.join()
    assert said() == []
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_while_the_server_is_known_to_be_down_callers_fail_at_once_and_hear_since_when(proxy: Proxy):
    pool = pool_on(proxy)
    warm(pool, 3)
    held = [pool.get_connection() for _ in range(3)]
    pool.max_connections = 3
    waiting = Calls(pool.get_connection)
    wait_for(lambda: pool.stats().waiting == 1)
    permits(pool).outage = Outage(since=time.time() - 5, error="Connection refused")
    watch = Stopwatch()
    with pytest.raises(ServerDownError, match=r"down since .* \(5 s\): Connection refused"):
        pool.get_connection()
    assert watch.fair() < 1
    assert isinstance(waiting.errors()[0], ServerDownError), "those who waited already fail too"
    pool.release(held.pop())
    assert client_of(pool).ping(), "who finds an idle connection tries it"
    permits(pool).outage = None
    while held:
        pool.release(held.pop())
    answers_are_its_own(pool)
    nothing_is_missing(pool)
    pool.disconnect()
