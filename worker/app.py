"""The WSGI application: ``worker.app:app``.

It speaks the REST protocol of Upstash's clients (``docs/http.md``) and two paths for health checks. This
file only connects the parts: :mod:`worker.protocol` parses requests, :mod:`worker.policy` judges them,
:mod:`worker.execute` runs them. Importing it connects to nothing and starts nothing, so it may be
preloaded.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.parse import quote

import falcon

from poolmgr import SettingsError
from poolmgr.errors import BodyTooLongError
from poolmgr.settings import Settings, load
from worker import answer, protocol
from worker.auth import Gate
from worker.errors import Problem, problem
from worker.execute import Runner

log = logging.getLogger("poolmgr.worker")

MAX_COMMANDS = 1000
"""Most commands in one pipeline or transaction."""

FRESH = 0.5
"""Seconds for which one answer of Redis serves all requests of ``/readyz``, which any caller may send at any rate."""

SLOWEST = 1 << 20
"""Bytes a second that a caller must take of a long answer, beyond WORKER_REQUEST_TIMEOUT."""

_METHODS = ("GET", "POST", "PUT", "HEAD")


class Service:
    def __init__(self, settings: Settings) -> None:
        self.max_body = settings.worker_max_body
        self.max_answer = settings.worker_max_reply * 3 // 2
        self.patience = settings.worker_request_timeout
        self._verdict = -FRESH, False  # when Redis was last asked for /readyz, and whether it answered
        self.gate = Gate(settings)
        self.runner = Runner(
            settings.socket_timeout,
            max_reply=settings.worker_max_reply,
            readonly_scripts=settings.worker_readonly_scripts,
        )

    # ---- the protocol --------------------------------------------------------------------------

    def command(self, req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
        """Everything without another route: ``POST /`` and the path style."""
        readonly = self._admit(req)
        path = _raw_path(req)
        if path in ("", "/"):
            _only(req, "POST")
            command = protocol.command_of(self._body(req))
        else:
            _only(req, *_METHODS)
            command = protocol.command_of_path(path, req.query_string, self._body(req))
        reply = self.runner.run([command], readonly=readonly, caller=_caller(req))[0]
        body, is_error = answer.of_one(reply, _encoder(req), self.max_answer)
        if is_error:
            resp.status = 400
        self._answer(req, resp, body)

    def pipeline(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._many(req, resp, atomic=False)

    def transaction(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._many(req, resp, atomic=True)

    def _many(self, req: falcon.Request, resp: falcon.Response, *, atomic: bool) -> None:
        readonly = self._admit(req)
        _only(req, "POST")
        commands = protocol.commands_of(self._body(req), MAX_COMMANDS)
        replies = self.runner.run(commands, readonly=readonly, atomic=atomic, caller=_caller(req))
        self._answer(req, resp, answer.of_many(replies, _encoder(req), self.max_answer))

    # ---- what all requests have in common ------------------------------------------------------

    def _admit(self, req: falcon.Request) -> bool:
        """Whether the caller may only read.

        Raises:
            Problem: the caller has no valid token, or wants something that is not offered.
        """
        _take_in(req, self.patience)
        readonly = self.gate.readonly(req.get_header("Authorization"), req.query_string)
        wanted = req.get_header("Upstash-Response-Format")
        if wanted is not None and wanted.strip().lower() != "json":
            raise Problem(400, f"ERR Upstash-Response-Format {wanted!r} is not supported: replies are JSON")
        return readonly

    def _body(self, req: falcon.Request) -> bytes:
        length = req.content_length
        if length is not None and length > self.max_body:
            raise self._too_long()
        if length is None and req.get_header("Transfer-Encoding") is None:
            return b""
        stream = req.env["wsgi.input"]
        wanted = self.max_body + 1 if length is None else length
        body = b""
        while len(body) < wanted:
            try:
                part = stream.read(wanted - len(body))
            except TimeoutError:
                raise Problem(
                    408, f"ERR the body did not come within {self.patience:g} s (WORKER_REQUEST_TIMEOUT)"
                ) from None
            except BodyTooLongError:
                raise self._too_long() from None
            except Exception as error:  # a reset, or malformed chunks: the caller's fault, whatever gunicorn calls it
                raise Problem(400, f"ERR the body cannot be read: {str(error) or type(error).__name__}") from None
            if not part:
                break
            body += part
        if len(body) > self.max_body:
            raise self._too_long()
        if length is not None and len(body) < length:
            raise Problem(400, f"ERR the body ends after {len(body)} of {length} bytes")
        return body

    def _answer(self, req: falcon.Request, resp: falcon.Response, body: bytes) -> None:
        resp.data = body
        _take_in(req, self.patience + len(body) / SLOWEST)

    def _too_long(self) -> Problem:
        return Problem(413, f"ERR the body is longer than {self.max_body} bytes (WORKER_MAX_BODY)")

    # ---- health --------------------------------------------------------------------------------

    def healthy(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._admit_anyone(req)
        resp.data = protocol.to_json({"status": "ok"})

    def ready(self, req: falcon.Request, resp: falcon.Response) -> None:
        self._admit_anyone(req)
        asked, is_ready = self._verdict
        if time.monotonic() - asked > FRESH:
            try:
                self.runner.ping()
                is_ready = True
            except Exception as error:
                log.warning("worker.unready", extra={"error": str(error)})
                is_ready = False
            self._verdict = time.monotonic(), is_ready
        if not is_ready:
            raise Problem(503, "Redis cannot be reached", retry_after=1)  # no token was asked for: no detail
        resp.data = protocol.to_json({"status": "ok"})

    def _admit_anyone(self, req: falcon.Request) -> None:
        _only(req, "GET", "HEAD")
        sock = _caller(req)
        if sock is not None and sock.gettimeout() is None:  # the worker may have set a shorter one
            sock.settimeout(self.patience)


class _Any:
    """A route that answers every method itself, so that a wrong method gets our own error text."""

    def __init__(self, respond: Any) -> None:
        for method in falcon.COMBINED_METHODS:
            setattr(self, f"on_{method.lower()}", respond)


def _only(req: falcon.Request, *methods: str) -> None:
    if req.method not in methods:
        allow = ", ".join(methods)
        raise Problem(405, f"ERR {req.method} is not allowed here; allowed: {allow}", allow=allow)


def _raw_path(req: falcon.Request) -> str:
    """The path as it was sent. Only gunicorn passes it on; elsewhere an encoded slash looks like a real one."""
    target = req.env.get("RAW_URI")
    if target is None:
        return quote(req.env.get("PATH_INFO", "").encode("latin-1"))
    path = str(target).partition("?")[0]
    if not path.startswith("/") and "://" in path:
        path = "/" + path.partition("://")[2].partition("/")[2]
    return path.removeprefix(req.env.get("SCRIPT_NAME", ""))


def _take_in(req: falcon.Request, seconds: float) -> None:
    """Have the caller take its answer in so many seconds: a socket's timeout bounds all of a ``sendall``."""
    sock = _caller(req)
    if sock is not None:
        sock.settimeout(seconds)


def _caller(req: falcon.Request) -> Any:
    return req.env.get("gunicorn.socket")


def _encoder(req: falcon.Request) -> protocol.Encoder:
    return protocol.encoder_for(req.get_header("Upstash-Encoding"))


def _failed(req: falcon.Request, resp: falcon.Response, error: Exception, params: dict[str, Any]) -> None:
    told = problem(error)
    if told.status == 500:
        log.error("worker.defect", exc_info=error, extra={"method": req.method})
    elif told.status == 503:
        log.warning("worker.unavailable", extra={"error": str(told)})
    resp.status = told.status
    if told.status == 401:
        resp.set_header("WWW-Authenticate", "Bearer")
    if told.allow:
        resp.set_header("Allow", told.allow)
    if told.retry_after:
        resp.set_header("Retry-After", str(told.retry_after))
    resp.data = protocol.to_json({"error": str(told)})


def _refused(req: falcon.Request, resp: falcon.Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """What Falcon itself refuses, in the shape of everything else."""
    status = falcon.http_status_to_code(error.status)
    _failed(req, resp, Problem(status if status in (400, 405) else 400, f"ERR {error.title}"), params)


def _misconfigured(req: falcon.Request, resp: falcon.Response, **_: Any) -> None:
    raise Problem(503, "this service is not configured correctly: see its log", retry_after=5)


def make(settings: Settings | None = None) -> falcon.App[Any, Any]:
    """The application. ``settings``: by default this process's.

    It is made with any environment, since gunicorn ends the whole service if a worker cannot load it. If a
    value is not allowed, it answers every request with 503.
    """
    app = falcon.App(media_type=falcon.MEDIA_JSON)
    app.add_error_handler(Exception, _failed)
    app.add_error_handler(falcon.HTTPError, _refused)
    try:
        service = Service(settings or load())
    except SettingsError as error:
        log.error("worker.misconfigured", extra={"error": str(error)})
        app.add_sink(_misconfigured, "/")
        return app
    app.add_route("/healthz", _Any(service.healthy))
    app.add_route("/readyz", _Any(service.ready))
    app.add_route("/pipeline", _Any(service.pipeline))
    app.add_route("/multi-exec", _Any(service.transaction))
    app.add_sink(service.command, "/")
    return app


app = make()
