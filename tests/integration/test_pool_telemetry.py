"""What redis-py's recorder for OpenTelemetry hears of a pool, in every flavour (fact 14 of test_pool_facts)."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis.asyncio
from redis.asyncio.observability import recorder as recorder_for_tasks
from redis.observability import recorder

import poolmgr.asyncio
from poolmgr.exceptions import ConnectionPoolTimeoutError
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember
from tests.pools import client_of, direct_pool
from tests.threads import Calls
from tests.walker import LOOPS, run


class Collector:
    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.created = self.waits = self.timeouts = 0
        self.closed: list[str] = []

    def seen(self) -> dict[str, Any]:
        return {
            "idle": self.states["idle"], "used": self.states["used"], "created": self.created, "waits": self.waits,
            "timeouts": self.timeouts, "closed": list(self.closed),
        }  # fmt: skip

    def record_connection_count(self, pool_name: str, connection_state: Any, counter: int) -> None:
        self.states[connection_state.value] += counter

    def record_connection_create_time(self, **kwargs: Any) -> None:
        self.created += 1

    def record_connection_wait_time(self, **kwargs: Any) -> None:
        self.waits += 1

    def record_connection_timeout(self, **kwargs: Any) -> None:
        self.timeouts += 1

    def record_connection_closed(self, close_reason: Any, **kwargs: Any) -> None:
        self.closed.append(close_reason.value)

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


RECORDERS = {"threads": (recorder, "_metrics_collector")} | dict.fromkeys(
    LOOPS, (recorder_for_tasks, "_async_metrics_collector")
)


@pytest.fixture(params=RECORDERS)
def telemetry(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Collector]:
    """A flavour, and what redis-py's recorder for it has heard. As with redis-py's own, there is a collector once the
    first figure was recorded."""
    module, name = RECORDERS[request.param]
    collector = Collector()

    def first_use() -> Collector:
        setattr(module, name, collector)
        return collector

    monkeypatch.setattr(module, name, None)
    monkeypatch.setattr(module, "_get_or_create_collector", first_use)
    return request.param, collector


async def with_tasks(server: RedisServer, seen: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    member = FakeMember(prompt=True)
    pool = poolmgr.asyncio.ConnectionPool(
        host="127.0.0.1", port=server.port, max_connections=1, member=member, timeout=0.5
    )
    found = []
    connection = await pool.get_connection()
    found.append(seen())
    waiting = asyncio.ensure_future(redis.asyncio.Redis(connection_pool=pool).ping())
    while pool.stats().waiting != 1:
        await asyncio.sleep(0.001)
    await pool.release(connection)
    await waiting
    found.append(seen())
    async with pool.connection():
        with pytest.raises(ConnectionPoolTimeoutError):
            await pool.get_connection()
    found.append(seen())
    await pool.disconnect()
    found.append(seen())
    return found


def with_threads(server: RedisServer, seen: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    pool = direct_pool(server, max_connections=1, timeout=0.5)
    found = []
    connection = pool.get_connection()
    found.append(seen())
    waiting = Calls(lambda: client_of(pool).ping())
    wait_for(lambda: pool.stats().waiting == 1)
    pool.release(connection)
    waiting.join()
    found.append(seen())
    with pool.connection(), pytest.raises(ConnectionPoolTimeoutError):
        pool.get_connection()
    found.append(seen())
    pool.disconnect()
    found.append(seen())
    return found


def test_fact_14_opentelemetry_sees_the_pool(server: RedisServer, telemetry: tuple[str, Collector]):
    flavour, collector = telemetry
    if flavour == "threads":
        found = with_threads(server, collector.seen)
    else:
        found = run(flavour, with_tasks(server, collector.seen))
    assert found == [
        {"idle": 0, "used": 1, "created": 1, "waits": 0, "timeouts": 0, "closed": []},
        {"idle": 1, "used": 0, "created": 1, "waits": 1, "timeouts": 0, "closed": []},
        {"idle": 1, "used": 0, "created": 1, "waits": 2, "timeouts": 1, "closed": []},
        {"idle": 0, "used": 0, "created": 1, "waits": 2, "timeouts": 1, "closed": ["application_close"]},
    ]
