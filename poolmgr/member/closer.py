"""Closing sockets so that their end is certain: rule M3.

A connection has ended when the *server* has let go of it, not when we have. So a socket is closed in
three steps: shut the write side, read to end-of-file, close. The server reads our end-of-file, frees
the client and closes; its end-of-file is the proof. ``SHUT_RDWR`` would forge that proof: after it our
own kernel returns end-of-file at once. TLS is closed below the TLS layer, and the rest is read raw:
the permit depends on the connection, not on a proper farewell.

If no proof comes within :data:`BOUND` seconds, the connection is ended all the same, and the socket is
*lost*: its permit stays counted until the supervisor has proven the end.

A user of the socket may still be reading it when another thread has it closed. Python's sockets
look up their descriptor for each system call, so it can be closed below them. OpenSSL keeps the number,
and would go on with the next file that gets it. So a descriptor below TLS is shut down, which gets its
users out, and closed once the TLS object, which all its users refer to, is freed (:func:`end`).

The member's thread and selector drive this; callers only hand sockets over. It must never count
anything itself: it reports what happened, and the core counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import stat
import weakref
from collections.abc import Callable
from typing import NamedTuple

from poolmgr.forklock import whole
from poolmgr.native import at_fork

BOUND = 1.0
"""Seconds to wait for the server's end-of-file."""

_CHUNK = 65536
_CHUNKS = 16
"""Reads of one socket in one turn, so that a server that floods us does not hold up the others."""

_PROOF = frozenset({errno.ECONNRESET, errno.EPIPE})
"""The peer has said that the connection does not exist. A timeout (ETIMEDOUT) does not say that."""

Selector = selectors.BaseSelector


class _Closing:
    __slots__ = ("deadline", "raw", "serial", "sock")

    def __init__(self, serial: int, sock: socket.socket, raw: socket.socket, deadline: float) -> None:
        self.serial = serial
        self.sock = sock
        """As it was handed over."""
        self.raw = raw
        self.deadline = deadline


class Closer:
    """All sockets of this process that are on their way out.

    Args:
        selector: the member's thread's; a key's ``data`` is called with the events and the time.
        gone: called with the serial number of a socket whose end is certain.
        lost: called with the serial number of a socket whose end is not.
    """

    def __init__(self, selector: Selector, gone: Callable[[int], None], lost: Callable[[int], None]) -> None:
        self._selector = selector
        self._gone = gone
        self._lost = lost
        self._closing: dict[int, _Closing] = {}  # by serial, hence by deadline

    def __len__(self) -> int:
        return len(self._closing)

    def add(self, serial: int, sock: socket.socket, now: float) -> None:
        """Begin to close. Ends at once if the server's end-of-file is already there, as with a dead connection."""
        try:
            raw = bare(sock)
        except (OSError, ValueError):  # already closed: a finalizer may have come first
            self._lost(serial)
            return
        closing = _Closing(serial, sock, raw, now + BOUND)
        try:
            raw.setblocking(False)
            raw.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._finish(closing, proven=error.errno == errno.ENOTCONN and _reset(raw))
            return
        if not self._read(closing):
            self._closing[serial] = closing
            self._watch(closing)

    def expire(self, now: float) -> float:
        """Give up on sockets whose time is over; when to come again."""
        while self._closing:
            closing = next(iter(self._closing.values()))
            if closing.deadline > now:
                return closing.deadline
            self._leave(closing)
            self._finish(closing, proven=False)
        return float("inf")

    def abandon(self) -> None:
        """In a forked child: close the copies of the parent's sockets, and nothing else. The selector
        is the parent's too and is not touched."""
        for closing in list(self._closing.values()):
            with contextlib.suppress(OSError):
                closing.raw.close()
        self._closing.clear()

    def disown(self) -> None:
        """All descriptors of this process have been closed: files that have their numbers now are not ours."""
        for raw in [*(closing.raw for closing in list(self._closing.values())), *list(_below)]:
            raw.detach()
        self._closing.clear()
        _below.clear()

    def _watch(self, closing: _Closing) -> None:
        def readable(events: int, now: float) -> None:
            if self._closing.get(closing.serial) is closing:
                self._read(closing)

        watch(self._selector, closing.raw, readable)

    def _read(self, closing: _Closing) -> bool:
        """Read what is there; True if the socket is done with."""
        try:
            for _ in range(_CHUNKS):
                if not closing.raw.recv(_CHUNK):
                    break
            else:
                return False
            proven = True
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            proven = error.errno in _PROOF
        self._leave(closing)
        self._finish(closing, proven=proven)
        return True

    def _leave(self, closing: _Closing) -> None:
        if self._closing.pop(closing.serial, None) is not None:
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.unregister(closing.raw)

    def _finish(self, closing: _Closing, *, proven: bool) -> None:
        end(closing.sock, closing.raw)
        (self._gone if proven else self._lost)(closing.serial)


def end(sock: socket.socket, raw: socket.socket) -> None:
    """Close a socket whose ``raw`` is from :func:`bare`; one below TLS once no thread can be in its TLS layer."""
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_RDWR)  # a thread that waits to read gets end-of-file
    if raw is not sock:
        weakref.finalize(sock, close, raw).atexit = False  # threads may be in it at exit, too
        return
    close(raw)


def close(raw: socket.socket) -> None:
    """Python forgets a descriptor's number first, and closes it without its lock: a fork must not come between."""
    with whole():
        with contextlib.suppress(OSError):
            raw.close()
        _below.discard(raw)


def watch(selector: Selector, sock: socket.socket, stirs: Callable[[int, float], object]) -> None:
    """Have ``stirs`` called, with the events and the time, when there is something to read."""
    try:
        selector.register(sock, selectors.EVENT_READ, stirs)
    except KeyError:  # a socket that had this number was closed behind our back
        selector.unregister(sock)
        selector.register(sock, selectors.EVENT_READ, stirs)


def bare(sock: socket.socket) -> socket.socket:
    """The socket without its TLS layer. A TLS object handed in is left without a descriptor.

    Raises:
        OSError, ValueError: it has none.
    """
    if not isinstance(sock, ssl.SSLSocket):
        if sock.fileno() < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return sock
    family, kind, protocol = sock.family, sock.type, sock.proto
    with whole():
        descriptor = sock.detach()
        if descriptor < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        raw = socket.socket(family, kind, protocol, fileno=descriptor)
        _below.add(raw)
    return raw


_below: set[socket.socket] = set()
"""What was below TLS (:func:`bare`) and is not closed yet. The member knows only the TLS object, which has lost its
descriptor, so a forked child finds here what to close."""


def _in_child() -> None:
    for raw in list(_below):
        with contextlib.suppress(OSError):
            raw.close()
    _below.clear()


at_fork(after_in_child=_in_child)


def discard(sock: socket.socket) -> None:
    """Close a socket that has no permit and so needs no proof of its end."""
    with contextlib.suppress(OSError, ValueError):
        end(sock, bare(sock))


class Below(NamedTuple):
    """A descriptor on which a TLS layer is being put, and the inode by which the kernel knows its socket."""

    descriptor: int
    inode: int


def below(descriptor: int) -> Below:
    """See :class:`Below`."""
    return Below(descriptor, os.fstat(descriptor).st_ino)


def never_connected(raw: socket.socket) -> bool:
    """Whether the server cannot have seen a connection. Stops an attempt that is still in progress, so that it cannot
    succeed after all (if it does, it gets a FIN, and the answer is no).

    A connection is left as it is: if it got its FIN here, the server's might come before the closer looks, and the
    closer could no longer prove the end of that socket.
    """
    if _has_peer(raw):
        return False
    with contextlib.suppress(OSError):
        raw.shutdown(socket.SHUT_WR)
    return not _has_peer(raw)


def _has_peer(raw: socket.socket) -> bool:
    """Whether it is connected, or was handed over and closed."""
    try:
        raw.getpeername()
    except OSError as error:
        return error.errno == errno.EBADF
    return True


_parents: list[ssl.SSLSocket] = []
"""In a forked child: its parent's TLS objects, kept so that none is ever freed here. OpenSSL takes locks of the whole
process for that. A thread of the parent that held one at the fork does not exist here, and never releases it."""


def close_copy(sock: socket.socket, under: Below | None = None) -> None:
    """In a forked child, before it has opened anything: close our copies of a parent's socket, and touch nothing that
    the parent uses too.

    Args:
        under: a second descriptor of the same connection; its number may be another file's by now.
    """
    if isinstance(sock, ssl.SSLSocket):
        _parents.append(sock)
    if under is not None:
        with contextlib.suppress(OSError):
            found = os.fstat(under.descriptor)
            if stat.S_ISSOCK(found.st_mode) and found.st_ino == under.inode:
                os.close(under.descriptor)
    with contextlib.suppress(OSError):
        if isinstance(sock, ssl.SSLSocket):
            os.close(sock.detach())  # close() would shut the TLS session down, which is the parent's
        else:
            sock.close()


def _reset(raw: socket.socket) -> bool:
    """Whether the peer certainly ended a socket that is not connected any more.

    A Unix socket's peer is in the same kernel: not connected is certain. Our kernel may have given a
    TCP socket up after keepalive's last probe, and then the server may still count it: only
    an error that says "reset" is certain. It is asked for by name: a read returns end-of-file if that came
    before the reset.
    """
    if raw.family == socket.AF_UNIX:
        return True
    try:
        return raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _PROOF
    except OSError:
        return False
