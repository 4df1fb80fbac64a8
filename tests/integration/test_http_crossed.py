"""No caller of the HTTP service gets another's answer, whatever callers and the server do to its connections.

Callers that cut their request or its answer at every byte, commands that block meanwhile, CLIENT KILL, and a server
that pushes what nobody has asked for, other callers' commands among it. Each answer is checked.
``POOLMGR_CROSSED=100000`` (``make crossed``) for as many; the slice here is for every day.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import random
import socket
import threading
from collections import Counter
from typing import Any

import pytest
import redis

from tests.helpers import free_port
from tests.pushing import PushingServer
from tests.service import Service
from tests.threads import meanwhile

ANSWERS = int(os.environ.get("POOLMGR_CROSSED", "4000"))
CALLERS, CUTTERS, KEYS = 6, 2, 200
TOKEN = "the-token"


class Hunt:
    """Callers of one service, what they were answered, and what was wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.checked = 0
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []
        self.over = threading.Event()
        self._numbers = itertools.count()

    def request(self, seed: random.Random) -> tuple[str, Any, Any]:
        """Path, body, and the only right answer."""
        numbers = [next(self._numbers) for _ in range(seed.randrange(1, 12))]
        commands = []
        for number in numbers:
            commands.append(["GET", f"k{number % KEYS}"] if number % 2 else ["ECHO", f"e{number}"])
        results = [{"result": f"v{number % KEYS}" if number % 2 else f"e{number}"} for number in numbers]
        if len(commands) == 1:
            return "/", commands[0], results[0]
        return seed.choice(["/pipeline", "/multi-exec"]), commands, results

    def call(self, seed: random.Random) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        while not self.over.is_set():
            path, body, expected = self.request(seed)
            try:
                connection.request("POST", path, json.dumps(body), headers)
                answer = connection.getresponse()
                found = json.loads(answer.read())
            except (OSError, http.client.HTTPException):
                connection.close()
                continue
            self.statuses[answer.status] += 1
            if answer.status == 200:
                self.checked += len(expected) if isinstance(expected, list) else 1
                if found != expected:
                    self.wrong.append(f"{body} was answered {found}")
            elif answer.status != 503:
                self.wrong.append(f"{body} was answered {answer.status} {found}")
        connection.close()

    def cut(self, seed: random.Random) -> None:
        """The first half of a request, or all of it and the first half of its answer: at every byte in turn."""
        at = 0
        while not self.over.is_set():
            path, body, _ = self.request(seed)
            if not at % 5:
                path, body = "/", ["BLPOP", "nothing", 1]
            content = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
            at += 1
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as caller:
                cut = at % (2 * len(request))
                caller.sendall(request[:cut])
                if cut > len(request):
                    caller.settimeout(0.05)
                    caller.recv(1 + cut % 40)

    def kill(self, port: int, seed: random.Random) -> None:
        with redis.Redis(port=port, client_name="observer") as client:
            while not self.over.wait(0.05):
                rows = [
                    row for row in client.client_list() if row["name"] != "observer" and row["cmd"] != "client|list"
                ]
                if rows:
                    client.client_kill_filter(_id=seed.choice(rows)["id"])


@pytest.mark.slow
@pytest.mark.timeout(120 + ANSWERS // 50)
def test_no_answer_is_anothers(isolated, redis_server):
    server = redis_server(port=free_port())
    with server.observer() as client:
        client.mset({f"k{number}": f"v{number}" for number in range(KEYS)})
    pushing = PushingServer(server.port, often=40, marked=b"\r\nget\r\n")
    environ = {"WORKER_TOKEN": TOKEN, "REDIS_CONNECTION_BUDGET": "32", "POOLMGR_LOG_LEVEL": "error"}
    options = {"environ": environ, "workers": 2, "arguments": ("--access-logfile", "/dev/null")}
    service = Service(isolated.parent, redis_url=f"redis://127.0.0.1:{pushing.port}", **options).start()  # type: ignore[arg-type]
    hunt = Hunt(service.port)
    work = [hunt.call] * CALLERS + [hunt.cut] * CUTTERS + [functools.partial(hunt.kill, server.port)]
    calls = [functools.partial(what, random.Random(number)) for number, what in enumerate(work)]
    try:
        with meanwhile(*calls, ended=hunt.over) as hunting:
            while hunt.checked < ANSWERS and not hunt.wrong:
                hunt.over.wait(0.05)
                assert hunting.running
    finally:
        service.clean_up()
        pushing.close()
    assert hunt.wrong == []
    assert pushing.pushed > ANSWERS / 400, "there was something to be caught"
    assert pushing.monitors > 2
    print(
        f"{hunt.checked} answers checked; {dict(hunt.statuses)}; {pushing.pushed} pushes, {pushing.monitors} MONITORs"
    )
