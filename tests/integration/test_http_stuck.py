"""A script that does not end: the service says so, on both real servers, and its caller can kill it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.helpers import RedisServer, wait_for
from tests.inside import READER, Inside, inside
from tests.threads import Calls


@pytest.fixture(params=["redis_server", "debian_redis"])
def start(request) -> Any:
    """Starts servers of either kind."""
    return request.getfixturevalue(request.param)


@contextlib.contextmanager
def stuck(server: RedisServer, app: Inside) -> Iterator[None]:
    """A script runs that does not end, and the server answers BUSY. Some connections of the service are warm."""
    with contextlib.ExitStack() as stack:
        for connection in [stack.enter_context(app.pool.connection()) for _ in range(3)]:
            connection.can_read(0)
    for _ in range(3):
        app.ask("PING")
    with server.observer() as client:  # later none can connect
        runner = Calls(lambda: app.ask("EVAL", "while true do end", 0))
        try:
            wait_for(lambda: "BUSY" in app.ask("GET", "k").json.get("error", ""), 10)
            yield
        finally:
            with contextlib.suppress(redis.RedisError):
                client.script_kill()
            runner.join(20)


def test_busy_is_a_503_and_a_script_can_be_killed_while_it_lasts(start, monkeypatch):
    server = start(lua_time_limit=100)
    with inside(server, monkeypatch) as app:
        answer = app.ask("SCRIPT", "KILL")
        assert answer.status_code == 400
        assert "NOTBUSY" in answer.json["error"]
        with stuck(server, app):
            answer = app.ask("GET", "k")
            assert answer.status_code == 503
            assert answer.json["error"].startswith("BUSY")
            assert int(answer.headers["retry-after"]) >= 1
            assert app.post([["SET", "k", "v"]], path="/pipeline").status_code == 503
            assert app.post([["SET", "k", "v"]], path="/multi-exec").status_code == 503
            assert app.ask("SCRIPT", "KILL", token=READER).json["error"].startswith("NOPERM")
            assert "alone" in app.post([["SCRIPT", "KILL"]], path="/multi-exec").json["error"]
            assert app.ask("SCRIPT", "KILL").json == {"result": "OK"}
        assert app.ask("GET", "k").json == {"result": None}


@pytest.mark.parametrize(("threshold", "timeout"), [(300, 1.0), (1000, 0.5)])
def test_a_script_can_be_killed_when_no_connection_is_open_any_more(start, monkeypatch, threshold, timeout):
    """They have all waited for as long as they may, and a new one is not told which server it is."""
    server = start(lua_time_limit=threshold)
    with inside(server, monkeypatch, options={"socket_timeout": timeout}, REDIS_SOCKET_TIMEOUT=str(timeout)) as app:
        app.ask("PING")
        Calls(lambda: app.ask("EVAL", "while true do end", 0), *[lambda: app.ask("GET", "k")] * 4).join()
        app.pool.disconnect()
        wait_for(lambda: "BUSY" in app.ask("GET", "k").json.get("error", ""), 10)
        app.pool.disconnect()
        for words in (["GET", "k"], ["FUNCTION", "FLUSH"]):
            assert app.post([words, ["SCRIPT", "KILL"]], path="/pipeline").status_code == 503
        assert app.ask("GET", "k").status_code == 503
        assert app.ask("SCRIPT", "KILL", token=READER).status_code == 400
        assert app.ask("SCRIPT", "KILL").json == {"result": "OK"}
        wait_for(lambda: app.ask("GET", "k").json == {"result": None}, 5)
        assert "NOTBUSY" in app.ask("SCRIPT", "KILL").json["error"]
