"""One connection to the supervisor: frames out, messages in.

Any thread may send: a thread that waits for a permit writes its report itself, since waking the member's thread
first would cost more than the supervisor's answer takes. Only the member's thread reads. The core knows what
messages mean.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator

from poolmgr import wire
from poolmgr.taking import tried

_CHUNK = 65536

UNKNOWN = 0, 0


def _which(path: str) -> tuple[int, int] | None:
    """Device and inode of a file; None: there is no such file; :data:`UNKNOWN`: that cannot be seen now."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return UNKNOWN
    return found.st_dev, found.st_ino


class Link:
    """A link under its number (rule M4).

    Attributes:
        blocked: the kernel takes no more for now; the member's thread must :meth:`unblock` when it does.
    """

    def __init__(self, sock: socket.socket, number: int) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.number = number
        self.blocked = False
        self._decoder = wire.Decoder(wire.FromSupervisor)
        self._frames: deque[bytes] = deque()
        self._partial = b""
        self._lock: tuple[str, tuple[int, int]] | None = None
        """The supervisor's lock file: path, and (device, inode); None: it cannot be seen from here."""
        self._sending = threading.Lock()
        """Guards the order of bytes on the socket, and ``_partial``: held during a send that does not
        block, and never waited for."""

    def post(self, messages: Iterable[wire.Message]) -> None:
        """Put messages in line for the next :meth:`flush`, in the order of the calls."""
        for message in messages:
            self._frames.append(wire.encode(message))

    def flush(self) -> None:
        """Send what is in line, unless another thread is sending: that one looks again before it leaves."""
        while self.pending and not self.blocked:
            for free in tried(self._sending):
                if not free:
                    return
                try:
                    self._send()
                finally:
                    self._sending.release()

    @property
    def pending(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._frames or self._partial)

    def unblock(self) -> None:
        """The kernel takes bytes again."""
        self.blocked = False
        self.flush()

    def _send(self) -> None:
        """A signal handler's exception between any two steps repeats bytes at worst:
        whole frames, which are states, or a torn one, for which the supervisor drops the link."""
        while self._frames and len(self._partial) < _CHUNK:
            self._partial += self._frames[0]
            self._frames.popleft()
        try:
            sent = self.sock.send(self._partial, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            sent = len(self._partial)  # the link is broken; its reader will notice
        self._partial = self._partial[sent:]
        self.blocked = bool(self._partial)

    def receive(self) -> Iterator[wire.Message] | None:
        """Messages that have come; None at the end of the link.

        Raises:
            poolmgr.wire.WireError: while iterating, if the peer does not speak the protocol.
        """
        try:
            data = self.sock.recv(_CHUNK)
        except (BlockingIOError, InterruptedError):
            return iter(())
        except OSError:
            return None
        return self._decoder.feed(data) if data else None

    def guard(self, path: str, lock: tuple[int, int]) -> None:
        """The supervisor says which file its lock is. A container may see the socket and not the files beside it."""
        if _which(path) == lock:
            self._lock = path, lock

    def is_cut(self) -> bool:
        """Whether the supervisor has closed the link, even if the EOF is unread. Half a microsecond: Linux refuses even
        an empty send to a peer that has shut down (``unix_stream_sendmsg`` in net/unix/af_unix.c).

        It also counts as cut if the lock file's name leads elsewhere by now. Removing the directory made room for
        another supervisor, and the old one, stopped meanwhile, does not know. Then the link is ended here.
        """
        if self._lock is not None and _which(self._lock[0]) not in (self._lock[1], UNKNOWN):
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)
            return True
        try:
            self.sock.send(b"", socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return False

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()
