"""A caller's own error text is not taken for what the server says of itself, and costs no connection."""

from __future__ import annotations

import socket

import pytest

from tests.helpers import RedisServer, wait_for
from tests.inside import inside

TEXTS = [
    *("LOADING mine", "NOAUTH mine", "WRONGPASS mine", "BUSY mine", "CLUSTERDOWN mine", "NOPERM mine", "NOSCRIPT mine"),
    *("EXECABORT mine", "OOM mine", "TRYAGAIN mine", "CROSSSLOT mine", "MISCONF mine", "ERR no such fieldset"),
    *("ERR max number of clients reached", "ERR invalid password", "ERR Client sent AUTH, but no password is set"),
    *("ERR problem with LDAP service", "ERR unknown command 'echo', with args beginning with: ", "MOVED 1 there:1"),
    *("ASK 1 there:1", "MOVED mine", "ASK mine", "MOVED", "MOVED x y:z", "ERR", "mine", "\x1b[31mmine", "ERR \u00e4"),
]  # fmt: skip

ALONE = "return redis.error_reply(ARGV[1])"
INSIDE = "return {redis.error_reply(ARGV[1]), 7}"


@pytest.fixture(params=["valkey", "redis"])
def app(request, monkeypatch):
    start = redis_start(request)
    with inside(start(), monkeypatch) as found:
        found.ask("PING")
        yield found


def redis_start(request):
    return request.getfixturevalue("redis_server" if request.param == "valkey" else "debian_redis")


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_that_a_script_makes_up_is_its_result(app, text, caplog):
    mine = app.ask("EVAL", ALONE, 0, text).json["error"]
    assert mine.removeprefix("ERR ") == text.removeprefix("ERR ")  # what is no code gets one from the server
    made = app.pool.stats().created
    caplog.clear()
    for times in range(3):
        answer = app.ask("EVAL", ALONE, 0, text)
        assert (answer.status_code, answer.json) == (400, {"error": mine})
        assert app.ask("EVAL", INSIDE, 0, text).json == {"result": [mine, 7]}
        script = ["EVAL", ALONE, 0, text]
        assert app.pipeline([["SET", "k", times], script, ["GET", "k"]]) == [
            {"result": "OK"}, {"error": mine}, {"result": str(times)},
        ]  # fmt: skip
        for first, second in ((script, ["INCR", "n"]), (["INCR", "n"], script)):
            answer = app.post([first, second], path="/multi-exec")
            assert answer.status_code == 200, answer.text
            assert sorted(item.get("error", "") for item in answer.json) == ["", mine]
    assert app.ask("GET", "n").json == {"result": "6"}
    assert app.pool.stats().created == made, "its connection is kept"
    assert not [record.message for record in caplog.records if record.name == "poolmgr.worker"]


@pytest.mark.parametrize("data", ["\udcff mine", "a\r\nb", "\0", "", "x" * 5000])
def test_an_error_of_any_bytes_is_an_error(app, data):
    answer = app.client.simulate_post(
        "/EVAL/" + "return%20redis.error_reply(ARGV%5B1%5D)/0",
        body=data.encode("utf-8", "surrogateescape"),
        headers={"Authorization": "Bearer the-token"},
    )
    assert answer.status_code == 400, answer.text
    assert set(answer.json) == {"error"}


def listens(server: RedisServer) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(server.path)) == 0


def test_what_the_server_says_of_itself_is_a_503(request, monkeypatch):
    """It answers ECHO while it loads its data, and so a script's LOADING cannot be told from its own by that alone."""
    server = request.getfixturevalue("debian_redis")()
    with server.observer() as admin:
        admin.execute_command("DEBUG", "POPULATE", 100_000)
        admin.save()
    server.stop()
    server.options |= {"key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"}
    monkeypatch.setattr(type(server), "_answers", listens)
    server.start()
    with server.observer() as admin, inside(server, monkeypatch) as app:
        for ask in (
            lambda: app.ask("GET", "k"),
            lambda: app.ask("EVAL", ALONE, 0, "LOADING mine"),
            lambda: app.post([["SET", "k", "v"], ["TIME"]], path="/pipeline"),
            lambda: app.post([["SET", "k", "v"], ["TIME"]], path="/multi-exec"),
            lambda: app.get("/readyz"),
        ):
            answer = ask()
            assert answer.status_code == 503, answer.text
            assert "LOADING" in answer.text or "reached" in answer.text
            assert int(answer.headers["retry-after"]) >= 1
        admin.execute_command("CONFIG", "SET", "key-load-delay", 0)
        wait_for(lambda: app.ask("GET", "k").status_code == 200, 20, what="it has loaded its data")
