"""While a name is being resolved, which can take as long as it likes, everybody else goes on."""

from __future__ import annotations

import pytest

from poolmgr.member.core import bounds
from tests.helpers import RedisServer, wait_for
from tests.pools import client_of, direct_pool, nothing_is_missing, slow_names, warm
from tests.stopwatch import Stopwatch
from tests.threads import Calls

pytestmark = pytest.mark.usefixtures("flavour")

SLOW = 5.0


def test_who_waits_is_served_by_a_release(server: RedisServer) -> None:
    pool = direct_pool(server, host="localhost", timeout=SLOW)
    warm(pool, 2)
    held = [pool.get_connection() for _ in range(2)]
    with slow_names():
        watch = Stopwatch()
        waiting = Calls(lambda: client_of(pool).ping())
        wait_for(lambda: pool.stats().opening == 1, what="a connection is being opened for it")
        pool.release(held.pop())
        waiting.join(SLOW)
        assert watch.fair() < 1
        assert pool.stats().opening == 1, "the name is still being resolved"
        for _ in range(10):
            assert client_of(pool).ping(), "the warm path knows nothing of it"
        assert watch.fair() < 1
    pool.release(held.pop())
    nothing_is_missing(pool)


def test_a_caller_that_gives_up_leaves_the_resolution_behind(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(bounds.LONGEST, bounds.CONNECTING, 0.2)
    pool = direct_pool(server, host="localhost", timeout=0.2)
    warm(pool, 1)
    held = pool.get_connection()
    with slow_names() as go:
        for _ in range(3):
            watch = Stopwatch()
            with pytest.raises(Exception, match="being opened"):
                client_of(pool).ping()
            assert watch.fair() < 1
        assert pool.stats().opening == 1, "the next one waits for the same"
        pool.release(held)
        assert client_of(pool).ping()
        go.set()
        wait_for(lambda: pool.stats().opening == 0, what="they arrive")
    nothing_is_missing(pool)
