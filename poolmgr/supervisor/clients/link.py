"""One client of the supervisor's socket: bytes in, messages out, and bounds on both.

A frame outside the protocol drops this client and nothing else. A client that does not read is dropped when its unread
bytes grow past a bound. :mod:`poolmgr.supervisor.registrar` decides what a message means.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

from poolmgr import wire
from poolmgr.kernel.peer import Peer
from poolmgr.kernel.processes import readable
from poolmgr.supervisor.logs import Limited

UNREAD = 4 * wire.MAX_FRAME
"""Bytes that may wait for a client that does not read."""

limited = Limited()


class Receiver(Protocol):
    """Receives what clients send."""

    def received(self, link: Link, message: wire.Message) -> None: ...

    def closed(self, link: Link) -> None: ...


class Link(asyncio.Protocol):
    """A connected client. ``tag`` and ``number`` are set once it has registered."""

    def __init__(self, peer: Peer, receiver: Receiver, now: float) -> None:
        self.peer = peer
        self.pidfd = peer.pidfd
        """Follows the peer's process; -1 once another part owns it, or where there is none."""
        self.since = now
        self.tag = ""
        self.number = 0
        self.known = False
        """Whether a valid message has come; without one the client is dropped after a while."""
        self.open = False
        self._receiver = receiver
        self._decoder = wire.Decoder(wire.FromMember)
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.open = True

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._decoder.feed(data):
                self._receiver.received(self, message)
                if not self.open:
                    return
        except wire.WireError as error:
            limited("client.malformed", member=self.peer.pid, error=str(error))
            self.drop()

    def read_to_the_end(self) -> None:
        """Read what its process sent before it ended. The kernel keeps that, and no more can come; but a child that
        inherited the socket may send more, so the reading is bounded."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        left = UNREAD
        while self.open and left > 0 and sock is not None and sock.fileno() >= 0:
            try:
                data = os.read(sock.fileno(), min(left, 1 << 18))
            except OSError:  # nothing there, or reset
                return
            if not data:
                return
            left -= len(data)
            self.data_received(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The link has ended. A write may have failed because the client has closed, and its goodbye may still be
        unread."""
        if error is not None:
            self.read_to_the_end()
        self.open = False
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        self._receiver.closed(self)

    def has_spoken(self) -> bool:
        """Whether there is unread data."""
        sock = self._transport.get_extra_info("socket") if self._transport is not None else None
        return sock is not None and sock.fileno() >= 0 and readable(sock.fileno())

    def send(self, message: wire.Message) -> None:
        """Send it, or drop a client that has stopped reading."""
        self.send_frame(wire.encode(message))

    def send_frame(self, frame: bytes) -> None:
        transport = self._transport
        if transport is None or not self.open:
            return
        transport.write(frame)
        if transport.get_write_buffer_size() > UNREAD:
            limited("client.unread", member=self.peer.pid, waiting=transport.get_write_buffer_size())
            self.drop()

    def refuse(self, reason: str) -> None:
        """Send the reason and close."""
        limited("client.refused", member=self.peer.pid, uid=self.peer.uid, reason=reason)
        self.send(wire.Refused(reason))
        self.close()

    def close(self) -> None:
        """Close after pending data has been sent."""
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def drop(self) -> None:
        """Close at once."""
        self.open = False
        if self._transport is not None:
            self._transport.abort()
