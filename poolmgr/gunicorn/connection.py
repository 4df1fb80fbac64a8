"""A caller's connection to the worker service, with the request that is coming in on it.

gunicorn's parser reads from a socket and waits for it. :class:`Caller` lets :mod:`poolmgr.gunicorn.worker` read
instead, and gives the parser what has arrived. Nothing here waits, or decides when a connection ends.
"""

from __future__ import annotations

import socket
from collections import deque
from typing import Any

from gunicorn import http
from gunicorn.http.unreader import SocketUnreader
from gunicorn.workers import gthread

from poolmgr.errors import BodyTooLongError
from poolmgr.gunicorn.intake import Intake, Limits


class Caller(gthread.TConn):  # type: ignore[misc]
    """A connection, with the request that is coming in on it."""

    parser: Any

    def __init__(self, cfg: Any, sock: socket.socket, client: Any, server: Any, limits: Limits) -> None:
        super().__init__(cfg, sock, client, server)
        self._limits = limits
        self.unreader = _Taken(sock)
        self.deadline = 0.0
        self.watched = False  # whether the poller has it
        self.held = 0  # bytes that count for MEMORY
        self.discarded = 0
        self.next_request()

    def next_request(self) -> None:
        self.intake = Intake(self._limits)
        self.continued = False

    def hand_over(self) -> None:
        """To a thread: gunicorn reads what has arrived."""
        self.unreader.pieces.extend(self.intake.pieces)
        self.intake.pieces.clear()
        if self.parser is None:
            self.parser = http.get_parser(self.cfg, self.sock, self.client)
            self.parser.unreader = self.unreader
            self.initialized = self.data_ready = True

    def rest(self) -> bytes:
        """What came after the request that was answered."""
        found: bytes = self.unreader.take_buffered() + b"".join(self.unreader.pieces)
        self.unreader.pieces.clear()
        return found

    @property
    def remote(self) -> str:
        return str(self.client[0]) if isinstance(self.client, tuple) and self.client else ""


class _Taken(SocketUnreader):  # type: ignore[misc]
    """Gives gunicorn's parser what the main loop has read, and then the end: it never waits."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.pieces: deque[bytes] = deque()

    def chunk(self, size_hint: int | None = None) -> bytes:
        return self.pieces.popleft() if self.pieces else b""


class TooLong:
    """A body that is too long. Only enough of it was read to show that."""

    def read(self, size: int = -1) -> bytes:
        raise BodyTooLongError

    readline = readlines = __iter__ = read
