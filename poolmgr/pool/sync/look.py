"""One look at an idle connection's socket: whether it is stale, or has something to read that nobody has asked for."""

from __future__ import annotations

import select
import socket
import ssl
from typing import TYPE_CHECKING, Any

from poolmgr.native import poll

_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL
_READABLE = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class Looked:
    """What :class:`poolmgr.pool.sync.connection.Pooled` does before it is lent."""

    if TYPE_CHECKING:  # redis-py's, and Pooled's
        _sock: Any
        _parser: Any
        _dialled_in: int
        protocol: Any
        socket_timeout: Any

        def connect(self) -> Any: ...

        def can_read(self) -> Any: ...

    _poll: Any = None
    _eager = False
    """``connect`` or ``can_read`` is foreign, and is called for every checkout."""
    _asked = False
    """``can_read`` is foreign."""

    def _look(self) -> str:
        """Why the idle connection cannot be used, from one look at its socket; empty if it can.

        Nothing is owed, so nothing should be there to read. A push may be, under RESP3.
        """
        sock = self._sock
        if sock is None:
            return "disconnected"
        if self._eager or not self._dialled_in:
            reason = self._ask()
            sock = self._sock
            if reason or sock is None or not self._dialled_in:
                return reason
        poller = self._poll
        try:
            if poller is None:
                poller = self._poll = poll()
                poller.register(sock, _READABLE)
            events = poller.poll(0)
        except (OSError, ValueError):  # its descriptor is closed
            self._poll = None
            return "stale"
        if not events:
            return ""
        if events[0][1] & _CLOSED:
            return "stale"
        return self._peek(sock)

    def _ask(self) -> str:
        """The class's own answer, asked as redis-py asks before it lends a connection."""
        try:
            self.connect()
            ready = self.can_read() if self._asked or not self._dialled_in else False
        except Exception:  # a foreign class: whatever it raises, do not use the connection
            return "stale"
        return "dirty" if ready and self.protocol not in (3, "3") else ""

    def _peek(self, sock: Any) -> str:
        if isinstance(sock, ssl.SSLSocket):
            return self._peek_secured(sock)
        try:
            first = sock.recv(1, socket.MSG_PEEK)  # there is something: it does not block
        except OSError:
            return "stale"
        if not first:
            return "stale"
        return "" if first == b">" and self.protocol in (3, "3") else "dirty"

    def _peek_secured(self, sock: ssl.SSLSocket) -> str:
        """TLS has records of its own (session tickets), which are not data; read them away."""
        sock.settimeout(0)
        try:
            data = sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return ""
        except OSError:
            return "stale"
        finally:
            sock.settimeout(self.socket_timeout)
        if not data:
            return "stale"
        reader: Any = getattr(self._parser, "_reader", None)
        if data[:1] == b">" and self.protocol in (3, "3") and hasattr(reader, "feed"):
            reader.feed(data)
            return ""
        return "dirty"
