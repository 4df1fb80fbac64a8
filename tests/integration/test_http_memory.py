"""What replies cost a worker of the HTTP service: its threads and ``WORKER_MAX_REPLY`` bound it, whatever is asked."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from poolmgr.pool.metering import ELEMENT, ERROR
from tests.helpers import RedisServer, free_port
from tests.service import Answer, Service

CALLERS = 8
FACTOR = 4
"""What a reply takes at most of its ``WORKER_MAX_REPLY``: as it is read, as it is kept, as text, as JSON."""


@pytest.fixture
def server(redis_server) -> RedisServer:
    started: RedisServer = redis_server(port=free_port())
    return started


@pytest.fixture
def service(make, server, most) -> Service:
    environ = {"REDIS_SOCKET_TIMEOUT": "120", "REDIS_POOL_TIMEOUT": "60", "WORKER_MAX_REPLY": str(most)}
    started: Service = make(redis_url=server.url, workers=1, threads=CALLERS, environ=environ)
    return started.start()


def peak(pid: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def at_once(service: Service, body: Any, *, path: str = "/") -> list[Answer]:
    """The answers to as many callers as there are threads, all together."""
    answers: list[Answer] = []
    start = threading.Barrier(CALLERS)

    def call() -> None:
        start.wait(10)
        headers = {"Authorization": f"Bearer {service.token}"}
        answer = service.request("POST", path, json.dumps(body), headers, timeout=200)
        answers.append(Answer(answer.status, answer.headers, answer.body[:200]))

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(220)
    assert len(answers) == CALLERS
    return answers


SCRIPT = "local t = {} for n = 1, ARGV[1] do t[n] = %s end return t"
SMALL = {
    "short texts": SCRIPT % "'ab'",
    "empty lists": SCRIPT % "{}",
    "lists of one": SCRIPT % "{7}",
    "errors": SCRIPT % "{err='E'}",
}
"""What is short on the wire and long in Python: as many as are allowed."""

GROWS = {
    "letters": ("x", 200),
    "controls": ("\0", 400),
    "characters outside of Unicode's first plane": ("😀", 200),
    "quotes": ('"', 400),
}
"""Characters, some of which take more as text or as JSON than on the wire, and what becomes of them."""

BIG = {
    "two values": ("/pipeline", [["GET", "big"]] * 2),
    "a script's": ("/", ["EVAL", "return string.rep('x', 10000000)", 0]),
    "many elements": ("/", ["LRANGE", "many", 0, -1]),
    "empty lists": ("/", ["EVAL", "local e, t = {}, {} for n = 1, 250000 do t[n] = e end return t", 0]),
    "a transaction's": ("/multi-exec", [["GET", "big"]] * 2),
    "errors in lists": (
        "/",
        [
            "EVAL",
            "local a = {} for n = 1, 1000 do a[n] = {err='E'} end local t = {} for n = 1, 800 do t[n] = a end return t",
            0,
        ],
    ),
}


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("most", [64 << 20])
def test_eight_callers_of_64_MiB_cost_what_is_allowed_and_no_more(service, server, most, capsys):
    (worker,) = service.workers()
    at_once(service, ["BLPOP", "nothing", "0.5"])
    before = peak(worker)
    for what, (character, status) in GROWS.items():
        with server.observer() as client:
            client.set("grows", character * ((most - 100_000) // len(character.encode())))
        for answer in at_once(service, ["GET", "grows"]):
            assert answer.status == status, (what, answer.body)
        assert peak(worker) - before < CALLERS * most * FACTOR, what
    assert service.ask("PING").json == {"result": "PONG"}
    with capsys.disabled():
        print(f"\na reply takes up to {(peak(worker) - before) / CALLERS / most:.2f} times what is allowed")


@pytest.mark.parametrize("most", [8 << 20])
def test_whatever_is_asked_costs_what_is_allowed_and_no_more(service, server, most):
    (worker,) = service.workers()
    with server.observer() as client:
        client.set("big", "x" * (most - 100_000))
        for _ in range(5):
            client.rpush("many", *["ab"] * 50_000)
    at_once(service, ["BLPOP", "nothing", "0.5"])
    before = peak(worker)
    for what, script in SMALL.items():
        at_once(service, ["BLPOP", "nothing", "0.5"])
        counts = {"lists of one": 2 * ELEMENT, "errors": ERROR}.get(what, ELEMENT)
        count = most * 95 // 100 // (counts + 8)
        for answer in at_once(service, ["EVAL", script, 0, count]):
            assert answer.status == 200, (what, answer.body)
        assert peak(worker) - before < CALLERS * most * FACTOR, what
    for what, (path, body) in BIG.items():
        at_once(service, ["BLPOP", "nothing", "0.5"])  # eight are connected: later the server is busy
        for answer in at_once(service, body, path=path):
            assert answer.status == 400, what
            assert b"WORKER_MAX_REPLY" in answer.body
        assert peak(worker) - before < CALLERS * most * FACTOR, what
    assert service.ask("PING").json == {"result": "PONG"}
