"""A supervisor of the test's own: speaks poolmgr.wire on a Unix socket, and does as it is told."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time

from poolmgr import wire
from tests.helpers import wait_for

KEY = "tcp://server:1"
ENDPOINT = wire.Endpoint(key=KEY, host="server", port=1)
ALIAS = wire.Endpoint(key="tcp://alias:1", host="alias", port=1)


class FakeSupervisor:
    """Accepts members in a thread.

    Args:
        path: where it listens.
        limit: the limit told in answer to a registration and an attach; None: no answer.
        generous: whether a report of one who waits is answered by a limit larger by as many.
        server: what every endpoint is resolved to.
    """

    def __init__(self, path, *, limit: int | None = 2, generous=False, server="tcp://server:1"):
        self.path = str(path)
        self.limit = limit
        self.generous = generous
        self.server = server
        self.received: list[wire.Message] = []
        self.silent = False
        self.listening = threading.Event()
        """Cleared: it reads nothing more."""
        self.listening.set()
        self.seq = 0
        self.told = 0
        self.links: list[socket.socket] = []
        self.accepted = 0
        self._lock = threading.Lock()  # guards seq and the order of what is told
        self._answering = threading.local()  # ``link``: the one whose messages this thread answers, which may be closed
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.links.append(sock)
            self.accepted += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock):
        decoder = wire.Decoder(wire.FromMember)
        self._answering.link = sock
        while True:
            self.listening.wait()
            try:
                data = sock.recv(65536)
            except OSError:
                return
            if not data:
                return
            for message in decoder.feed(data):
                self.received.append(message)
                if not self.silent:
                    with contextlib.suppress(OSError):
                        self._answer(message)

    def _answer(self, message):
        match message:
            case wire.Hello(endpoints=endpoints):
                with self._lock:
                    self.seq = 0
                self.say(wire.Welcome(wire.VERSION, os.getpid()))
                for endpoint in endpoints:
                    self.say(wire.Resolved(endpoint.key, self.server))
                if endpoints and self.limit is not None:
                    self.tell(self.limit)
            case wire.Attach(endpoint=endpoint):
                self.say(wire.Resolved(endpoint.key, self.server))
                if self.limit is not None:
                    self.tell(self.limit)
            case wire.Report(waiting=waiting, open=opened) if self.generous and waiting:
                if opened + waiting > self.told:
                    self.tell(opened + waiting)
            case wire.Ping(nonce=nonce):
                self.say(wire.Pong(nonce))

    def say(self, message):
        link = getattr(self._answering, "link", None) or wait_for(lambda: self.links)[-1]
        link.sendall(wire.encode(message))

    def tell(self, limit):
        with self._lock:
            self.seq += 1
            self.told = limit
            self.say(wire.Limit(self.server, self.seq, limit))
            return self.seq

    def of(self, kind):
        return [message for message in list(self.received) if isinstance(message, kind)]

    @property
    def report(self):
        """The newest report; an empty one before the first."""
        return next(reversed(self.of(wire.Report)), wire.Report("", 0))

    def cut(self):
        """Close all links."""
        for sock in [self.links.pop(0) for _ in range(len(self.links))]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def stop(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


class FakePool:
    """A pool whose sockets are real: pairs, or connections to the server with the Unix socket ``address``."""

    name = "fake"
    descriptors = 1

    def __init__(self, member, endpoint, ceiling=100, address=None):
        from poolmgr.member.ports import Usage
        from poolmgr.wire import Counters

        self._usage, self._counters = Usage, Counters
        self.ceiling = ceiling
        self.address = address
        self.lent: list[tuple] = []
        self.idle: list[tuple] = []
        self.peers: list[socket.socket] = []
        self.waiting = 0
        self.grown = 0
        self.low = 0
        self.active_at = time.monotonic()
        self.on_grow = lambda: None
        self.permits = member.attach(endpoint, self)

    def usage(self, *, reset):
        low = self.low
        if reset:
            self.low = len(self.idle)
        quiet = time.monotonic() - self.active_at
        return self._usage(len(self.lent), len(self.idle), self.waiting, low, quiet, self.ceiling, 5.0)

    def grow(self):
        self.grown += 1
        self.on_grow()

    def shed(self, count):
        taken = self.idle[:count]
        del self.idle[:count]
        for permit, sock in taken:
            permit.close(sock)
        return len(taken)

    def tick(self, now):
        return 1.0

    def counters(self):
        return self._counters(created=len(self.lent))

    def open(self):
        permit = self.permits.take()
        if permit is None:
            return False
        if self.address is None:
            ours, theirs = socket.socketpair()
            self.peers.append(theirs)
        else:
            ours = socket.socket(socket.AF_UNIX)
            ours.connect(self.address)
            ours.sendall(f"CLIENT SETNAME {permit.name}\r\n".encode())
            assert ours.recv(100) == b"+OK\r\n"
        self.lent.append((permit, ours))
        self.active_at = time.monotonic()
        return True

    def release(self):
        permit, sock = self.lent.pop()
        self.active_at = time.monotonic()
        if self.permits.surplus > 0 and self.permits.give_up():
            permit.close(sock)
        else:
            self.idle.append((permit, sock))


def account(pool):
    return pool.permits.dispatcher.account


def filled(pool, count):
    """Open ``count`` connections."""
    wait_for(lambda: account(pool).seq)
    for _ in range(count):
        wait_for(pool.open, step=0.0005)
    return pool
