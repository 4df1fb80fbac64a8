"""No password and no token in a log, a status, the metrics, a process's command line or title, or a file: through the
whole life of a service, its errors included."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests import warm
from tests.helpers import ROOT, RedisServer, free_port, kill, wait_for
from tests.load import Load
from tests.service import Service

PASSWORD = "correct;horse#battery%41@:x"
TOKEN = 'staple";#token%3B0815'
WRITTEN = quote(PASSWORD, safe="")
"""The password as a URL has it."""

SECRETS = (PASSWORD, WRITTEN, "battery", TOKEN, quote(TOKEN, safe=""), "staple", "wrong-horse")


class Seen:
    """Everything that anybody can look at, with where it was seen."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    def add(self, where: str, text: str) -> None:
        assert text, f"{where}: there is nothing to look at"
        self.texts[where] = text

    def leaks(self) -> list[str]:
        return [f"{where}: {secret}" for where, text in self.texts.items() for secret in SECRETS if secret in text]


def command(service: Service, *words: str) -> str:
    command = [sys.executable, "-m", "poolmgr.cli", *words]
    done = warm.run(command, env=service.environ, cwd=ROOT, timeout=60, check=False)
    return done.stdout + done.stderr


def look(service: Service, server: RedisServer, seen: Seen, metrics: int, when: str) -> None:
    for words in (("status",), ("status", "--json"), ("limits", "--json"), ("config",)):
        seen.add(f"{when}: poolmgr {' '.join(words)}", command(service, *words))
    for path in ("/healthz", "/readyz", "/"):
        seen.add(f"{when}: {path}", service.get(path).body.decode())
    for pid, title in service.processes().items():
        seen.add(f"{when}: command line of {pid}", title)
        seen.add(f"{when}: name of {pid}", Path(f"/proc/{pid}/comm").read_text())
    for name in service.files():
        if name != "token" and not name.startswith("redis") and (service.directory / name).is_file():
            seen.add(f"{when}: file {name}", repr((service.directory / name).read_bytes()) + " ")


@pytest.fixture
def server(redis_server) -> RedisServer:
    made: RedisServer = redis_server(port=free_port(), requirepass=PASSWORD, maxclients=14)
    return made


@pytest.fixture
def service(make: Callable[..., Service], server: RedisServer, metrics: int) -> Service:
    return make(
        workers=2, redis_url=f"redis://:{WRITTEN}@127.0.0.1:{server.port}/0",
        environ={
            "WORKER_TOKEN": TOKEN, "REDIS_CONNECTION_BUDGET": "12", "POOLMGR_LOG_LEVEL": "debug",
            "POOLMGR_METRICS": f"127.0.0.1:{metrics}", "REDIS_POOL_TIMEOUT": "0.5",
        },
    )  # fmt: skip


@pytest.fixture
def metrics() -> int:
    return free_port()


def ask(service: Service, *words: object, path: str = "/") -> Any:
    return service.ask(*words, path=path)


def test_nothing_tells_a_secret(service: Service, server: RedisServer, metrics: int) -> None:
    seen = Seen()
    service.start()
    assert ask(service, "SET", "k", "v").status == 200
    with Load(service, "/readyz", callers=4) as load:
        load.wait_for_answers(50)
    look(service, server, seen, metrics, "at work")
    # With a wrong token, and with the right one where it is logged.
    seen.add("wrong token", service.request("POST", "/", "[]", {"Authorization": "Bearer wrong-horse"}).body.decode())
    written = quote(TOKEN, safe="")
    assert service.get(f"/get/k?_token={written}").status == 200
    for path in (
        f"/get/{written}",
        f"/get/k?EX=1&_token={TOKEN}",
        f"/get/k/_token={TOKEN}",
        f"/?_token=x&_token={written}",
    ):
        assert service.get(path).status in (400, 401, 405)
    # A killed worker, a killed supervisor, a reload.
    kill(service.workers()[0])
    former = service.supervisor()
    kill(former)
    wait_for(lambda: ask(service, "SET", "k", "v").status == 200 and service.supervisor() not in (0, former), 15)
    service.send(signal.SIGHUP)
    wait_for(lambda: len(service.workers()) == 2 and ask(service, "PING").status == 200, 15)
    # Another password on the server; the server gone; and back.
    with server.observer() as admin:
        admin.config_set("requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    answer = wait_for(lambda: (found := ask(service, "PING")).status != 200 and found, 10)
    seen.add("another password", answer.body.decode())
    look(service, server, seen, metrics, "another password")
    server.stop()
    answer = wait_for(lambda: (found := ask(service, "PING")).status == 503 and found, 10)
    seen.add("outage", answer.body.decode())
    look(service, server, seen, metrics, "outage")
    # A snapshot that is none.
    former = service.supervisor()
    kill(former, signal.SIGSTOP)
    os.truncate(service.socket + ".snapshot", 20)
    kill(former)
    server.start()
    wait_for(lambda: ask(service, "PING").status == 200, 20)
    look(service, server, seen, metrics, "back")
    service.stop(signal.SIGTERM)
    seen.add("log", service.log)
    assert [event for event in service.events() if event["level"] == "debug"], "it was as talkative as can be"
    assert seen.leaks() == []


def test_a_wrong_password_at_the_start_is_not_told(service: Service) -> None:
    service.environ["REDIS_URL"] = service.environ["REDIS_URL"].replace(WRITTEN, "wrong-horse")
    status, log = service.run()
    assert status != 0
    seen = Seen()
    seen.add("log", log)
    seen.add("poolmgr config", command(service, "config"))
    assert seen.leaks() == []


def test_the_snapshot_is_looked_at_for_what_it_could_hold(service: Service, server: RedisServer) -> None:
    """That the test above would find it there."""
    service.start()
    ask(service, "PING")
    wait_for(lambda: f"127.0.0.1:{server.port}".encode() in Path(service.socket + ".snapshot").read_bytes())
    assert TOKEN.encode() in Path(f"/proc/{service.pid}/environ").read_bytes(), "there is something to hide"
