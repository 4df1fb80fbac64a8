"""A server that reads its data back: every command is answered with LOADING."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from poolmgr.pool import waiting as wait_in_queue
from tests.helpers import RedisServer, wait_for
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing, permits, running_server
from tests.stopwatch import Stopwatch
from tests.threads import Calls

ONCE = Retry(NoBackoff(), 0)
"""redis-py would try again until the server has loaded its data, and hide what this is about."""


@pytest.fixture
def loading() -> Iterator[RedisServer]:
    """It listens, and goes on loading until it is told to be done: :func:`finish`."""
    with running_server() as server:
        with server.observer() as observer:
            observer.config_set("rdbcompression", "no")  # it answers after each kilobyte that it has read
            observer.execute_command("DEBUG", "POPULATE", 1000, "other", 1024)
            observer.set("key:1", "value:1")
            observer.save()
        server.stop()
        server.options |= {"key-load-delay": "20000", "loading-process-events-interval-bytes": "1024"}
        starting = Calls(server.start)
        wait_for(lambda: is_loading(server), what="it listens and is loading")
        yield server
        finish(server)
        starting.join()


def finish(server: RedisServer) -> None:
    """What is left of twenty seconds is loaded at once."""
    with redis.Redis(port=server.port, retry=ONCE) as client:
        client.config_set("key-load-delay", 0)


def is_loading(server: RedisServer) -> bool:
    with redis.Redis(port=server.port, retry=ONCE) as client:
        try:
            client.get("key:1")
        except redis.BusyLoadingError:
            return True
        except redis.ConnectionError:
            pass
    return False


@pytest.mark.usefixtures("flavour")
def test_who_asks_is_told_so_at_once_and_nothing_is_kept_of_it(
    loading: RedisServer, said: Callable[[], list[str]]
) -> None:
    pool = direct_pool(loading, timeout=2, retry=ONCE)
    client = client_of(pool)
    tries = 5
    for number in range(1, tries + 1):
        with pytest.raises(redis.BusyLoadingError):
            client.get("key:1")
        assert pool.stats().closed == {"broken": number}, "as redis-py does: it may not be the server that is meant"
        assert pool._core.size == 0
        nothing_is_missing(pool)
    assert pool.stats().created == tries
    assert pool.stats().connect_errors == 0, "it could be reached"
    assert said() == []


@pytest.mark.usefixtures("flavour")
def test_without_a_client_around_it_the_connection_is_closed_at_once_too(loading: RedisServer) -> None:
    pool = direct_pool(loading)
    connection = pool.get_connection()
    connection.send_command("GET", "key:1")
    with pytest.raises(redis.BusyLoadingError):
        connection.read_response()
    permits(pool).sweep()
    assert not permits(pool).out
    pool.release(connection)
    assert pool.stats().closed == {"broken": 1}


@pytest.mark.usefixtures("flavour")
def test_who_waits_for_a_connection_that_is_closed_instead_is_woken_to_open_one(
    loading: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wait_in_queue, "SLICE", 60.0)  # it does not look again by itself
    pool = direct_pool(loading, timeout=5, max_connections=1, retry=ONCE)
    connection = pool.get_connection()
    waiting = Calls(lambda: client_of(pool).get("key:1"))
    wait_for(lambda: pool.stats().waiting == 1)
    connection.send_command("GET", "key:1")
    with pytest.raises(redis.BusyLoadingError):
        connection.read_response()
    watch = Stopwatch()
    pool.release(connection)
    errors = waiting.errors()
    assert watch.fair() < 2
    assert [type(error) for error in errors] == [redis.BusyLoadingError], "the server's answer, not the pool's"
    assert pool.stats().created == 2


@pytest.mark.usefixtures("flavour")
def test_whoever_waits_meanwhile_is_served_by_the_first_connection_that_is_well(
    loading: RedisServer, said: Callable[[], list[str]]
) -> None:
    pool = direct_pool(loading, timeout=2, max_connections=1, retry=ONCE)
    answers: list[object] = []
    served = threading.Event()

    def ask() -> None:
        while not served.is_set():
            try:
                answers.append(client_of(pool).get("key:1"))
                return
            except redis.BusyLoadingError:
                pass

    threads = Calls(ask, times=4)
    finish(loading)
    threads.join()
    served.set()
    assert answers == [b"value:1"] * 4
    assert set(pool.stats().closed) == {"broken"}
    assert pool.stats().idle == 1
    answers_are_its_own(pool)
    assert said() == []
    nothing_is_missing(pool)
