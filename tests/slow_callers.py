"""Slow callers of the worker service, and the health checks that are answered beside them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from tests.service import Service
from tests.stopwatch import Stopwatch

PROMISED = 2.0
"""Seconds in which a health check is answered."""

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-token\r\nContent-Length: 400\r\n\r\n"

SLOW: dict[str, tuple[int, bytes]] = {
    "idle": (60, b""),
    "one byte": (24, b"P"),
    "half a head": (24, HEAD[:40]),
    "a head, and none of its body": (16, HEAD),
    "half a body": (8, HEAD + b"[" * 200),
    "half a chunk": (16, HEAD.replace(b"Content-Length: 400", b"Transfer-Encoding: chunked") + b"40\r\n[["),
    "a body that awaits its 100": (16, HEAD.replace(b"Host", b"Expect: 100-continue\r\nHost")),
}


def connect(service: Service, sent: bytes = b"") -> socket.socket:
    made = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    made.sendall(sent)
    return made


@contextlib.contextmanager
def callers(service: Service, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections that have sent this and say no more."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(connect(service, sent)) for _ in range(count)]


def received(sock: socket.socket) -> bytes:
    """Everything until its end."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := sock.recv(65536):
            data += part
    return data


def health(service: Service, path: str = "/healthz") -> float:
    """The fair seconds that a health check takes."""
    watch = Stopwatch()
    answer = service.get(path, timeout=30)
    assert answer.status == 200, answer.body
    return watch.fair()


def all_in_time(service: Service, times: int = 8) -> None:
    slowest = max(health(service) for _ in range(times))
    assert slowest < PROMISED, f"{slowest:.1f} s"
