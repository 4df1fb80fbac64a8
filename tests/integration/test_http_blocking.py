"""Commands of the HTTP service that wait: they end in time, and hold nothing for a caller that has gone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.helpers import RedisServer, wait_for
from tests.service import Service, running_service
from tests.slow_callers import connect, received
from tests.stopwatch import Stopwatch

TOKEN = "the-token"


@pytest.fixture(scope="module")
def service(server: RedisServer) -> Iterator[Service]:
    """One for all tests of this file. They wait for no reply longer than 2.5 s."""
    with running_service(server, REDIS_SOCKET_TIMEOUT="2.5", REDIS_POOL_TIMEOUT="1") as found:
        yield found
        assert "Traceback" not in found.log
        assert found.events("worker.defect") == []


@pytest.fixture(autouse=True)
def clean(server: RedisServer) -> None:
    with server.observer() as client:
        client.flushall()


def request(path: str, *, token: str = TOKEN) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n".encode()


@pytest.mark.parametrize(
    "command", ["BLPOP k 0", "BLMOVE a b LEFT LEFT 0", "XREAD BLOCK 0 STREAMS s $", "WAIT 1 0", "BLMPOP 0 1 k LEFT"]
)
def test_a_blocking_command_ends_before_the_socket_timeout(service, command):
    watch = Stopwatch()
    answer = service.ask(*command.split())
    assert answer.json == {"result": 0 if command.startswith("WAIT") else None}
    assert watch.seconds() > 0.5 and watch.fair() < 5, "and not by its error"


def test_blocking_commands_of_a_pipeline_share_the_time(service):
    watch = Stopwatch()
    assert service.post([["BLPOP", "k", 0]] * 3, path="/pipeline").json == [{"result": None}] * 3
    assert watch.fair() < 4, "one after the other takes six seconds"
    assert service.post([["BLPOP", "k", 0]] * 3, path="/multi-exec").json == [{"result": None}] * 3


def test_a_blocking_command_is_answered_when_something_comes(service, server):
    with connect(service, request("/blpop/queue/0")) as caller, server.observer() as client:
        wait_for(lambda: client.info("clients")["blocked_clients"] == 1)
        client.rpush("queue", "item")
        assert b'{"result":["queue","item"]}' in received(caller)


def test_a_caller_that_goes_away_frees_its_connection(isolated, server):
    """With ten seconds to wait for a reply, a command is over long before that."""
    service = Service(isolated.parent, redis_url=server.url, environ={"REDIS_SOCKET_TIMEOUT": "10"}, workers=1).start()
    try:
        with server.observer() as client:
            for _ in range(4):  # as many as there are threads
                with connect(service, request("/blpop/queue/0", token=service.token)):
                    wait_for(lambda: client.info("clients")["blocked_clients"] == 1)
                wait_for(lambda: client.info("clients")["blocked_clients"] == 0, 2)
            client.rpush("queue", "item")
            assert service.ask("LLEN", "queue").json == {"result": 1}, "no caller that has gone got the element"
    finally:
        service.clean_up()


def test_a_stalled_server_is_a_503_and_the_next_request_is_clean(service, server):
    with server.observer() as client:
        client.set("k", "v")
        for _ in range(20):  # every worker is connected: a connect is tried again, a command is not
            service.ask("GET", "k")
        client.execute_command("CLIENT PAUSE", 5000, "ALL")
    answer = service.ask("ECHO", "lost")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 1

    def clean() -> bool:
        """Either it is still down, for this worker (they come back one by one), or the answer is the right one."""
        answer = service.ask("GET", "k")
        assert answer.status == 503 or answer.json == {"result": "v"}
        return bool(answer.status == 200)

    wait_for(lambda: all(clean() for _ in range(20)), 10)
