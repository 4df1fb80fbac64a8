"""The promise with tasks and threads together: the server's ``maxclients`` has room for the budget and one observer.

Two gthread workers, two asgi workers, uvicorn's worker (on uvloop) and a script share the budget. A fifth of the
commands of tasks is cancelled, each second a worker or the script is killed, and two services reload. It measures no
time, so it runs beside others: a busy machine has fewer answers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fake_member import FakeMember
from tests.helpers import ROOT, RedisServer, Servers, free_port, kill, wait_for
from tests.service import Service

BUDGET = 10
OBSERVERS = 1
SECONDS = float(os.environ.get("POOLMGR_ORACLE_SECONDS", "8"))
CALLERS = 3
"""Of each service."""

SERVICES = [
    ("gthread", "tests.apps.storm:threads", 2), ("asgi", "tests.apps.storm:app", 2),
    ("uvicorn_worker.UvicornWorker", "tests.apps.storm:app", 1),
]  # fmt: skip

Make = Callable[..., Service]


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


class House:
    """The services and the script, under load."""

    def __init__(self, make: Make, server: RedisServer, **environ: str) -> None:
        self.server = server
        self.seen: Counter[str] = Counter()
        self.random = random.Random(7)
        self.over = threading.Event()
        wanted = {"REDIS_CONNECTION_BUDGET": str(BUDGET), "REDIS_POOL_TIMEOUT": "30", **environ}
        self.environ = {**os.environ, "REDIS_URL": server.url, **wanted}
        self.services = [
            make(app=app, worker_class=kind, workers=workers, redis_url=server.url, environ=wanted)
            for kind, app, workers in SERVICES
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        for service in self.services:
            service.spawn()
        self.script = self._script()
        try:
            for service in self.services:
                wait_for(lambda service=service: service.answers("/left"), 60, what="a service answers")  # type: ignore[misc]
            callers = [threading.Thread(target=self._call, args=(service,)) for service in self.services * CALLERS]
            for caller in callers:
                caller.start()
            try:
                yield
            finally:
                self.over.set()
                for caller in callers:
                    caller.join()
        finally:
            self.script.kill()
            self.script.communicate()

    def _script(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.aio_programs", "storm_of_tasks", "asyncio"],
            env=self.environ, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def _call(self, service: Service) -> None:
        while not self.over.is_set():
            try:
                answer = service.get("/", timeout=60)
            except (OSError, http.client.HTTPException):  # its worker was killed, or ends
                self.seen["cut"] += 1
                time.sleep(0.01)
                continue
            self.seen.update(answer.json if answer.status == 200 else {f"status {answer.status}": 1})

    def kill_one(self) -> None:
        workers = [pid for service in self.services for pid in service.workers()]
        victim = self.random.choice([*workers, 0])
        if victim:
            kill(victim)
            return
        self.script.kill()
        self.script.communicate()
        self.script = self._script()

    def reload_one(self) -> None:
        self.random.choice(self.services).send(signal.SIGHUP)

    def storm(self, seconds: float) -> None:
        began = time.monotonic()
        reloads = [began + seconds * part for part in (0.33, 0.67)]
        while time.monotonic() < began + seconds:
            time.sleep(1)
            self.kill_one()
            if reloads and time.monotonic() >= reloads[0]:
                reloads.pop(0)
                self.reload_one()
        assert not reloads

    def stop_script(self) -> None:
        """It says what it has seen."""
        wait_for(lambda: any(member["pid"] == self.script.pid for member in self.members()), 30, what="it has begun")
        self.script.send_signal(signal.SIGTERM)
        out, err = self.script.communicate(timeout=90)
        assert self.script.returncode == 0, err
        self.seen.update(json.loads(out))

    def members(self) -> list[dict[str, int]]:
        """As the supervisor knows them."""
        asking = FakeMember(self.services[0].socket).connect()
        try:
            (found,) = asking.status()["servers"]
        finally:
            asking.close()
        return list(found["members"])


def test_no_storm_makes_the_server_see_one_connection_too_many(server: RedisServer, make: Make):
    house = House(make, server)
    with house.running():
        house.storm(SECONDS)
        house.stop_script()
    seen = house.seen
    assert server.rejected() == 0
    assert len(server.clients()) <= BUDGET
    # Nothing is left lent, in no process.
    wait_for(lambda: not any(one["in_use"] or one["waiting"] for one in house.members()), 20, what="all is given back")
    for service in house.services:
        assert service.get("/left").json["left"] == 0
    cut, answered, cancelled = (seen.pop(name, 0) for name in ("cut", "answered", "cancelled"))
    assert answered > 200 and cancelled > 20 and cut, (answered, cancelled, cut)
    assert +seen == Counter(), seen  # crossed and left are 0, and no command has failed
    for service in house.services:
        service.stop(signal.SIGTERM, 60)
        assert "Traceback" not in service.log
    wait_for(lambda: server.clients() == [], 20, what="the last connection has gone")
    assert server.rejected() == 0


def test_the_oracle_finds_sockets_that_outlive_their_permits(server: RedisServer, make: Make, short_dir: Path):
    """The check that it can fail."""
    broken = short_dir / "broken"
    house = House(make, server, STORM_BREAKS_AT=str(broken))
    with house.running(), server.observer() as observer:
        broken.touch()
        wait_for(lambda: observer.info("stats")["rejected_connections"], 20, what="the server refuses a connection")
        for service in house.services:
            service.clean_up()  # no request need be answered
