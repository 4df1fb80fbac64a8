"""A TCP proxy that counts round trips: how often each connection's client has said something and was answered.

One thread; it delays nothing on purpose. What a client sends before it reads an answer is one exchange, however many
packets the kernel makes of it.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator


class Counted:
    """One client's connection.

    Attributes:
        exchanges: what the client said, each followed by an answer.
    """

    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        self.exchanges: list[bytes] = []
        self._says = False

    def said(self, data: bytes) -> None:
        if not self._says:
            self.exchanges.append(b"")
        self.exchanges[-1] += data
        self._says = True

    def answered(self) -> None:
        self._says = False


class Proxy:
    """See the module's docstring.

    Args:
        target: the server's port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = int(self._listener.getsockname()[1])
        self.connections: list[Counted] = []
        self._ends: dict[int, tuple[Counted, socket.socket, socket.socket]] = {}
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._over = False

    def run(self) -> None:
        while not self._over:
            for fd, _ in self._poll.poll(0.1):
                if fd == self._listener.fileno():
                    self._accept()
                elif fd in self._ends:
                    self._pass_on(*self._ends[fd])

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        far = socket.create_connection(("127.0.0.1", self._target))
        made = Counted(near, far)
        self.connections.append(made)
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._ends[one.fileno()] = (made, one, other)
            self._poll.register(one, select.EPOLLIN)

    def _pass_on(self, made: Counted, one: socket.socket, other: socket.socket) -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = one.recv(1 << 16)
        if not data:
            self._poll.unregister(one)
            del self._ends[one.fileno()]
            with contextlib.suppress(OSError):
                other.shutdown(socket.SHUT_WR)
            return
        if one is made.near:
            made.said(data)
        else:
            made.answered()
        with contextlib.suppress(OSError):
            other.sendall(data)

    def end(self) -> None:
        self._over = True


@contextlib.contextmanager
def counting(target: int) -> Iterator[Proxy]:
    """A proxy to this port, until the end of the block."""
    proxy = Proxy(target)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.end()
        thread.join()
        for made in proxy.connections:
            made.near.close()
            made.far.close()
