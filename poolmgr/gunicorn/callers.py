"""Callers of the worker service: whether slow callers cost something, and how long they may take in worker classes
that are not ours.

:mod:`poolmgr.gunicorn.worker` reads whole requests before a thread gets them. In another class (gevent,
sync, gunicorn's own gthread) a thread or greenlet reads the body from the socket, and this module sets its deadline.
The deadline is for the whole body: a socket's own timeout would begin again with each byte.
"""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Iterable
from typing import Any

from gunicorn.http.errors import InvalidHeader
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

log = logging.getLogger("poolmgr.worker")

SERVICE = "worker.app:app"
"""The application whose callers are meant."""


HEALTH = ("/healthz", "/readyz")
"""Paths that have a thread of their own each, in which nothing else may run."""


def is_guarded(app: Any, cfg: Any) -> bool:
    """Whether :class:`poolmgr.gunicorn.worker.ThreadWorker` can serve this application so that slow callers cost
    nothing: it reads plain HTTP/1 only."""
    return (
        getattr(app, "app_uri", None) == SERVICE
        and not cfg.is_ssl
        and "h2" not in cfg.http_protocols
        and cfg.protocol == "http"
        and cfg.proxy_protocol == "off"
    )


def exposed(addresses: Iterable[object]) -> list[str]:
    """Those of gunicorn's addresses that other hosts can reach, as ``--bind`` takes them."""
    found = []
    for address in addresses:
        match address:
            case (str(host), int(port), *_) if not _is_local(host):
                found.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    return found


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def load_once(server: Any) -> None:
    """From a starting master: load the service's framework, which each worker would load otherwise.

    A worker then starts sixty milliseconds earlier, and has these pages in common with the others. Worker classes that
    replace modules of the standard library (gevent) must do so first.
    """
    if issubclass(server.worker_class, (ThreadWorker, SyncWorker)):
        import falcon  # noqa: F401


def warn_of_exposure(server: Any) -> None:
    """From a starting master: say what belongs in front of a service that others can reach."""
    for address in exposed(server.cfg.address):
        remedy = "put a proxy that buffers requests and speaks TLS in front (docs/http.md, Giving this to others)"
        if not (is_guarded(server.app, server.cfg) and getattr(server.worker_class, "GUARDS", False)):
            remedy += ", or else WORKER_CLASS=gthread and no TLS here: as it is, slow callers stop this service"
        log.warning("worker.exposed", extra={"address": address, "remedy": remedy})


class _Bounded:
    """A socket whose ``recv`` ends at a deadline; everything else is the socket's own.

    Raises TimeoutError from ``recv``.
    """

    def __init__(self, sock: Any, seconds: float) -> None:
        self.sock = sock
        self._deadline = time.monotonic() + seconds

    def recv(self, size: int) -> bytes:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the body takes too long")
        self.sock.settimeout(left)
        data: bytes = self.sock.recv(size)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def bound_body(worker: Any, req: Any, seconds: float) -> None:
    """From ``pre_request``: the body of this request must have come in so many seconds."""
    unreader: Any = getattr(req, "unreader", None)  # an HTTP/2 stream has none
    if not getattr(worker, "guarded", False) and hasattr(unreader, "sock"):
        unreader.sock = _Bounded(unreader.sock, seconds)


def check_prefix(req: Any) -> None:
    """From ``pre_request``: judge the SCRIPT_NAME of a caller that gunicorn trusts (by default one on this host).

    If the path does not begin with it, gunicorn calls that a mistake in the configuration and answers 500. If it is
    part of a health check's path, the application sees another path, and would run a command in the check's own thread.

    Raises:
        InvalidHeader: one of these is the case; the answer is a 400.
    """
    for name, value in req.headers:
        if name == "SCRIPT_NAME" and value and (not req.path.startswith(value) or req.path in HEALTH):
            raise InvalidHeader(name, req=req)


def unbound_body(req: Any) -> None:
    """From ``post_request``: the next request has its own time."""
    unreader: Any = getattr(req, "unreader", None)
    bounded = getattr(unreader, "sock", None)
    if isinstance(bounded, _Bounded):
        unreader.sock = bounded.sock
