"""Tasks in gunicorn's own workers for asyncio: the budget, a reload, the end."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.service import Service

BUDGET, OBSERVERS = 6, 1


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


def test_the_asgi_worker(server: RedisServer, make):
    service: Service = make(
        app="tests.apps.asgi:app", worker_class="asgi", workers=2, redis_url=server.url,
        environ={"REDIS_CONNECTION_BUDGET": str(BUDGET)},
    )  # fmt: skip
    service.start(path="/pid")
    seen: Counter[str] = Counter()

    def ask(count: int) -> None:
        for number in range(count):
            answer = service.get(f"/{number}")
            assert answer.status == 200, service.log
            seen.update(answer.body.decode().split())

    ask(40)
    assert seen["ok"] == 40 and seen["crossed"] == 0 and len(seen) >= 2
    before = set(service.workers())
    os.kill(service.pid, signal.SIGHUP)
    wait_for(lambda: len(service.workers()) == 2 and not before & set(service.workers()), 30, what="a reload")
    ask(40)
    assert server.rejected() == 0
    assert len(server.clients()) <= BUDGET
    assert service.stop(signal.SIGTERM, 30) == 0
    wait_for(lambda: server.clients() == [], 20, what="the last connection has gone")
    assert "Traceback" not in service.log
