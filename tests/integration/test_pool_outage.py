"""An outage, as 64 workers of a host live through it: real members, the real supervisor, a real server."""

from __future__ import annotations

import functools
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from poolmgr import wire
from poolmgr.exceptions import ServerDownError
from poolmgr.member.core.dispatcher import Attachment, Dispatcher
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, free_port, wait_for
from tests.pools import Processes, client_of
from tests.proxy import Proxy
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start, SupervisorProcess
from tests.threads import Calls

pytestmark = pytest.mark.usefixtures("flavour")

WORKERS = 64


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> Iterator[RedisServer]:
    budget = WORKERS + 8
    server = redis_server(port=free_port(), maxclients=budget + 1)
    yield server
    assert server.rejected() == 0


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    return supervisor(WORKERS + 8)


@pytest.fixture
def pools(running: SupervisorProcess, proxy: Proxy, process: Processes) -> list[ConnectionPool]:
    """One for each of so many workers, each with a connection."""
    pools = [process().pool(proxy.port, socket_timeout=5, timeout=10) for _ in range(WORKERS)]
    assert all(client_of(pool).ping() for pool in pools)
    return pools


def down(pool: ConnectionPool) -> bool:
    permits = pool._origin.attach()
    return permits is not None and permits.outage is not None


def dispatcher_of(pool: ConnectionPool) -> Dispatcher:
    permits = pool._origin.attach()
    assert isinstance(permits, Attachment)
    return permits.dispatcher


def test_one_worker_finds_the_server_down_and_all_know_and_they_come_back_one_by_one(
    pools: list[ConnectionPool],
    proxy: Proxy,
    running: SupervisorProcess,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    caplog.set_level(logging.INFO, "poolmgr")
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        client_of(pools[0]).ping()
    wait_for(lambda: all(down(pool) for pool in pools), what="everybody knows, though one has tried")
    tried = proxy.accepted
    watch = Stopwatch()
    errors = set()
    for pool in pools:
        with pytest.raises(
            ServerDownError, match=r"^(tcp|unix)://\S+ has been down since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
        ) as caught:
            client_of(pool).ping()
        errors.add(str(caught.value).partition(" (")[0])
    assert watch.fair() < 4, "nobody waits, and nobody tries"
    assert len(errors) == 1, "since when is the same for all"
    assert proxy.accepted == tried
    errors_before = sum(pool.stats().connect_errors for pool in pools)
    assert errors_before <= 1 + 10 * (watch.seconds() + 1), "one process at a time tries"
    # Everybody wants to come back as soon as it may.
    ready = threading.Barrier(WORKERS + 1)
    ends: dict[Dispatcher, tuple[float, float]] = {}  # when it was told, and until when it is to wait

    def told(dispatcher: Dispatcher, health: wire.Health, now: float) -> None:
        of_dispatcher(dispatcher, health, now)
        if health.up:
            ends[dispatcher] = now, dispatcher.health.lift_at

    of_dispatcher = Dispatcher.hears
    monkeypatch.setattr(Dispatcher, "hears", told)

    def come_back(pool: ConnectionPool) -> None:
        dispatcher = dispatcher_of(pool)
        ready.wait()
        while True:
            try:
                client_of(pool).ping()
            except redis.RedisError:
                time.sleep(random.uniform(0.005, 0.03))  # if all asked all the time, they would measure themselves
            else:
                back[dispatcher] = time.monotonic()
                return

    back: dict[Dispatcher, float] = {}
    returning = Calls(*(functools.partial(come_back, pool) for pool in pools))
    ready.wait()
    proxy.restore()
    returning.join()
    assert len(ends) == len(back) == WORKERS
    assert all(back[dispatcher] >= until for dispatcher, (_, until) in ends.items())
    pauses = sorted(until - at for at, until in ends.values())
    half = pauses[WORKERS * 3 // 4] - pauses[WORKERS // 4]
    assert half > 0.06, f"half of them within {half * 1e3:.0f} ms"  # an eighth of a second, as pauses are drawn
    for event in ("outage.began", "outage.ended"):
        assert len(running.events(event)) == 1
        wait_for(lambda event=event: [r.getMessage() for r in caplog.records].count(event) == WORKERS, what=event)  # type: ignore[misc]
