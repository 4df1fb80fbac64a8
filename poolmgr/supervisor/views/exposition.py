"""``/metrics`` over HTTP, for Prometheus.

:class:`MetricsServer` serves in threads of its own, so that a slow scraper never holds up the ledger. The event loop
only supplies a :class:`~poolmgr.supervisor.views.metrics.Reading`, which it puts together between two turns. Clients
can only read, and they are not authenticated: use an address that is reachable only by those who may know how busy the
host is.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from poolmgr.settings.parsers import split_host_port
from poolmgr.supervisor.logs import Limited, log
from poolmgr.supervisor.views.metrics import Reading, families

if TYPE_CHECKING:
    from prometheus_client.core import Metric

READ_WITHIN = 5.0
"""Seconds for which a scrape waits for the event loop."""

RETRY = 5.0
"""Seconds until an occupied address is tried again: the previous supervisor may still have it."""

PATIENCE = 10.0
"""Seconds a client may take for its request."""

AT_ONCE = 8
"""Scrapes served at the same time; more are turned away."""

limited = Limited(burst=1, period=300.0)


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the base class's name)
        """A scrape every few seconds is not an event."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 16

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._places = threading.BoundedSemaphore(AT_ONCE)
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Without the base class's question to the name service for the host's full name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is its own affair."""


class MetricsServer:
    """Serves ``/metrics`` at ``address`` from the moment it is started, as long as the process lives.

    Args:
        address: ``HOST:PORT``.
        read: called in the event loop's thread.
    """

    def __init__(self, address: str, read: Callable[[], Reading]) -> None:
        self._address = address
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._ended = threading.Event()
        self._server: _Server | None = None
        self.port = 0
        """Where it listens; 0 before."""

    def start(self) -> None:
        """Return at once; an unavailable address is logged and tried again."""
        threading.Thread(target=self._main, name="metrics", daemon=True).start()

    def stop(self) -> None:
        """Give the address back."""
        self._ended.set()
        server = self._server
        if server is not None:
            with contextlib.suppress(OSError):  # it is closed already
                server.socket.shutdown(socket.SHUT_RDWR)  # wakes the serving thread, which closes it

    def _main(self) -> None:
        try:
            import prometheus_client  # noqa: F401 (slow to load: nothing waits for it here)
        except ImportError:
            limited(
                "metrics.unavailable",
                logging.ERROR,
                address=self._address,
                error="prometheus-client is not installed: pip install 'redis-poolmgr[metrics]'",
            )
            return
        host, port = split_host_port(self._address)
        while not self._ended.is_set():
            try:
                server = _Server(host, port)
            except OSError as error:
                limited(
                    "metrics.unavailable",
                    address=self._address,
                    error=error.strerror or str(error),
                    remedy="end the process that listens there, or set POOLMGR_METRICS to another HOST:PORT, or to off",
                )
                self._ended.wait(RETRY)
                continue
            server.set_app(self._application)
            # It is closed here and nowhere else: a thread that polls a descriptor closed by another thread keeps the
            # file open, and then polls whatever gets that descriptor next.
            with server:
                self._server, self.port = server, server.server_port
                log.info("metrics.served", extra={"address": self._address})
                while not self._ended.is_set():
                    server.handle_request()
            return

    def _application(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

        path = environ.get("PATH_INFO", "")
        if path not in ("/", "/metrics"):
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"/metrics is here, and nothing else\n"]
        try:
            reading = self._ask()
        except (TimeoutError, RuntimeError) as error:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"the supervisor's loop does not answer ({type(error).__name__})\n".encode()]
        registry = CollectorRegistry()
        registry.register(_Once(reading))
        if os.path.exists("/proc/self/stat"):
            ProcessCollector(registry=registry)
        application: Any = make_wsgi_app(registry)
        found: Iterable[bytes] = application(environ, start_response)
        return found

    def _ask(self) -> Reading:
        """The event loop's reading.

        Raises:
            TimeoutError: it did not come in time.
            RuntimeError: the loop has ended.
        """
        answer: concurrent.futures.Future[Reading] = concurrent.futures.Future()

        def read() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(self._read())
                except Exception as error:  # sent to the scraper, not to the loop
                    answer.set_exception(RuntimeError(str(error)))

        self._loop.call_soon_threadsafe(read)
        try:
            return answer.result(READ_WITHIN)
        finally:
            answer.cancel()


class _Once:
    """A collector of one reading."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def collect(self) -> Iterable[Metric]:
        return families(self._reading)
