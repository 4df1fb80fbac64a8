"""A small member of its own for the supervisor's tests: raw sockets, the protocol, nothing of the library.

It lives in the test's process, and the test drives it by hand. :mod:`tests.member_process` has one that can be killed.
"""

from __future__ import annotations

import contextlib
import functools
import json
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from poolmgr import own_tag, tags, wire
from tests.stopwatch import Stopwatch


def endpoint_of(path: str = "", port: int = 0, password: str | None = None, host: str = "127.0.0.1") -> wire.Endpoint:
    if path:
        return wire.Endpoint(key=f"unix://{path}", path=path, password=password)
    return wire.Endpoint(key=f"tcp://{host}:{port}", host=host, port=port, password=password)


class Connection:
    """A named connection to a server: only so much that it is one."""

    def __init__(self, endpoint: wire.Endpoint, name: str) -> None:
        if endpoint.path:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.connect(endpoint.path)
        else:
            self.sock = socket.create_connection((endpoint.host, endpoint.port))
        self.sock.settimeout(5)
        if endpoint.password is not None:
            self.call("AUTH", endpoint.password)
        self.answer = self.call("CLIENT", "SETNAME", name)

    def call(self, *words: str) -> bytes:
        data = b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words)
        self.sock.sendall(data)
        return self.sock.recv(65536)

    def close(self) -> None:
        """Rule M3."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            while self.sock.recv(4096):
                pass
        self.sock.close()


def _readable(sock: socket.socket, timeout: float) -> bool:
    """``select`` cannot look at descriptors above 1,023."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class FakeMember:
    """A member by hand. ``limits``: newest (sequence, limit) by server."""

    def __init__(self, socket_path: str, *, tag: str = "", title: str = "fake") -> None:
        self.socket_path = socket_path
        if tag:
            self.tag = tag
        self.scope = ""
        self.title = title
        self.link = 0
        self.sock: socket.socket | None = None
        self.limits: dict[str, tuple[int, int]] = {}
        self.resolved: dict[str, str] = {}
        self.inbox: list[wire.Message] = []
        self.open: dict[str, list[Connection]] = {}
        self.serial = 0
        self._decoder = wire.Decoder(wire.FromSupervisor)
        self.numbered: set[str] = set()
        """Servers for which the newest link has told a limit."""
        self._lock = threading.Lock()
        self._obeys: tuple[str, int] | None = None
        self.ended = False

    @functools.cached_property
    def tag(self) -> str:
        """One that only asks for a status needs none."""
        return own_tag.make(self.socket_path)

    def connect(self) -> FakeMember:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        watch: Stopwatch | None = None
        while True:
            try:
                self.sock.connect(self.socket_path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                watch = watch or Stopwatch()
                if watch.exceeds(10):
                    raise
                time.sleep(0.005)
        self.ended = False
        self._decoder = wire.Decoder(wire.FromSupervisor)
        return self

    def send(self, message: wire.Message) -> None:
        assert self.sock is not None
        try:
            self.sock.sendall(wire.encode(message))
        except (BrokenPipeError, ConnectionResetError):  # a supervisor that was killed: reading tells
            pass

    def hello(self, *endpoints: wire.Endpoint, **fields: Any) -> FakeMember:
        """Register with what is held."""
        self.link = fields.pop("link", self.link + 1)
        self.numbered.clear()
        holds = tuple(
            wire.Hold(
                server,
                tuple(key for key, known in self.resolved.items() if known == server),
                max(self.limits.get(server, (0, 0))[1], len(self.open.get(server, ()))),
                len(self.open.get(server, ())),
            )
            for server in set(self.resolved.values())
        )
        self.send(
            wire.Hello(
                fields.pop("tag", self.tag),
                self.link,
                holds=holds,
                endpoints=endpoints,
                title=self.title,
                scope=fields.pop("scope", self.scope),
                **fields,
            )
        )
        return self

    def comes_back(self, *endpoints: wire.Endpoint) -> FakeMember:
        """Register once more, on another link."""
        self.close()
        return self.connect().hello(*endpoints)

    def attach(self, endpoint: wire.Endpoint) -> FakeMember:
        self.send(wire.Attach(endpoint))
        return self

    def read(self, timeout: float = 0.0) -> list[wire.Message]:
        """What has come; keeps limits up to date, acknowledges nothing."""
        with self._lock:
            return self._read(timeout)

    def obey(self, server: str, in_use: int = 0) -> FakeMember:
        """From now on answer everything at once, in a thread: this much is in use, the rest may go."""
        first = self._obeys is None
        self._obeys = server, in_use
        if first:
            threading.Thread(target=self._obey, daemon=True).start()
        self.report(server, in_use=in_use, open=in_use)
        return self

    def _obey(self) -> None:
        with contextlib.suppress(OSError, ValueError, AssertionError):
            while not self.ended:
                got = self.read(0.02)
                if self._obeys and any(isinstance(message, wire.Limit | wire.Ask) for message in got):
                    server, in_use = self._obeys
                    held = min(in_use, self.limit(server))
                    self.report(server, in_use=held, open=held, spare=self.limit(server) - held)

    def _read(self, timeout: float) -> list[wire.Message]:
        assert self.sock is not None
        got: list[wire.Message] = []
        while _readable(self.sock, timeout):
            timeout = 0.0
            try:
                data = self.sock.recv(1 << 20)
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = True
                break
            for message in self._decoder.feed(data):
                got.append(message)
                if isinstance(message, wire.Limit):
                    self.numbered.add(message.server)
                    self.limits[message.server] = message.seq, message.limit
                elif isinstance(message, wire.Welcome):
                    self.scope = message.scope
                elif isinstance(message, wire.Resolved):
                    self.resolved[message.endpoint] = message.server
        self.inbox += got
        return got

    def until(self, found: Callable[[FakeMember], Any], timeout: float = 10.0, what: str = "") -> Any:
        """Read until ``found(self)``."""
        watch = Stopwatch()
        while True:
            value = found(self)
            if value:
                return value
            if watch.exceeds(timeout) or (self.ended and not found(self)):
                raise AssertionError(f"not within {timeout} s: {what}; inbox {self.inbox[-8:]}, ended {self.ended}")
            self.read(0.1)

    def last(self, kind: type[Any]) -> Any:
        return next((message for message in reversed(self.inbox) if isinstance(message, kind)), None)

    @property
    def gone(self) -> set[int]:
        """The serials of connections that it was told to be gone."""
        return {serial for message in self.inbox if isinstance(message, wire.Gone) for serial in message.serials}

    def limit(self, server: str) -> int:
        return self.limits.get(server, (0, 0))[1]

    def report(self, server: str, *, in_use: int = 0, waiting: int = 0, acked: int | None = None, **more: Any) -> None:
        seq = self.limits.get(server, (0, 0))[0] if acked is None else acked
        opened = more.pop("open", len(self.open.get(server, ())))
        self.send(wire.Report(server, seq, open=opened, in_use=in_use, waiting=waiting, peak=in_use + waiting, **more))

    def fails(self, server: str, error: str = "Connection refused", **more: Any) -> FakeMember:
        """Tell of a failed connect, by an attempt that began just now."""
        self.send(wire.Trouble(server, "unreachable", error, began=time.monotonic(), **more))
        return self

    def grow(self, server: str, wanted: int, timeout: float = 10.0) -> int:
        """Demand ``wanted`` until the limit allows them; the limit."""
        self.report(server, in_use=len(self.open.get(server, ())), waiting=wanted)
        self.until(lambda m: m.limit(server) >= wanted, timeout, f"limit {wanted}")
        self.report(server, in_use=wanted, open=wanted)
        return self.limit(server)

    def dial(self, endpoint: wire.Endpoint) -> Connection:
        """Open one connection with a name."""
        server = self.resolved.get(endpoint.key, endpoint.key)
        self.serial += 1
        connection = Connection(endpoint, tags.name(self.tag, self.serial, self.scope))
        self.open.setdefault(server, []).append(connection)
        return connection

    def ask(self, question: wire.Message) -> wire.Answer:
        before = sum(isinstance(m, wire.Answer) for m in self.inbox)
        self.send(question)
        self.until(lambda m: sum(isinstance(x, wire.Answer) for x in m.inbox) > before, what="an answer")
        answer = self.last(wire.Answer)
        assert isinstance(answer, wire.Answer)
        return answer

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask(wire.Query("status")).body)
        return found

    def close(self) -> None:
        if self.sock is not None:
            self.sock.close()
            self.sock = None
