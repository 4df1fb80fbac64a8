"""Tasks under each server and worker class that the README names: the budget, a killed worker, a reload, the end.

The server's ``maxclients`` has room for the budget and one observer, so one connection too many is counted.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fake_member import FakeMember
from tests.helpers import RedisServer, Servers, free_port, kill, status_of, wait_for
from tests.service import Service

BUDGET, OBSERVERS = 6, 1

RAW, STARLETTE, TORNADO, LOOPS = (f"tests.apps.{name}:app" for name in ("asgi", "starlette", "tornado", "loops"))


UVICORN = (
    "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log",
    "--timeout-worker-healthcheck", "60",  # on a busy machine: a worker that is not ready by then ends the reload
)  # fmt: skip
HYPERCORN = ("hypercorn", "--bind", "127.0.0.1:{port}", "--worker-class", "asyncio")


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


def ask(service: Service, count: int, *, reloading: bool = False) -> Counter[str]:
    """Ask so often, eight callers at a time: pids, and whether replies were right.

    Args:
        reloading: a worker that ends may reset connections that it has not accepted yet.
    """

    def one(number: int) -> list[str]:
        try:
            answer = service.get(f"{'/threads' if STARLETTE in service.command and number % 3 else ''}/{number}")
        except (OSError, http.client.HTTPException) as error:
            if not reloading:
                raise AssertionError(service.log[-5000:]) from error
            return []
        assert answer.status == 200, service.log[-5000:]
        return answer.body.decode().split()

    with ThreadPoolExecutor(8) as callers:
        return Counter(word for words in callers.map(one, range(count)) for word in words)


def pids(service: Service, count: int) -> set[int]:
    """The processes that answer, once there are so many."""
    seen: Counter[str] = Counter()

    def all_have_answered() -> bool:
        seen.update(ask(service, 16))
        return len([word for word in seen if word.isdecimal()]) >= count

    try:
        wait_for(all_have_answered, 30, what=f"{count} processes have answered")
    except AssertionError as error:
        service.send(signal.SIGABRT)  # faulthandler writes where its threads are
        with contextlib.suppress(AssertionError):
            wait_for(lambda: "Current thread" in service.log, 5)
        raise AssertionError(f"{error}; {seen}; {service.log[-5000:]}") from None
    assert not seen["crossed"]
    return {int(word) for word in seen if word.isdecimal()}


def is_free_of(service: Service, pid: int) -> bool:
    """Whether this process is charged with nothing, and nothing is in quarantine."""
    if not service.supervisor():
        return True  # it ends when nothing is charged
    asking = FakeMember(service.socket).connect()
    try:
        (found,) = asking.status()["servers"]
    finally:
        asking.close()
    return not found["quarantine"] and all(member["pid"] != pid for member in found["members"] if member["charge"])


ASYNCIO_S_OWN = re.compile(
    r"Exception ignored [^\n]*_SelectorTransport\.__del__[^\n]*\n(?:(?!\w*Error)[^\n]*\n)*?"
    r"[^\n]*self\._server\._detach\(self\)\n(?:(?!\w*Error)[^\n]*\n)*TypeError: 'NoneType' object is not iterable\n"
)
"""A server that is closed before a connection which it has accepted is collected. Connections to Redis are of no
server."""


def serves(
    make: Callable[..., Service],
    server: RedisServer,
    app: str,
    worker_class: str = "",
    command: tuple[str, ...] = (),
    *,
    workers: int = 2,
    replaces: bool = True,
    reloads: bool = True,
) -> Service:
    """A service under its load, with a worker killed, a reload, and an end: what must hold of each. The ended service.

    Args:
        worker_class: gunicorn's.
        command: another server's module, and its arguments.
        replaces: it starts another worker for one that was killed; else it ends then.
        reloads: it starts other workers at SIGHUP.
    """
    port = free_port()
    options: dict[str, Any] = {"worker_class": worker_class}
    if command:
        module, *arguments = (word.format(port=port) for word in command)
        arguments += ["--workers", str(workers)] if workers > 1 else []
        options = {"conf": None, "program": (sys.executable, "-m", module), "arguments": tuple(arguments)}
    environ = {"REDIS_CONNECTION_BUDGET": str(BUDGET), "PYTHONFAULTHANDLER": "1"}
    service = make(app=app, redis_url=server.url, environ=environ, workers=workers, port=port, **options).spawn()
    wait_for(lambda: service.answers("/"), 60, what="the service answers")
    before = pids(service, workers)
    assert len(before) == workers
    assert len(server.clients()) <= BUDGET

    victim = before.pop()
    kill(victim)
    wait_for(lambda: is_free_of(service, victim), 20, what="the permits of a killed worker are back")
    if replaces:
        assert before < pids(service, workers)
    else:
        assert service.process is not None
        status_of(service.process, 30)  # hypercorn's is 0
        service.spawn()
        wait_for(lambda: service.answers("/"), 60, what="the service answers")

    if reloads:
        before = pids(service, workers)
        service.send(signal.SIGHUP)
        wait_for(lambda: before.isdisjoint(map(int, filter(str.isdecimal, ask(service, 16, reloading=True)))), 30)
        pids(service, workers)
    assert server.rejected() == 0
    assert len(server.clients()) <= BUDGET

    service.stop(signal.SIGTERM, 30)
    wait_for(lambda: server.clients() == [], 20, what="the last connection has gone")
    wait_for(lambda: not service.processes(), 20, what="the supervisor has ended, so nothing is charged")
    assert "Traceback" not in ASYNCIO_S_OWN.sub("", service.log)
    if app == STARLETTE:
        assert service.log.count("said goodbye") >= workers * (2 if reloads else 1)
    return service


def said_goodbye(service: Service) -> int:
    """How many of gunicorn's workers did."""
    return sum(1 for event in service.events("member.left") if event["title"] == "gunicorn worker")


def test_the_asgi_worker(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, RAW, "asgi")


def test_the_uvicorn_worker(server: RedisServer, make: Callable[..., Service]):
    """Beside the tasks, threads with the other flavour's pool."""
    assert said_goodbye(serves(make, server, STARLETTE, "uvicorn_worker.UvicornWorker")) >= 3


def test_nothing_depends_on_a_goodbye(server: RedisServer, make: Callable[..., Service]):
    """uvicorn's worker ends by a signal to itself, after which nothing of ours runs."""
    assert said_goodbye(serves(make, server, RAW, "uvicorn_worker.UvicornWorker")) == 0


def test_the_tornado_worker(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, TORNADO, "tornado")


def test_threads_with_a_loop_for_each_request(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, LOOPS, "gthread")


def test_uvicorn(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, STARLETTE, command=UVICORN, workers=1, replaces=False, reloads=False)


def test_uvicorn_with_workers(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, STARLETTE, command=UVICORN)


def test_hypercorn(server: RedisServer, make: Callable[..., Service]):
    serves(make, server, STARLETTE, command=HYPERCORN, replaces=False)
