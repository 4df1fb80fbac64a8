"""The worker service over HTTP: what is answered and what is refused, in every style and with every status."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import time
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.helpers import RedisServer, free_port, wait_for
from tests.integration.test_http_policy import REFUSED, commands
from tests.service import Service

FULL, READER = "the-token", "the-reader"
STATUSES = {200, 400, 401, 405, 408, 413, 503}
"""What docs/http.md tells of this service; gunicorn itself adds those for what is not HTTP."""

FAST = {"REDIS_SOCKET_TIMEOUT": "2.5", "REDIS_POOL_TIMEOUT": "1"}


@pytest.fixture(scope="module")
def module_dir(tmp_path_factory):
    import shutil
    import tempfile
    from pathlib import Path

    path = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def server(module_dir):
    server = RedisServer(module_dir, port=free_port()).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def service(module_dir, server):
    """One service for all tests of this file; they share nothing but it."""
    environ = {"WORKER_TOKEN": FULL, "WORKER_READONLY_TOKEN": READER, "WORKER_MAX_BODY": "64K", **FAST}
    service = Service(module_dir, redis_url=server.url, environ=environ, workers=2, threads=4).start()
    yield service
    log, defects = service.log, service.events("worker.defect")
    service.clean_up()  # first: a service that is left behind outlives the tests
    assert "Traceback" not in log
    assert defects == []


@pytest.fixture(autouse=True)
def clean(server):
    with server.observer() as client:
        client.flushall()


def path_of(command: list[bytes]) -> str:
    return "/" + "/".join(quote(word, safe="") for word in command)


def bearer(token: str = FULL) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# ---- what is answered --------------------------------------------------------------------------


def test_replies_are_resp2_without_callbacks(service):
    for word in ("HSET h a 1 b 2", "ZADD z 1.5 m", "XADD s 1-1 f v", "GEOADD g 13 38 p"):
        assert service.ask(*word.split()).status == 200
    for command, result in {
        "HGETALL h": ["a", "1", "b", "2"],
        "ZRANGE z 0 -1 WITHSCORES": ["m", "1.5"],
        "ZSCORE z m": "1.5",
        "XRANGE s - +": [["1-1", ["f", "v"]]],
        "EXISTS h": 1,
        "GET nothing": None,
        "SMEMBERS nothing": [],
        "PING": "PONG",
        "SCAN 0 MATCH h": ["0", ["h"]],
        "EXPIRE h 100": 1,
        "TYPE z": "zset",
    }.items():
        assert service.ask(*command.split()).json == {"result": result}, command


def test_a_failed_command_is_a_400_with_the_servers_own_words(service):
    service.ask("SET", "k", "v")
    for command, error in {
        "LPUSH k v": "WRONGTYPE Operation against a key holding the wrong kind of value",
        "GET": "ERR wrong number of arguments for 'get' command",
        "INCR k": "ERR value is not an integer or out of range",
        "EVALSHA 0000000000000000000000000000000000000000 0": "NOSCRIPT No matching script.",
    }.items():
        answer = service.ask(*command.split())
        assert answer.status == 400
        assert answer.json["error"].startswith(error)
    assert "unknown command" in service.ask("NONSENSE").json["error"]


def test_the_path_style_in_all_its_methods(service):
    assert service.request("PUT", "/set/k", b"\xff\x00/", bearer()).json == {"result": "OK"}
    answer = service.get("/get/k", headers={**bearer(), "Upstash-Encoding": "base64"})
    assert base64.b64decode(answer.json["result"]) == b"\xff\x00/"
    assert service.get(f"/set/a%2Fb/v?EX=60&_token={FULL}").json == {"result": "OK"}
    assert service.ask("TTL", "a/b").json["result"] > 50
    assert service.request("POST", "/set/c?NX", b"body", bearer()).json == {"result": "OK"}
    head = service.request("HEAD", "/get/c", headers=bearer())
    assert (head.status, head.body) == (200, b"")
    assert service.get("/get/c", headers=bearer()).json == {"result": "body"}


def test_a_chunked_body(service):
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    parts = iter([b'["SET", ', b'"k", "chunked"]'])
    connection.request("POST", "/", parts, {**bearer(), "Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert json.loads(connection.getresponse().read()) == {"result": "OK"}
    parts = iter([b"x" * 40_000] * 2)
    connection.request("POST", "/", parts, {**bearer(), "Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


@pytest.mark.parametrize("come", [0, 1, 40_000, 64 << 10])
def test_a_chunk_that_makes_the_body_too_long_is_refused_for_its_length_however_much_of_it_has_come(service, come):
    """How its bytes are cut into packets must not decide what the caller is told."""
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FULL}\r\nTransfer-Encoding: chunked\r\n\r\n"
    for first in (0, 40_000):
        before = b"%x\r\n%s\r\n" % (first, b"x" * first) if first else b""
        with socket.create_connection(("127.0.0.1", service.port), timeout=30) as caller:
            caller.sendall(head.encode() + before + b"%x\r\n" % ((64 << 10) + 1) + b"x" * come)
            answer = http.client.HTTPResponse(caller)
            answer.begin()
            assert answer.status == 413, answer.read()
            assert "WORKER_MAX_BODY" in json.loads(answer.read())["error"]


@pytest.mark.parametrize("line", [b"no number\r\n", b"5\r\nabcdeX"])
def test_a_malformed_chunk_is_no_long_one(service, line):
    head = f"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FULL}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as caller:
        caller.sendall(head.encode() + line + b"\r\nffffff\r\n")
        answer = http.client.HTTPResponse(caller)
        answer.begin()
        assert (answer.status, b"cannot be read" in answer.read()) == (400, True)


def test_a_pipeline_answers_every_item(service):
    found = service.post(
        [["SET", "a", 1], ["INCR", "a"], ["LPUSH", "a", 1], ["CONFIG", "GET", "*"], ["GET", "a"]], path="/pipeline"
    )
    assert found.status == 200
    assert found.json[0] == {"result": "OK"}
    assert found.json[1] == {"result": 2}
    assert found.json[2]["error"].startswith("WRONGTYPE")
    assert "not allowed" in found.json[3]["error"]
    assert found.json[4] == {"result": "2"}


def test_a_transaction_is_all_or_nothing(service):
    found = service.post([["SET", "a", 1], ["INCR", "a"], ["LPUSH", "a", 1]], path="/multi-exec")
    assert found.status == 200
    assert found.json[:2] == [{"result": "OK"}, {"result": 2}]
    assert found.json[2]["error"].startswith("WRONGTYPE")
    for bad in (["GET"], ["NONSENSE"], ["AUTH", "x"], ["CONFIG", "GET", "*"]):
        found = service.post([["SET", "a", 9], bad], path="/multi-exec")
        assert found.status == 400
        assert found.json["error"].startswith("EXECABORT")
    assert service.ask("GET", "a").json == {"result": "2"}


def test_base64_and_what_is_not_supported(service):
    service.ask("SET", "k", "é")
    answer = service.ask("GET", "k", headers={"Upstash-Encoding": "base64"})
    assert base64.b64decode(answer.json["result"]) == "é".encode()
    assert service.ask("SET", "k", "v", headers={"Upstash-Encoding": "base64"}).json == {"result": "OK"}
    answer = service.ask("GET", "k", headers={"Upstash-Response-Format": "resp2"})
    assert answer.status == 400
    assert "not supported" in answer.json["error"]
    assert service.ask("GET", "k", headers={"Upstash-Sync-Token": "x"}).status == 200
    for path in ("/subscribe/c", "/psubscribe/c", "/monitor"):
        answer = service.get(path, headers=bearer())
        assert answer.status == 400
        assert "no event streams" in answer.json["error"]


# ---- what is not -------------------------------------------------------------------------------


def test_every_refused_command_is_refused_in_every_style(service):
    refused = commands(REFUSED)
    for command in refused:
        words = [word.decode() for word in command]
        for answer in (service.ask(*words), service.get(path_of(command), headers=bearer())):
            assert answer.status == 400, command
            assert "not allowed" in answer.json["error"] or "not supported" in answer.json["error"]
        assert service.post([["SET", "k", "v"], words], path="/multi-exec").status == 400
    items = service.post([[word.decode() for word in command] for command in refused], path="/pipeline").json
    assert all("not allowed" in item["error"] or "not supported" in item["error"] for item in items)
    assert service.ask("GET", "k").json == {"result": None}, "no transaction was run"


def test_the_readonly_token_reads(service):
    service.ask("SET", "k", "v")
    assert service.get("/get/k", headers=bearer(READER)).json == {"result": "v"}
    answer = service.get("/set/k/w", headers=bearer(READER))
    assert answer.status == 400
    assert answer.json["error"].startswith("NOPERM")
    answer = service.request("POST", "/multi-exec", '[["GET","k"],["DEL","k"]]', bearer(READER))
    assert answer.status == 400
    items = service.request("POST", "/pipeline", '[["GET","k"],["DEL","k"]]', bearer(READER)).json
    assert items[0] == {"result": "v"}
    assert items[1]["error"].startswith("NOPERM")
    assert service.ask("GET", "k").json == {"result": "v"}


def test_a_renamed_command_is_refused_too(isolated, redis_server, tmp_path):
    config = tmp_path / "redis.conf"
    config.write_text("rename-command CONFIG innocent\n")
    server = redis_server(port=free_port(), include=str(config))
    service = Service(isolated.parent, redis_url=server.url, workers=1).start()
    try:
        for name in ("INNOCENT", "CONFIG"):
            answer = service.ask(name, "GET", "*")
            assert answer.status == 400
            assert "unknown command" in answer.json["error"]
    finally:
        service.clean_up()


def test_no_token_and_a_wrong_token(service):
    for headers in ({}, bearer("wrong"), {"Authorization": f"Basic {FULL}"}):
        answer = service.request("POST", "/", '["PING"]', headers)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "error" in answer.json
    assert service.get("/ping?_token=wrong").status == 401


def test_the_token_is_in_no_log_line(service):
    service.get(f"/get/k?_token={FULL}")
    service.get(f"/get/k?%5Ftoken={FULL}")
    wait_for(lambda: "/get/k?%5Ftoken=***" in service.log or "/get/k?_token=***" in service.log)
    assert FULL not in service.log
    assert READER not in service.log


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("DELETE", "/get/k", 405),
        ("PATCH", "/", 405),
        ("OPTIONS", "/pipeline", 405),
        ("GET", "/", 405),
        ("GET", "/pipeline", 405),
        ("PUT", "/multi-exec", 405),
        ("POST", "/healthz", 405),
        ("TRACE", "/get/k", 405),
        ("GET", "//", 400),
    ],
)
def test_methods(service, method, path, status):
    answer = service.request(method, path, headers=bearer())
    assert answer.status == status
    if status == 405:
        assert answer.headers["allow"]


def test_limits(service):
    assert service.request("POST", "/", b"x" * 70_000, bearer()).status == 413
    assert service.post([["PING"]] * 1001, path="/pipeline").status == 413
    assert service.post([["PING"]] * 1000, path="/pipeline").status == 200
    assert service.request("PUT", "/set/k", b"x" * 64_000, bearer()).status == 200


def test_health_needs_no_token(service):
    assert service.get("/healthz").json == {"status": "ok"}
    assert service.get("/readyz").json == {"status": "ok"}


# ---- fuzz --------------------------------------------------------------------------------------

SPOKEN = """GET SET k 0 -1 3 OFF BLPOP EVAL return XREAD BLOCK STREAMS MULTI EXEC OBJECT HELP COMMAND INFO
CLIENT REPLY SUBSCRIBE MONITOR SELECT HELLO RESET QUIT WATCH AUTH"""
WORDS = st.sampled_from(SPOKEN.split())
VALUES = st.recursive(
    WORDS | st.text(max_size=8) | st.integers() | st.floats() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
BODIES = st.binary(max_size=80) | st.lists(VALUES, max_size=5).map(lambda value: json.dumps(value).encode())
PATHS = st.sampled_from(["/", "/pipeline", "/multi-exec", "/healthz", "/readyz"]) | st.lists(
    WORDS | st.text(max_size=6), max_size=4
).map(lambda parts: "/" + "/".join(quote(part, safe="", errors="replace") for part in parts))
QUERIES = st.just("") | st.text(alphabet="abEX=&%_token+60", max_size=12).map(lambda text: "?" + text)
HEADERS = st.dictionaries(
    st.sampled_from(["Upstash-Encoding", "Upstash-Response-Format", "Content-Type", "X-Any", "Upstash-Sync-Token"]),
    st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=12) | st.just("base64"),
    max_size=3,
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    method=st.sampled_from(["GET", "POST", "POST", "POST", "PUT", "HEAD", "DELETE", "PATCH", "OPTIONS"]),
    path=PATHS,
    query=QUERIES,
    body=BODIES,
    headers=HEADERS,
    known=st.integers(0, 9),
)
def test_whatever_is_sent_gets_a_documented_status_and_harms_no_connection(
    service, server, method, path, query, body, headers, known
):
    given_headers = {**headers, **(bearer() if known else {})}
    answer = service.request(method, path + query, body, given_headers)
    assert answer.status in STATUSES, (answer.status, answer.body)
    if method != "HEAD":
        found = answer.json
        if answer.status != 200:
            assert isinstance(found["error"], str)
            assert not re.search(r"Traceback|File \"", found["error"])
    # No connection was left with somebody else's reply, in another database, or lost.
    marker = f"marker-{time.monotonic_ns()}"
    items = service.post([["ECHO", marker]] * 3, path="/pipeline").json
    assert items == [{"result": marker}] * 3


def test_after_all_that_no_connection_is_lost(service, server):
    with server.observer() as client:
        for _ in range(3):
            service.ask("PING")
        named = [row for row in client.client_list() if row["name"] != "observer"]
        assert len({row["db"] for row in named}) == 1
        assert [row for row in named if int(row["sub"]) or int(row["psub"]) or int(row["multi"]) > 0] == []
