"""What a request has waited for connections is its own: not its thread's next request's, nor another thread's."""

from __future__ import annotations

import asyncio

import pytest
import redis

import poolmgr
from poolmgr.pool import request_wait
from tests.permits import FakeMember
from tests.threads import Calls


def test_taking_begins_anew():
    request_wait.take()
    request_wait.add(0.25)
    request_wait.add(0.5)
    assert request_wait.take() == 0.75
    assert request_wait.take() == 0.0


def test_each_thread_has_its_own():
    request_wait.take()
    request_wait.add(1.0)
    seen: list[float] = []
    Calls(lambda: seen.append(request_wait.take())).join()
    assert seen == [0.0]
    assert request_wait.take() == 1.0


def test_each_task_has_its_own():
    async def request(seconds: float) -> float:
        request_wait.add(seconds)
        await asyncio.sleep(0)
        return request_wait.take()

    async def both() -> list[float]:
        return list(await asyncio.gather(request(1.0), request(2.0)))

    assert asyncio.run(both()) == [1.0, 2.0]


def test_a_pool_counts_the_wait_of_who_got_none(redis_server):
    server = redis_server(maxclients=20)
    pool = poolmgr.ConnectionPool.from_url(server.unix_url, max_connections=1, timeout=10, member=FakeMember())
    first = pool.get_connection()
    pool.timeout = 0.2
    request_wait.take()
    with pytest.raises(redis.exceptions.TimeoutError):
        pool.get_connection()
    assert 0.2 <= request_wait.take() < 2
    pool.release(first)
    pool.release(pool.get_connection())
    assert request_wait.take() == 0.0
    pool.close()
