"""The worker service waits for no caller longer than it says: requests, answers, and the room that callers take."""

from __future__ import annotations

import contextlib
import functools
import resource
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import RedisServer, wait_for
from tests.service import GUNICORN, Service, running_service
from tests.slow_callers import HEAD, SLOW, all_in_time, callers, connect, received
from tests.stopwatch import Stopwatch
from tests.threads import Calls

# ---- deadlines -----------------------------------------------------------------------------------------


def trickle(sock: socket.socket, data: bytes, every: float = 0.1) -> None:
    """Send a byte now and then until the other side has had enough."""
    sock.settimeout(every)
    for at in range(len(data)):
        try:
            sock.sendall(data[at : at + 1])
            if sock.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
        except OSError:
            break
    sock.settimeout(30)


@pytest.fixture
def hasty(make: Callable[..., Service], server: RedisServer) -> Callable[..., Service]:
    def start(**options: object) -> Service:
        environ = {"WORKER_TOKEN": "the-token", "WORKER_REQUEST_TIMEOUT": "1"}
        return make(redis_url=server.url, environ=environ, **{"workers": 1, **options}).start()

    return start


@pytest.fixture(scope="module")
def in_a_second(server: RedisServer) -> Iterator[Service]:
    """A service to which a request must come within a second."""
    with running_service(server, workers=1, WORKER_REQUEST_TIMEOUT="1") as found:
        yield found


@pytest.fixture(scope="module")
def unhurried(server: RedisServer) -> Iterator[Service]:
    """One worker, to which a request comes in time on a busy machine too."""
    with running_service(server, workers=1) as found:
        yield found


@pytest.mark.parametrize("what", ["one byte", "half a head", "half a body", "half a chunk"])
def test_what_does_not_come_in_time_is_a_408_and_one_line(in_a_second: Service, what: str) -> None:
    service, before = in_a_second, len(in_a_second.events("caller.slow"))
    watch = Stopwatch()
    with connect(service, SLOW[what][1]) as caller:
        answer = received(caller)
        assert watch.seconds() > 0.9 and watch.fair() < 5
        assert answer.endswith(b'{"error": "the request did not come within 1 s (WORKER_REQUEST_TIMEOUT)"}')
        assert b"408 Request Timeout" in answer and b"Connection: close" in answer
    (line,) = wait_for(lambda: service.events("caller.slow")[before:])
    assert line["phase"] == ("body" if "body" in what or "chunk" in what else "head")
    assert line["bytes"] == len(SLOW[what][1])


def test_an_idle_connection_ends_silently(in_a_second: Service) -> None:
    before = len(in_a_second.events("caller.slow"))
    with connect(in_a_second) as caller:
        assert received(caller) == b""
    assert len(in_a_second.events("caller.slow")) == before


@pytest.mark.parametrize("worker_class", ["gthread", "gevent"])
def test_the_time_is_for_a_body_as_a_whole_and_not_for_each_byte(
    hasty: Callable[..., Service], worker_class: str
) -> None:
    service = hasty(worker_class=worker_class)
    watch = Stopwatch()
    with connect(service, HEAD) as caller:
        trickle(caller, b"[" * 100)
        assert watch.seconds() > 0.9 and watch.fair() < 5
        assert b" 408 " in received(caller)
    assert service.events("worker.defect") == []
    assert "Traceback" not in service.log


def test_the_time_is_for_a_head_as_a_whole_too(in_a_second: Service) -> None:
    watch = Stopwatch()
    with connect(in_a_second) as caller:
        trickle(caller, HEAD)
        assert watch.seconds() > 0.9 and watch.fair() < 5
        assert b" 408 " in received(caller)


def test_a_request_in_pieces_that_comes_in_time_is_answered(unhurried: Service) -> None:
    """In one connection with others before and behind it, some of them already there."""
    body = b'["SET","k","v"]'
    head = HEAD.replace(b"400", str(len(body)).encode())
    with connect(unhurried) as caller:
        for _ in range(3):
            for part in (head[:30], head[30:], body[:5], body[5:] + head, body):
                caller.sendall(part)
                time.sleep(0.02)
            answers = b""
            while answers.count(b'{"result":"OK"}') < 2:
                answers += caller.recv(65536)


def test_the_word_that_a_caller_waits_for_comes_once(unhurried: Service) -> None:
    body = b'["PING"]'
    head = HEAD.replace(b"400", str(len(body)).encode()).replace(b"Host", b"Expect: 100-continue\r\nHost")
    with connect(unhurried, head) as caller:
        assert caller.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        caller.sendall(body)
        assert caller.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.slow
@pytest.mark.parametrize("asked", [b"FOO /pipeline", b"POST /%72eadyz"])
def test_answers_that_are_not_taken_hold_no_thread_whoever_gives_them(
    hasty: Callable[..., Service], asked: bytes
) -> None:
    """What is refused before anybody has looked for a token, too. Two callers, one for each thread."""
    service = hasty(threads=2)
    many = (asked + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n") * 60_000

    def flood(made: socket.socket) -> None:
        with contextlib.suppress(OSError):
            made.sendall(many)

    with contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.socket()) for _ in range(2)]
        for made in callers:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)  # then the kernel keeps few of the answers
            made.connect(("127.0.0.1", service.port))
        flooding = Calls(*(functools.partial(flood, made) for made in callers))
        try:
            wait_for(lambda: len(service.events("caller.slow")) >= 2, 60, step=0.1)
        finally:
            for made in callers:
                with contextlib.suppress(OSError):
                    made.shutdown(socket.SHUT_RDWR)
            flooding.join()
    assert {line["phase"] for line in service.events("caller.slow")} == {"answer"}
    assert service.ask("PING").json == {"result": "PONG"}


@pytest.mark.parametrize("worker_class", ["gthread", "gevent", "sync"])
def test_an_answer_that_is_not_taken_ends_in_time_and_is_one_line(
    hasty: Callable[..., Service], server: RedisServer, worker_class: str
) -> None:
    service = hasty(worker_class=worker_class)
    with server.observer() as admin:
        admin.set("long", b"x" * (6 << 20))
    ask = b"GET /get/long HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-token\r\n\r\n"
    watch = Stopwatch()
    with contextlib.ExitStack() as stack:
        count = 1 if worker_class == "sync" else 4
        for _ in range(count):
            made = stack.enter_context(socket.socket())
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            made.connect(("127.0.0.1", service.port))
            made.sendall(ask)
        wait_for(lambda: len(service.events("caller.slow")) == count, 40)
        assert watch.seconds() > 5, "a second and one for each MiB"
    assert {line["phase"] for line in service.events("caller.slow")} == {"answer"}
    assert "Traceback" not in service.log
    assert service.ask("PING").json == {"result": "PONG"}


def test_a_stopping_worker_does_not_wait_for_callers_that_send_nothing(
    make: Callable[..., Service], server: RedisServer
) -> None:
    service = make(redis_url=server.url, environ={"WORKER_TOKEN": "the-token"}).start()
    with callers(service, 20):
        watch = Stopwatch()
        assert service.stop(15) == 0
        assert watch.fair() < 6


# ---- room ----------------------------------------------------------------------------------------------


def test_more_callers_than_a_worker_may_have_do_not_shut_the_others_out(
    make: Callable[..., Service], server: RedisServer
) -> None:
    limits = ("--worker-connections", "30")
    service = make(redis_url=server.url, workers=1, environ={"WORKER_TOKEN": "the-token"}, arguments=limits).start()
    with callers(service, 200, b"P"):
        all_in_time(service)
        assert service.ask("PING").json == {"result": "PONG"}
    dropped = service.events("caller.dropped")
    assert {line["reason"] for line in dropped} == {"connections"}
    assert len(dropped) <= 20, "a storm is not written out"


def test_callers_leave_descriptors_for_everything_else(make: Callable[..., Service], server: RedisServer) -> None:
    program = ("prlimit", "--nofile=80:80", *GUNICORN)
    service = make(redis_url=server.url, workers=1, environ={"WORKER_TOKEN": "the-token"}, program=program).start()
    with callers(service, 120, b"P"):
        assert service.ask("PING").json == {"result": "PONG"}, "its first connection is opened now"
        all_in_time(service)
    assert service.events("worker.defect") == []


def test_a_worker_without_descriptors_goes_on(make: Callable[..., Service], server: RedisServer) -> None:
    """gunicorn's own ends when it cannot accept."""
    service = make(redis_url=server.url, workers=1, environ={"WORKER_TOKEN": "the-token"}).start()
    service.ask("PING")
    (worker,) = service.workers()
    highest = max(int(path.name) for path in Path(f"/proc/{worker}/fd").iterdir())
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (highest + 10, highest + 10))
    with callers(service, 40, b"P"):
        all_in_time(service)
        assert service.ask("PING").json == {"result": "PONG"}
    assert service.workers() == [worker]
    assert "descriptors" in {line["reason"] for line in service.events("caller.dropped")}


def test_unfinished_bodies_take_a_bounded_memory(make: Callable[..., Service], server: RedisServer) -> None:
    """200 callers of 900 KB each would be 180 MB."""
    environ = {"WORKER_TOKEN": "the-token", "WORKER_REQUEST_TIMEOUT": "60"}
    service = make(redis_url=server.url, workers=1, environ=environ).start()
    service.ask("PING")
    (worker,) = service.workers()
    before = memory(worker)
    head = HEAD.replace(b"400", b"1000000")
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            made = stack.enter_context(connect(service))
            with contextlib.suppress(OSError):
                made.sendall(head + b"[" * 900_000)
        assert service.ask("PING").json == {"result": "PONG"}
        assert memory(worker) - before < 110 << 20
    assert {line["reason"] for line in service.events("caller.dropped")} == {"memory"}
    assert service.ask("PING").json == {"result": "PONG"}


def memory(pid: int) -> int:
    """Resident bytes (proc(5))."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
