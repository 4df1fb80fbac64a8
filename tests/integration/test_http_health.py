"""A health check of the worker service is answered, whatever other callers send, leave out or wait for."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest

from tests.helpers import RedisServer, wait_for
from tests.service import Service, running_service
from tests.slow_callers import HEAD, PROMISED, SLOW, all_in_time, callers, connect
from tests.stopwatch import Stopwatch
from tests.threads import Calls

BLOCKING = ["BLPOP", "nothing", 0]


@contextlib.contextmanager
def blocked(service: Service, server: RedisServer, count: int) -> Iterator[None]:
    """So many callers that wait in a blocking command, again and again; in the end they get what they wait for."""
    over = threading.Event()

    def wait() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                service.ask(*BLOCKING)

    waiting = Calls(wait, times=count)
    try:
        yield
    finally:
        over.set()
        with server.observer() as admin:
            admin.rpush("nothing", *range(100))
            waiting.join()
            admin.delete("nothing")


@pytest.fixture(scope="module")
def service(server: RedisServer) -> Iterator[Service]:
    """As anybody would start it, but for longer blocking commands: two workers with four threads each."""
    with running_service(server, REDIS_SOCKET_TIMEOUT="60") as found:
        yield found


@pytest.mark.parametrize("what", SLOW)
def test_health_is_answered_beside_slow_callers(service: Service, what: str) -> None:
    count, sent = SLOW[what]
    with callers(service, count, sent):
        all_in_time(service)


def test_health_is_answered_beside_callers_that_never_close(service: Service) -> None:
    """Their answers say ``Connection: close``, and it is they who do not."""
    with callers(service, 40, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        all_in_time(service)


@contextlib.contextmanager
def every_thread_blocked(service: Service, server: RedisServer) -> Iterator[None]:
    """All eight threads are in a blocking command."""
    with contextlib.ExitStack() as stack:
        admin = stack.enter_context(server.observer())
        stack.enter_context(blocked(service, server, 12))

        def all_block() -> bool:
            if admin.info("clients")["blocked_clients"] == 8:
                return True
            stack.enter_context(blocked(service, server, 4))  # the kernel may have given one worker all of them
            return False

        wait_for(all_block, 60, what="all eight threads are in a blocking command", step=0.2)
        yield


def test_health_is_answered_while_every_thread_blocks(service: Service, server: RedisServer) -> None:
    with every_thread_blocked(service, server):
        all_in_time(service)


@pytest.mark.parametrize(
    ("target", "prefix"), [("/healthz", "/healthz"), ("/readyz?x", "/readyz"), ("/healthz", "/"), ("/readyz", "/ready")]
)
def test_no_command_runs_in_the_thread_of_a_health_check(service: Service, target: str, prefix: str) -> None:
    """A prefix is what a proxy says that it has served the application under."""
    headers = {"Script_Name": prefix, "Authorization": "Bearer the-token"}
    answer = service.request("POST", target, json.dumps(BLOCKING), headers)
    assert answer.status == 400 and b"SCRIPT_NAME" in answer.body
    answer = service.request("POST", "/x", '["PING"]', {**headers, "Script_Name": "/x"})
    assert answer.json == {"result": "PONG"}, "on another path it is no mistake"


def test_health_is_answered_beside_all_of_them(service: Service, server: RedisServer) -> None:
    with every_thread_blocked(service, server), contextlib.ExitStack() as stack:
        for count, sent in SLOW.values():
            stack.enter_context(callers(service, count, sent))
        all_in_time(service)


def test_health_is_answered_beside_callers_that_read_no_answer(service: Service) -> None:
    """Each asks for its health a thousand times and takes none of the answers."""
    asked = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 20_000
    with contextlib.ExitStack() as stack:
        for _ in range(6):
            made = stack.enter_context(connect(service))
            made.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                made.send(asked)
        all_in_time(service)


def test_commands_are_answered_beside_slow_callers(service: Service) -> None:
    with callers(service, 60), callers(service, 24, b"P"), callers(service, 8, HEAD + b"["):
        for _ in range(8):
            watch = Stopwatch()
            assert service.ask("SET", "k", "v").json == {"result": "OK"}
            assert watch.fair() < PROMISED


@pytest.fixture(scope="module")
def alone(server: RedisServer) -> Iterator[Service]:
    """One worker."""
    with running_service(server, workers=1) as found:
        yield found


@pytest.mark.parametrize("piece", ["%", "%g", "://:", "%e9\u00e9"])
def test_health_is_answered_while_long_lines_are_written(alone: Service, piece: str) -> None:
    """Of callers without a token, with as many and as long fields as a head may have."""
    fields = "".join(f"User-Agent: {piece * (8000 // len(piece))}\r\n" for _ in range(90))
    target = (piece if piece.isascii() else "%e9") * (6000 // len(piece))
    asked = f"GET /{target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n".encode("latin-1")
    with callers(alone, 4, asked) as found:
        for caller in found:
            assert caller.recv(12) == b"HTTP/1.1 401"  # its line is written after its answer
        all_in_time(alone)
