"""Restarts and generations, each under load and with the exact oracle: the server has room for the budget and
the observer and nothing else, so it counts every connection too many; no request fails; everything comes back.

``POOLMGR_ORACLE_SECONDS=30`` (``make oracle``) stops processes for ten seconds instead of three.
"""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from poolmgr import tags
from tests.fake_member import FakeMember
from tests.helpers import RedisServer, alive, free_port, kill, wait_for
from tests.load import Load
from tests.service import Serve, Service

BUDGET = 12
OBSERVERS = 1
STOPPED = min(10.0, float(os.environ.get("POOLMGR_ORACLE_SECONDS", "8")) / 3)
"""Seconds for which a process is stopped."""


@pytest.fixture
def server(redis_server) -> Iterator[RedisServer]:
    made: RedisServer = redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)
    yield made
    assert made.rejected() == 0, "the server has seen one connection too many"


def status(service: Service) -> dict[str, Any]:
    """What the supervisor says of the only server, as ``poolmgr status`` asks it."""
    asking = FakeMember(service.socket).connect()
    try:
        (found,) = asking.status()["servers"]
    finally:
        asking.close()
    return dict(found)


def held(server: RedisServer) -> dict[int, int]:
    """Connections that the server holds for each process, by the tags in their names."""
    found: dict[int, int] = {}
    for client in server.clients():
        tag = tags.find(client["name"])
        if tag is not None:
            found[tag.pid] = found.get(tag.pid, 0) + 1
    return found


def all_is_returned(service: Service, server: RedisServer) -> None:
    """What the dead held is proven gone and free again; with the service's end nothing is left."""
    wait_for(lambda: status(service)["quarantine"] == 0, 10, what="all quarantine is proven", step=0.1)
    assert status(service)["unproven"] == 0
    for master in service.masters():
        os.kill(master, signal.SIGTERM)
    wait_for(lambda: not service.processes(), 20, what="all processes end")
    assert [name for name in service.files() if name.startswith("s")] == []
    wait_for(lambda: not server.clients(), 5, what="no connection is left")


def stop_for(pid: int, seconds: float) -> tuple[float, float]:
    """SIGSTOP, and SIGCONT later; from when to when."""
    begin = time.monotonic()
    kill(pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)  # this is the fault, not a wait for its effect
    finally:
        kill(pid, signal.SIGCONT)
    return begin, time.monotonic()


def stop_holding(pid: int, server: RedisServer, count: int) -> bool:
    """SIGSTOP; taken back where it holds fewer connections than that just then."""
    kill(pid, signal.SIGSTOP)
    if held(server).get(pid, 0) >= count:
        return True
    kill(pid, signal.SIGCONT)
    return False


def blocked(server: RedisServer) -> int:
    """How many commands wait at the server."""
    return sum(client["cmd"] == "blpop" and "b" in client["flags"] for client in server.clients())


def unblock(server: RedisServer) -> None:
    """Let all of them go on, as if their time had come."""
    with server.observer() as client:
        for found in client.client_list():
            if "b" in found["flags"]:
                client.execute_command("CLIENT", "UNBLOCK", found["id"])


class LongRequest(threading.Thread):
    """A request, begun now, that lasts until :func:`unblock`. The service needs a REDIS_SOCKET_TIMEOUT of 60."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self._answer: dict[str, Any] = {}
        self.start()

    def run(self) -> None:
        try:
            found = self._service.get("/hold?ms=50000", timeout=60)
            self._answer = {"status": found.status, **found.json}
        except (OSError, ValueError, http.client.HTTPException) as problem:
            self._answer = {"status": 0, "error": f"{type(problem).__name__}: {problem}"}

    def answer(self) -> dict[str, Any]:
        """Waits for it."""
        self.join(65)
        return self._answer


# ---- stopped processes ---------------------------------------------------------------------------------


@pytest.mark.timing
def test_requests_go_on_while_the_supervisor_is_stopped(server: RedisServer, serve: Serve) -> None:
    service = serve(server)
    with Load(service, "/hold?ms=80", callers=12) as load:
        wait_for(lambda: len(load.by_worker()) == 3, 10, what="all three answer")
        begin, end = stop_for(service.supervisor(), STOPPED)
        # Recovers: what a killed worker held is somebody's again.
        load.wait_for_answers(100)
        victim = service.workers()[0]
        kills = [time.monotonic()]
        kill(victim)
        wait_for(lambda: not alive(victim))
        kills.append(time.monotonic())
        wait_for(lambda: len(service.workers()) == 3 and set(service.workers()) <= set(held(server)), 10)
        load.wait_for_answers(100)
    assert load.failures(kills) == []
    at = [outcome.end for outcome in load.between(begin, end)]
    gaps = [after - before for before, after in zip([begin, *at], [*at, end], strict=True)]
    assert max(gaps) < STOPPED * 0.75, "nobody was served for that long"
    all_is_returned(service, server)


@pytest.mark.timing
def test_a_worker_that_is_stopped_while_it_holds_permits_keeps_them_and_goes_on(
    server: RedisServer, serve: Serve
) -> None:
    # Who waits inside it waits for longer than it is stopped.
    service = serve(server, environ={"REDIS_POOL_TIMEOUT": "20"})
    victim = service.workers()[0]
    with Load(service, "/hold?ms=80", callers=18, timeout=40) as load:
        wait_for(lambda: stop_holding(victim, server, 2), 10, what="it is stopped while it holds something")
        # Of the others it may have accepted all; those who come now are none of its.
        with Load(service, "/hold?ms=80", callers=6, timeout=40) as newcomers:
            begin, end = stop_for(victim, STOPPED)
        assert held(server).get(victim, 0) >= 1
        load.wait_for_answers(100)
        wait_for(
            lambda: [o for o in load.between(end, time.monotonic()) if o.pid == victim], 10, what="it serves again"
        )
    assert load.failures() == newcomers.failures() == [], [o.error for o in load.failures()]
    served = [*load.between(begin, end), *newcomers.between(begin, end)]
    others = Counter(outcome.pid for outcome in served if outcome.start > begin and outcome.pid != victim)
    assert len(others) == 2 and min(others.values()) > 5, "its siblings have served what came meanwhile"
    all_is_returned(service, server)


# ---- generations -----------------------------------------------------------------------------------------


def test_three_reloads_under_long_requests_have_four_generations_alive(server: RedisServer, serve: Serve) -> None:
    """A sync worker serves one request at a time: two that last fill both workers of a generation. The master takes
    the next signal when the old workers have gone, or after the graceful timeout; a sync worker outlives that.
    The supervisor's own connection counted, the budget is one less than they could use: with six kept, the two
    workers of the last generation have turns at a single permit."""
    with server.observer() as admin:
        admin.config_set("maxclients", 8 + OBSERVERS)
    environ = {
        "REDIS_SOCKET_TIMEOUT": "60", "GUNICORN_CMD_ARGS": "--graceful-timeout 1", "REDIS_CONNECTION_BUDGET": "8",
    }  # fmt: skip
    service = serve(server, workers=2, worker_class="sync", environ=environ)
    requests: list[LongRequest] = []

    def serves(generation: int) -> bool:
        workers = service.workers()
        return len(workers) == 2 * generation and set(workers[-2:]) <= set(load.by_worker())

    with Load(service, "/get", callers=4, timeout=60) as load:
        for generation in (1, 2, 3):
            wait_for(partial(serves, generation), 20, what=f"generation {generation} serves")
            requests += [LongRequest(service), LongRequest(service)]
            wait_for(lambda n=2 * generation: blocked(server) >= n, 10, what="both are at it")  # type: ignore[misc]
            service.send(signal.SIGHUP)
        wait_for(partial(serves, 4), 20, what="generation 4 serves")
        assert len(held(server)) >= 7, "four generations hold connections"
        begin, newest = time.monotonic(), service.workers()[-2:]
        wait_for(
            lambda: all(sum(o.pid == pid for o in load.between(begin, time.monotonic())) >= 20 for pid in newest),
            10,
            what="both of them have had many turns",
        )
        unblock(server)
        assert [request.answer() for request in requests if request.answer()["status"] != 200] == []
        wait_for(lambda: len(service.workers()) == 2, 10, what="the old generations end")
        load.wait_for_answers(50)
    assert load.failures() == []
    all_is_returned(service, server)


def test_an_upgrade_that_is_taken_back_under_load(server: RedisServer, serve: Serve) -> None:
    service = serve(server)
    before = set(service.workers())
    with Load(service, "/hold?ms=80", callers=12) as load:
        wait_for(lambda: len(load.by_worker()) == 3, 10, what="all three answer")
        second = service.upgrade()
        theirs = set(service.workers(second))
        wait_for(lambda: theirs <= set(load.by_worker()), 10, what="the second master's workers serve too")
        os.kill(second, signal.SIGTERM)
        wait_for(lambda: not alive(second), 20, what="the second master ends")
        load.wait_for_answers(100)
        assert set(service.workers()) == before, "the old master's workers were not touched"
    assert load.failures() == []
    assert len(service.events("supervisor.started")) == 1
    all_is_returned(service, server)


def test_a_new_gunicorn_beside_the_orphans_of_a_killed_master_shares_the_budget(
    server: RedisServer, serve: Serve
) -> None:
    first = serve(server, workers=2, environ={"REDIS_SOCKET_TIMEOUT": "60"})
    requests = [LongRequest(first) for _ in range(8)]
    wait_for(lambda: blocked(server) == 8, 10, what="all are at it")
    orphans = [pid for pid in first.workers() if held(server).get(pid)]  # an idle one ends with its master
    first.stop(signal.SIGKILL)
    second = serve(server, workers=2)
    assert all(alive(pid) for pid in orphans)
    assert second.supervisor() == first.supervisor()
    with Load(second, "/hold?ms=80", callers=12) as load:
        load.wait_for_answers(100)
        assert sum(count for pid, count in held(server).items() if pid in orphans) >= 8
        unblock(server)
        assert [request.answer() for request in requests if request.answer()["status"] != 200] == []
        wait_for(lambda: not any(alive(pid) for pid in orphans), 10, what="the orphans end")
        # What they held is the second one's.
        wait_for(lambda: sum(held(server).get(pid, 0) for pid in second.workers()) >= 9, 10)
        load.wait_for_answers(50)
    assert load.failures() == []
    all_is_returned(second, server)
