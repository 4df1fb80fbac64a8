"""gunicorn's threaded worker, for callers that are slow on purpose: no thread waits for one.

gunicorn's own worker gives each connection to a thread, which then reads: four callers that send half of a request stop
a worker of four threads. Here the worker's main loop reads, without waiting, and a thread gets a request when it
is whole (:mod:`poolmgr.gunicorn.intake`). So a caller that sends nothing, a byte or half a body costs a descriptor and
the memory for its bytes, until its time is over. The health checks have a thread each, so that they are answered while
all others block. The main loop also waits for connections that are closing. gunicorn's loop waits up to two
seconds for each in turn, and does nothing else meanwhile.

Why this class: gunicorn has no hook between ``accept`` and the end of a head. A socket timeout would bound
each read and not their sum, and would still hold a thread. A separate listener for health checks would only
show that *it* is alive.

The class is for the worker service only, over plain HTTP/1. Any other application, TLS, HTTP/2, uWSGI and the PROXY
protocol are served as gunicorn does it. ``WORKER_CLASS=gthread`` chooses this class (:mod:`poolmgr.conf`).
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import resource
import selectors
import socket
import sys
import time
from concurrent import futures
from functools import partial
from typing import Any

from gunicorn.http.message import MAX_REQUEST_LINE
from gunicorn.workers import gthread

from poolmgr import settings
from poolmgr.errors import SettingsError
from poolmgr.gunicorn import callers
from poolmgr.gunicorn.connection import Caller, TooLong
from poolmgr.gunicorn.intake import Limits

log = logging.getLogger("poolmgr.worker")

MEMORY = 64 << 20
"""Bytes of requests that a worker holds at most, those being answered included; or four of the longest."""

LINGER = 2.0
"""Seconds that a caller has to close after its last answer (RFC 9112, section 9.6), and that a stopping worker
gives to callers that have sent nothing."""

DISCARDED = 4 << 20
"""Most bytes that are read of such a caller in that time, so that it reads its answer and not a reset."""

SPARED = 256
"""Descriptors that callers leave to connections to Redis and everything else."""

_FULL = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_TRANSIENT = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EPROTO, errno.EINTR, errno.EPERM}


class ThreadWorker(gthread.ThreadWorker):  # type: ignore[misc]
    GUARDS = True

    worker_connections: int

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.guarded = callers.is_guarded(self.app, self.cfg)
        self._coming: dict[Caller, None] = {}  # in the order of their deadlines, as all have the same time
        self._parting: dict[Caller, None] = {}  # likewise
        self._held = 0
        self._stopping = False
        self._lanes: dict[bytes, futures.ThreadPoolExecutor] = {}

    def init_process(self) -> None:
        if self.guarded:
            try:
                found = settings.load()
            except SettingsError:  # the application reports it
                found = settings.load({})
            line = self.cfg.limit_request_line
            fields = self.cfg.limit_request_fields or 32768
            head = fields * ((self.cfg.limit_request_field_size or 8190) + 2) + 4
            self._limits = Limits(
                line=line if 0 < line < MAX_REQUEST_LINE else MAX_REQUEST_LINE, head=head, body=found.worker_max_body
            )
            self._patience = found.worker_request_timeout
            self.worker_connections = min(
                self.worker_connections, _places(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
            )
            self._memory = max(MEMORY, 4 * found.worker_max_body)
            self._lanes = {path.encode(): futures.ThreadPoolExecutor(1) for path in callers.HEALTH}
        super().init_process()

    def run(self) -> None:
        super().run()
        for lane in self._lanes.values():
            lane.shutdown(wait=False)

    # ---- a request comes in --------------------------------------------------------------------

    def accept(self, listener: Any) -> None:
        if not self.guarded:
            super().accept(listener)
            return
        try:
            sock, client = listener.accept()
        except OSError as error:
            if error.errno in _FULL:
                self._make_room("descriptors")
            elif error.errno not in _TRANSIENT:
                raise
            return
        self.nr_conns += 1
        self._expect(Caller(self.cfg, sock, client, listener.getsockname(), self._limits))
        if self.nr_conns >= self.worker_connections:
            self._make_room("connections")

    def on_client_socket_readable(self, conn: Any, client: Any) -> None:
        if not isinstance(conn, Caller):
            super().on_client_socket_readable(conn, client)
            return
        self.poller.unregister(client)
        self.keepalived_conns.remove(conn)
        self._expect(conn)

    def _expect(self, conn: Caller, rest: bytes = b"") -> None:
        """Wait for a request; ``rest`` is what has arrived of it."""
        conn.deadline = time.monotonic() + self._patience
        self._coming[conn] = None
        if rest:
            self._take(conn, rest)
        if conn in self._coming:
            self._read(conn)
        if conn in self._coming:
            self._watch(conn, self._readable)

    def _watch(self, conn: Caller, ready: Any) -> None:
        try:
            self.poller.register(conn.sock, selectors.EVENT_READ, partial(ready, conn))
            conn.watched = True
        except OSError:  # no memory for it (epoll_ctl(2))
            self._drop(conn)

    def _readable(self, conn: Caller, _sock: Any) -> None:
        self._read(conn)

    def _read(self, conn: Caller) -> None:
        try:
            data = conn.sock.recv(65536 if conn.intake.pieces else 16384)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(conn)
            return
        if data:
            self._take(conn, data)
        elif conn.intake.pieces:
            # The caller has shut its side in the middle of the body, and may still read the error.
            conn.intake.excessive = True
            self._begin(conn)
        else:
            self._drop(conn)

    def _take(self, conn: Caller, data: bytes) -> None:
        conn.held += len(data)
        self._held += len(data)
        if conn.intake.feed(data):
            self._begin(conn)
        elif conn.intake.expects and not conn.continued:
            conn.continued = True
            self._say(conn, b"HTTP/1.1 100 Continue\r\n\r\n")
        if self._held > self._memory:
            self._make_room("memory")

    def _begin(self, conn: Caller) -> None:
        """The request is whole: a thread may have it."""
        self._forget(conn)
        conn.hand_over()
        self.enqueue_req(conn)

    def enqueue_req(self, conn: Any) -> None:
        if not isinstance(conn, Caller):
            super().enqueue_req(conn)
            return
        lane = self._lane(conn) or self.tpool
        future = lane.submit(self.handle, conn)
        future.add_done_callback(lambda done: self.method_queue.defer(self.finish_request, conn, done))

    def _lane(self, conn: Caller) -> futures.ThreadPoolExecutor | None:
        return self._lanes.get(conn.intake.target.partition(b"?")[0])

    # ---- a thread answers it -------------------------------------------------------------------

    def handle_request(self, req: Any, conn: Any) -> Any:
        if not isinstance(conn, Caller):
            return super().handle_request(req, conn)
        conn.sock.settimeout(self._patience)  # for any answer, the application's or ours; a long one gets more
        if conn.intake.excessive:
            req.force_close()
        if conn.intake.too_long:
            req.body = TooLong()
        if conn.continued:
            req._expected_100_continue = False  # the caller has been told to continue
        if self._lane(conn) is not None:
            # One thread for all of them: a caller that takes no answers must not hold it for an instant.
            conn.sock.setblocking(False)
        try:
            return super().handle_request(req, conn)
        except (TimeoutError, BlockingIOError):
            log.info("caller.slow", extra={"remote": conn.remote, "phase": "answer", "bytes": conn.held})
            return False

    def _keepalive_after(self, conn: Any, keepalive: Any) -> Any:
        if isinstance(conn, Caller) and conn.intake.excessive:
            return False
        return super()._keepalive_after(conn, keepalive)

    def finish_request(self, conn: Any, fs: Any) -> None:
        if not isinstance(conn, Caller):
            super().finish_request(conn, fs)
            return
        self._held -= conn.held
        conn.held = 0
        try:
            goes_on = not fs.cancelled() and fs.result()
            conn.sock.setblocking(False)
        except Exception:  # handle() reports its errors
            self._drop(conn)
            return
        if not goes_on:
            self._part(conn)
            return
        rest = conn.rest()
        conn.next_request()
        if rest:
            self._expect(conn, rest)
            return
        conn.set_timeout()
        if not self.alive:
            conn.timeout = min(conn.timeout, time.monotonic() + LINGER)
        self.keepalived_conns.append(conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, partial(self.on_client_socket_readable, conn))

    # ---- the end of a connection ---------------------------------------------------------------

    def _forget(self, conn: Caller) -> None:
        self._coming.pop(conn, None)
        self._parting.pop(conn, None)
        if conn.watched:
            conn.watched = False
            self.poller.unregister(conn.sock)

    def _drop(self, conn: Caller) -> None:
        """At once: it has gone, or its time is over."""
        self._forget(conn)
        self._held -= conn.held
        conn.held = 0
        conn.intake.pieces.clear()
        self.nr_conns -= 1
        conn.close()

    def _part(self, conn: Caller) -> None:
        """Close so that the caller can read its answer first: shut our side, and wait for the caller to close."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)
            return
        conn.held = 0
        conn.deadline = time.monotonic() + LINGER
        self._parting[conn] = None
        if not self._discard(conn):
            self._watch(conn, self._parts)

    def _parts(self, conn: Caller, _sock: Any) -> None:
        self._discard(conn)

    def _discard(self, conn: Caller) -> bool:
        """Whether it is closed now."""
        try:
            data = conn.sock.recv(65536)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        conn.discarded += len(data)
        if data and conn.discarded < DISCARDED:
            return False
        self._drop(conn)
        return True

    def _dismiss(self, conn: Caller, status: str, message: str) -> None:
        """Answer a request that is not whole, if there is anything of it, and close."""
        if conn.intake.size:
            body = json.dumps({"error": message}).encode()
            head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            self._say(conn, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._drop(conn)

    def _say(self, conn: Caller, data: bytes) -> None:
        with contextlib.suppress(OSError):
            conn.sock.send(data)

    def _make_room(self, reason: str) -> None:
        """Close the connections of the callers that have taken longest, until there is room."""
        while self._coming:
            conn = next(iter(self._coming))
            log.warning("caller.dropped", extra={"remote": conn.remote, "bytes": conn.intake.size, "reason": reason})
            self._dismiss(conn, "503 Service Unavailable", f"too many callers send too slowly ({reason})")
            if reason != "memory" or self._held <= self._memory:
                return
        if reason != "memory" and self.keepalived_conns:
            idle = self.keepalived_conns.popleft()
            self.poller.unregister(idle.sock)
            self._drop(idle)
        elif reason == "descriptors":
            time.sleep(0.05)  # all are busy: nothing else would keep this loop from turning

    def murder_pending(self) -> None:
        """gunicorn calls this after every look at its sockets, and every second."""
        super().murder_pending()
        now = time.monotonic()
        if not self.alive and not self._stopping:
            self._hurry(now)
        while self._parting and (conn := next(iter(self._parting))).deadline < now:
            self._drop(conn)
        while self._coming and (conn := next(iter(self._coming))).deadline < now:
            if conn.intake.size:
                phase = "body" if conn.intake.pieces else "head"
                log.info("caller.slow", extra={"remote": conn.remote, "phase": phase, "bytes": conn.intake.size})
            self._dismiss(
                conn,
                "408 Request Timeout",
                f"the request did not come within {self._patience:g} s (WORKER_REQUEST_TIMEOUT)",
            )

    def _hurry(self, now: float) -> None:
        """The worker is to end: callers that have sent nothing are not waited for."""
        self._stopping = True
        for conn in self._coming:
            if not conn.intake.size:
                conn.deadline = min(conn.deadline, now + LINGER)
        self._coming = dict.fromkeys(sorted(self._coming, key=lambda conn: conn.deadline))


def _places(descriptors: int) -> int:
    """How many callers there is room for."""
    if descriptors == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(descriptors - SPARED, descriptors // 2)
