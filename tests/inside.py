"""The worker service without HTTP: its WSGI application in this process, on a pool for one server.

What a request costs here is what the service itself costs, so that ten thousand fit into a test.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from falcon import testing

import poolmgr
from poolmgr import settings
from tests.helpers import RedisServer
from tests.permits import FakeMember
from worker import app as worker_app
from worker.replies import Parser

FULL, READER = "the-token", "the-reader"


class Inside:
    """Callers of the application.

    Args:
        pool: whose connections it uses.
        environ: further variables of the service.
    """

    def __init__(self, pool: Any, **environ: str) -> None:
        self.pool = pool
        values = {"WORKER_TOKEN": FULL, "WORKER_READONLY_TOKEN": READER, **environ}
        self.client = testing.TestClient(worker_app.make(settings.load(values)))

    def post(self, value: object, *, path: str = "/", token: str = FULL, headers: Any = None) -> testing.Result:
        given = {"Authorization": f"Bearer {token}", **(headers or {})}
        return self.client.simulate_post(path, body=json.dumps(value), headers=given)

    def ask(self, *words: object, token: str = FULL) -> testing.Result:
        return self.post(list(words), token=token)

    def get(self, path: str, *, token: str = FULL) -> testing.Result:
        return self.client.simulate_get(path, headers={"Authorization": f"Bearer {token}"})

    def pipeline(self, commands: Sequence[Sequence[object]], *, token: str = FULL) -> list[Any]:
        answer = self.post(commands, path="/pipeline", token=token)
        assert answer.status_code == 200, answer.text
        found: list[Any] = answer.json
        return found


@contextlib.contextmanager
def inside(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, *, url: str = "", options: Any = None, **environ: str
) -> Iterator[Inside]:
    """The application on a pool of its own for this server.

    Args:
        url: how to reach it, with a user of its own perhaps; by default the server's.
        options: further arguments of the pool.
        environ: further variables of the service.
    """
    given = {"socket_timeout": 5.0, "max_reply": 64 << 20, "parser_class": Parser, **(options or {})}
    member = FakeMember(16, prompt=True)
    with monkeypatch.context() as patch:
        pool = poolmgr.ConnectionPool.from_url(url or server.unix_url, protocol=2, member=member, **given)
        patch.setattr(poolmgr, "get_pool", lambda **_: pool)
        try:
            yield Inside(pool, **environ)
        finally:
            pool.close()
