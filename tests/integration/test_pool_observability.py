"""What the pool tells of itself: leaks, figures, hooks, its repr."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.native import monotonic
from poolmgr.pool import housekeeping
from poolmgr.pool.stats import REASONS, Hooks, Stats
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.wire import WAIT_BOUNDS
from tests.helpers import RedisServer, have_lines_written
from tests.permits import FakeMember
from tests.pools import client_of, direct_pool, give, nothing_is_missing, take


def test_leak_after(server: RedisServer, caplog: pytest.LogCaptureFixture):
    pool = direct_pool(server, leak_after=0.05, name="cache")

    def forgetful() -> Any:
        return pool.get_connection()

    leaked = forgetful()
    time.sleep(0.06)
    with caplog.at_level(logging.WARNING, "poolmgr.pool"):
        pool.tick(0)
        pool.tick(0)
        have_lines_written()
    (record,) = [r for r in caplog.records if r.getMessage() == "pool.leak"]
    assert record.pool == "cache"  # type: ignore[attr-defined]
    assert "forgetful" in record.stack  # type: ignore[attr-defined]
    assert record.holder == "MainThread"  # type: ignore[attr-defined]
    assert pool.stats().leaks == 1
    pool.timeout = 0.01
    pool.max_connections = 1
    with pytest.raises(ConnectionPoolTimeoutError, match=r"Longest checkout: .* s in MainThread"):
        pool.get_connection()
    pool.release(leaked)
    nothing_is_missing(pool)


class ReleasedMeanwhile(deque[float]):
    """A loan that another thread's release ends just after it was seen."""

    def __bool__(self) -> bool:
        found = len(self) > 0
        self.clear()
        return found


@pytest.mark.parametrize("look", [housekeeping.quiet, lambda pool: housekeeping.find_leaks(pool, monotonic())])
def test_a_release_while_the_member_looks_at_the_loans(server: RedisServer, look: Callable[[Any], object]):
    pool = direct_pool(server, leak_after=0.001)
    (held,) = take(pool, 1)
    held._loan = ReleasedMeanwhile(held._loan)
    look(pool)
    held._loan = deque([0.0])
    pool.release(held)
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
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


@pytest.mark.usefixtures("flavour")
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
    have_lines_written()
    assert "pool.hook_failed" in caplog.text


@pytest.mark.usefixtures("flavour")
def test_the_repr_answers_what_state_it_is_in(server: RedisServer):
    pool = direct_pool(server, name="cache", max_connections=3, password=None)
    held = take(pool, 2)
    pool.release(held.pop())
    assert "cache ready: 1 in use, 1 idle, 0 opening of 3, 0 waiting]" in repr(pool)
    assert repr(pool) in repr(client_of(pool))
    secret = ConnectionPool(password="hunter2", member=FakeMember())
    assert "hunter2" not in repr(secret)
    give(pool, held)
