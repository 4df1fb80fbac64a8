"""A caller's mistake is never a defect of the service: a 400 or a silent end, and one line in the log at most."""

from __future__ import annotations

import json
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.helpers import RedisServer, wait_for
from tests.service import Service
from tests.slow_callers import connect, received

AUTHORIZED = b"Host: x\r\nAuthorization: Bearer the-token\r\n"
POST = b"POST / HTTP/1.1\r\n" + AUTHORIZED
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

CLASSES = ["gthread", "gevent", "sync"]


@pytest.fixture(scope="module", params=CLASSES)
def service(request: pytest.FixtureRequest, server: RedisServer, tmp_path_factory: Any) -> Iterator[Service]:
    directory = Path(f"/tmp/pm-mistakes-{request.param}-{server.port}")
    directory.mkdir(mode=0o700)
    environ = {"WORKER_TOKEN": "the-token", "WORKER_REQUEST_TIMEOUT": "2"}
    made = Service(directory, redis_url=server.url, workers=1, environ=environ, worker_class=request.param)
    try:
        yield made.start()
    finally:
        made.clean_up()
        shutil.rmtree(directory)


@pytest.fixture
def lines(service: Service) -> Callable[[], list[dict[str, Any]]]:
    """What the service has said since the test began, but for its access log, once it has answered another one."""
    before = len(service.events())

    def since() -> list[dict[str, Any]]:
        assert service.get("/healthz").status == 200
        assert service.ask("PING").json == {"result": "PONG"}
        found = service.events()[before:]
        assert "Traceback" not in service.log
        return [event for event in found if event["event"] != "request" and event["logger"] != "poolmgr.supervisor"]

    return since


def reset(sock: socket.socket) -> None:
    """Close it with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("cut", [0, 1, 60, len(POST) - 5, len(POST) + 30, len(POST) + 31])
def test_a_caller_that_resets(service: Service, lines: Callable[[], list[Any]], cut: int) -> None:
    for _ in range(3):
        reset(connect(service, (POST + b"Content-Length: 1000\r\n\r\n" + b"[" * 500)[: cut or None]))
        reset(connect(service, (CHUNKED + b"100\r\n" + b"[" * 500)[: cut or None]))
    assert lines() == []


def test_a_caller_that_ends_in_its_body(service: Service, lines: Callable[[], list[Any]]) -> None:
    for sent in (POST + b"Content-Length: 1000\r\n\r\n[", CHUNKED + b"100\r\n[["):
        with connect(service, sent) as caller:
            caller.shutdown(socket.SHUT_WR)
            answer = received(caller)
        assert answer == b"" or b" 400 " in answer
    assert lines() == []


MALFORMED = {
    "no size": CHUNKED + b"xyz\r\n[]\r\n0\r\n\r\n",
    "no end of a chunk": CHUNKED + b"2\r\n[]]]]]\r\n0\r\n\r\n",
    "a bare line feed": CHUNKED + b"2\n[]\r\n0\r\n\r\n",
    "a negative size": CHUNKED + b"-2\r\n[]\r\n0\r\n\r\n",
    "a huge size": CHUNKED + b"FFFFFFFFFFFFFFFF\r\n[]",
    "an extension that is none": CHUNKED + b"2;\r=\r\n[]\r\n0\r\n\r\n",
    "a forbidden trailer": CHUNKED + b"2\r\n[]\r\n0\r\nContent-Length: 2\r\n\r\n",
    "a trailer that is none": CHUNKED + b"2\r\n[]\r\n0\r\n: x\r\n\r\n",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n[]",
    "a length that is none": POST + b"Content-Length: two\r\n\r\n[]",
    "a length and a coding": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n[]",
    "an unknown coding": POST + b"Transfer-Encoding: x\r\n\r\n[]",
    "an expectation": POST + b"Expect: the-worst\r\nContent-Length: 2\r\n\r\n[]",
    "no request line": b"\r\n\r\n" + AUTHORIZED + b"\r\n",
    "no version": b"GET /\r\n" + AUTHORIZED + b"\r\n",
    "another protocol": b"HELO x\r\n\r\n",
    "a TLS greeting": bytes.fromhex("16030102000100fc0303") + b"\r\n\r\n" + b"x" * 20,
    "control characters": b"GET /\x00\x1b HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a folded field": b"GET / HTTP/1.1\r\nHost: x\r\n  y\r\n\r\n",
    "a path that does not begin": b"GET /get/k HTTP/1.1\r\nSCRIPT_NAME: /other\r\n" + AUTHORIZED + b"\r\n",
    "a port that is none": b"GET http://x:y:z/ HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "an address that is none": b"GET http://[::1/get/k HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "an authority": b"CONNECT x:80 HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "bytes that are no text": b"GET /get/k HTTP/1.1\r\nHost: \xff\xfe\r\nAuthorization: Bearer \xff\r\n\r\n",
    "a long line": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    "many fields": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "a long body": POST + b"Content-Length: 2000000\r\n\r\n[",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_malformed(service: Service, lines: Callable[[], list[Any]], what: str) -> None:
    with connect(service, MALFORMED[what]) as caller:
        caller.shutdown(socket.SHUT_WR)
        answer = received(caller)
    assert answer == b"" or 400 <= int(answer.split(b" ", 2)[1]) < 500 or answer.startswith(b"HTTP/1.1 501 "), (
        answer if what != "a broken escape" else 200
    )
    assert len(lines()) <= 1


@pytest.mark.parametrize("depth", [100, 900, 5000])
def test_a_reply_that_is_nested_deeply(service: Service, lines: Callable[[], list[Any]], depth: int) -> None:
    script = f"local t = 1; for i = 1, {depth} do t = {{t}} end; return t"
    answer = service.ask("EVAL", script, 0)
    if depth == 100:
        assert answer.status == 200
        assert str(answer.json["result"]).count("[") == depth
    else:
        assert answer.status == 400
        assert "nested" in answer.json["error"] or "stack" in answer.json["error"], answer.json
    items = service.post([["EVAL", script, 0], ["PING"]], path="/pipeline")
    if depth < 5000:
        assert items.status == 200
        assert items.json[1] == {"result": "PONG"}
    else:
        assert items.status == 400, "what follows it cannot be read"
    assert lines() == []


NO_COMMANDS = [b"[" * 100_000, b'["GET","\\ud800"]', b"\xff\xfe", b'{"a":' * 5000]


@pytest.mark.parametrize("body", NO_COMMANDS)
def test_a_body_that_is_none(service: Service, lines: Callable[[], list[Any]], body: bytes) -> None:
    for path in ("/", "/pipeline", "/multi-exec"):
        answer = service.request("POST", path, body, {"Authorization": "Bearer the-token"})
        assert answer.status == 400 and "error" in answer.json
    assert lines() == []


HEADS = st.lists(
    st.sampled_from([b"GET ", b"POST ", b"/", b"/get/k", b"?", b"%", b"%00", b"_token=", b" HTTP/1.1", b" HTTP/9.9",
                     b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"Host: x", b"Content-Length: ", b"5", b"-1",
                     b"Transfer-Encoding: ", b"chunked", b"Authorization: ", b"Bearer the-token",
                     b"Connection: ", b"Upgrade: h2c", b"close",
                     b"Upstash-Encoding: base64", b":", b"\x00", b"\xff", b"[]", b"0\r\n\r\n", b";"])
    | st.binary(max_size=5),
    max_size=14,
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(parts=HEADS)
def test_whatever_is_sent_is_a_callers_mistake(service: Service, parts: list[bytes]) -> None:
    with connect(service, b"".join(parts)) as caller:
        caller.shutdown(socket.SHUT_WR)
        answer = received(caller)
    if answer:
        status = int(answer.split(b" ", 2)[1])
        assert status != 500 and status < 502, answer


def test_after_all_that_there_was_no_defect(service: Service) -> None:
    wait_for(lambda: service.get("/healthz").status == 200)
    assert service.events("worker.defect") == []
    assert "Traceback" not in service.log
    assert [event for event in service.events() if event["level"] in ("error", "critical")] == []
    assert json.loads(service.get("/readyz").body) == {"status": "ok"}
