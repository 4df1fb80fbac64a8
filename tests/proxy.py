"""A TCP proxy that can do what networks and servers do on bad days."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any


class Proxy:
    """Listens on a port of 127.0.0.1 and passes bytes to ``target``, as long as it is told to.

    Attributes:
        port: where it listens.
        accepted: connections it has accepted.
        accepted_at: when (monotonic seconds).
        stalled: new connections are accepted by it and go nowhere: nobody answers.
        frozen: nothing is passed on, in either direction; nothing is closed (a pulled cable).
        forgotten: what connections that have ever said this say is read, and not passed on; empty: all is.
        forgets_new: those that are made later are forgotten too.
        answer: instead of passing on what arrives, answer this to every read.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.accepted_at: list[float] = []
        self.stalled = False
        self.frozen = False
        self.answer: bytes | None = None
        self.forgotten = b""
        self.forgets_new = False
        self._said: dict[socket.socket, bytes] = {}
        self._old: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._pairs: dict[socket.socket, socket.socket | None] = {}
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._lock = threading.Lock()  # guards _pairs and the selector's registrations
        self._selector.register(self._wake, selectors.EVENT_READ)
        self.port = self._listen(0)
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _listen(self, port: int) -> int:
        listener = socket.create_server(("127.0.0.1", port), backlog=512)
        listener.setblocking(False)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        return int(listener.getsockname()[1])

    # ---- faults ----------------------------------------------------------------------------------

    def cut(self, *, abruptly: bool = False) -> int:
        """Close all connections; how many. ``abruptly``: with a reset."""
        with self._lock:
            pairs, self._pairs = self._pairs, {}
            for sock in pairs:
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(sock)
                if abruptly:
                    with contextlib.suppress(OSError):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
                sock.close()
        self._poke()
        return len(pairs)

    def forget(self, mark: bytes, *, new: bool = False) -> None:
        """A middlebox forgets connections that have said this, and acknowledges what comes on them."""
        with self._lock:
            self._old = set(self._pairs)
            self.forgotten, self.forgets_new = mark, new

    def _forgets(self, sock: socket.socket, other: socket.socket | None) -> bool:
        if not self.forgotten:
            return False
        for end in (sock, other):
            if end is not None and self.forgotten in self._said.get(end, b""):
                return self.forgets_new or end in self._old
        return False

    def refuse(self) -> None:
        """Nobody listens any more, and what there was is cut."""
        with self._lock:
            listener, self._listener = self._listener, None
            if listener is not None:
                self._selector.unregister(listener)
                listener.close()
        self.cut()

    def restore(self) -> None:
        """As if nothing had been."""
        with self._lock:
            self.stalled = self.frozen = False
            self.forgotten = b""
            self.answer = None
            if self._listener is None:
                self._listen(self.port)
        self._poke()

    @property
    def accepted(self) -> int:
        return len(self.accepted_at)

    @property
    def open(self) -> int:
        """Connections of clients that it holds."""
        with self._lock:
            return sum(1 for sock in self._pairs if sock.getsockname()[1] == self.port)

    # ---- work ------------------------------------------------------------------------------------

    def _poke(self) -> None:
        self._waker.send(b"x")

    def _run(self) -> None:
        while not self._ended:
            left = False
            for key, _ in self._selector.select(0.02 if self.frozen else None):
                sock: Any = key.fileobj
                if sock is self._wake:
                    with contextlib.suppress(BlockingIOError):
                        sock.recv(4096)
                elif sock is self._listener:
                    self._accept(sock)
                elif not self.frozen:
                    self._pass_on(sock)
                else:
                    left = True
            if left:
                time.sleep(0.02)  # what is not read stays readable, and would be found again at once

    def _accept(self, listener: Any) -> None:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        self.accepted_at.append(time.monotonic())
        server = None
        if not self.stalled and self.answer is None:
            try:
                server = socket.create_connection(("127.0.0.1", self.target), 5)
            except OSError:
                client.close()
                return
        with self._lock:
            self._pairs[client] = server
            self._selector.register(client, selectors.EVENT_READ)
            if server is not None:
                self._pairs[server] = client
                self._selector.register(server, selectors.EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        with self._lock:
            if sock not in self._pairs:
                return
            other = self._pairs[sock]
            try:
                data = sock.recv(65536)
                self._said[sock] = (self._said.get(sock, b"") + data)[:4096]
                if data and self._forgets(sock, other):
                    return
                if data and self.answer is not None:
                    sock.sendall(self.answer)
                elif data and other is not None:
                    other.sendall(data)
            except OSError:
                data = b""
            if data:
                return
            for end in (sock, other):
                if end is not None and end in self._pairs:
                    del self._pairs[end]
                    self._selector.unregister(end)
                    end.close()

    def stop(self) -> None:
        self.refuse()
        self._ended = True
        self._poke()
        self._thread.join()
        self._wake.close()
        self._waker.close()
        self._selector.close()


@contextlib.contextmanager
def proxy_to(port: int) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    proxy = Proxy(port)
    try:
        yield proxy
    finally:
        proxy.stop()
