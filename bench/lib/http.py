"""Closed-loop HTTP load on keep-alive connections: one thread, many connections, little work for each.

gunicorn's gthread worker keeps a connection once it has accepted it. So a connection belongs to a worker,
and this module can choose the load of each worker: it opens connections until each worker has as many as
it should have, and closes those above that.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


class Failed(Exception):
    """The service answered with an error, or not at all."""


def _ask(sock: socket.socket) -> int:
    """The pid of the worker behind a connection."""
    sock.sendall(REQUEST)
    answer = b""
    while not (b"\r\n\r\n" in answer and len(answer.partition(b"\r\n\r\n")[2]) >= 10):
        data = sock.recv(65536)
        if not data:
            raise Failed(f"no answer: {answer!r}")
        answer += data
    if not answer.startswith(b"HTTP/1.1 200"):
        raise Failed(answer.partition(b"\r\n")[0].decode())
    return int(answer[-10:])


def connect(
    port: int, wanted: Callable[[int, Counter[int]], bool], count: int, timeout: float = 30
) -> list[socket.socket]:
    """This many connections to the workers; those to one worker are next to each other.

    Args:
        wanted: ``wanted(pid, had)``: whether to keep a further connection to this worker.

    Raises:
        Failed: there were not enough in time.
    """
    kept: list[tuple[int, socket.socket]] = []
    spare: list[socket.socket] = []
    had: Counter[int] = Counter()
    deadline = time.monotonic() + timeout
    while len(kept) < count:
        if time.monotonic() > deadline:
            raise Failed(f"connections are dealt out as {dict(had)}, {count} are wanted")
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            pid = _ask(sock)
        except (OSError, Failed):
            sock.close()
            continue
        if wanted(pid, had):
            had[pid] += 1
            kept.append((pid, sock))
            continue
        # While it is open its worker is a little busier than the others, and the next one goes elsewhere.
        spare.append(sock)
        if len(spare) > 16:
            spare.pop(0).close()
    for sock in spare:
        sock.close()
    order = {pid: place for place, pid in enumerate(had)}
    kept.sort(key=lambda one: order[one[0]])
    return [sock for _, sock in kept]


class Answers(msgspec.Struct):
    """The answers on one connection, or on several.

    Attributes:
        latencies: seconds of all requests begun within the measured time.
        late: how many of these were answered after its end: they do not count as throughput.
    """

    latencies: list[float] = msgspec.field(default_factory=list)
    late: int = 0

    def rate(self, seconds: float) -> float:
        """Requests per second."""
        return (len(self.latencies) - self.late) / seconds


def merged(answers: Iterable[Answers]) -> Answers:
    """Those of several connections as one, latencies sorted."""
    several = list(answers)
    return Answers(sorted(x for one in several for x in one.latencies), sum(one.late for one in several))


def load(connections: list[socket.socket], seconds: float) -> list[Answers]:
    """The results of all requests that began within this many seconds, for each connection.

    Raises:
        Failed: an answer was not 200.
    """
    clock = time.perf_counter
    epoll = select.epoll()
    sent: dict[int, float] = {}
    socks = {sock.fileno(): sock for sock in connections}
    answers = {fd: Answers() for fd in socks}
    end = clock() + seconds
    for fd, sock in socks.items():
        epoll.register(fd, select.EPOLLIN)
        sent[fd] = clock()
        sock.send(REQUEST)
    waiting = len(socks)
    while waiting:
        ready = epoll.poll(10)
        if not ready:
            raise Failed(f"{waiting} requests have no answer after 10 s")
        for fd, _ in ready:
            sock = socks[fd]
            answer = sock.recv(65536)
            now = clock()
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failed(f"answer {answer[:80]!r}")
            if len(answer.partition(b"\r\n\r\n")[2]) < 10:
                answer += sock.recv(65536)
            answers[fd].latencies.append(now - sent[fd])
            answers[fd].late += now > end
            if now < end:
                sent[fd] = now
                sock.send(REQUEST)
            else:
                waiting -= 1
    epoll.close()
    return list(answers.values())
