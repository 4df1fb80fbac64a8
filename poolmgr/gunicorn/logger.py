"""gunicorn's ``logger_class``: its error log, its access log and the application's, each line once.

Used by :mod:`poolmgr.conf`; in a configuration of your own: ``logger_class =
"poolmgr.gunicorn.logger.GunicornLogger"``. :mod:`poolmgr.logs.structured` decides how lines look.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from datetime import timedelta
from typing import Any

from gunicorn import glogging

from poolmgr.errors import SettingsError
from poolmgr.gunicorn.checks import StartError, check_binds
from poolmgr.logs.redaction import HIDDEN, printable, redact_field
from poolmgr.logs.structured import formatter, put_on_root
from poolmgr.pool import request_wait
from poolmgr.settings.table import BY_NAME

callers_log = logging.getLogger("poolmgr.worker")

LONGEST_AGENT = 2000
"""Characters of a `User-Agent`. A longer one may be as long as a head; the line then has only its length."""


class GunicornLogger(glogging.Logger):  # type: ignore[misc]
    """gunicorn's logs, and the application's, through structlog.

    gunicorn's own settings hold: ``--error-logfile``, ``--access-logfile``, syslog, and a
    log configuration of the user's, which overrides everything here. ``POOLMGR_LOG_FORMAT`` decides the
    look, ``--log-level`` or else ``POOLMGR_LOG_LEVEL`` what is logged.
    """

    def __init__(self, cfg: Any) -> None:
        """Made once, before gunicorn parses its addresses: no other code of ours sees them that early.

        Raises:
            SystemExit: with one line, if one of them is not an address.
        """
        try:
            check_binds(cfg.settings["bind"].get())
        except StartError as error:
            raise SystemExit(f"Error: {printable(str(error))}") from None
        super().__init__(cfg)

    def setup(self, cfg: Any) -> None:
        """Called at the start and again on every reload, where an exception would end the master."""
        self._format = _setting("POOLMGR_LOG_FORMAT")
        super().setup(cfg)
        # Whether the user has set a format: then the line is one text, not fields.
        self._plain_access = cfg.access_log_format != cfg.settings["access_log_format"].default
        handler = self._get_gunicorn_handler(self.error_log)
        if handler is not None and not (cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json):
            level = self.loglevel
            if cfg.loglevel == cfg.settings["loglevel"].default:
                level = self.LOG_LEVELS[_setting("POOLMGR_LOG_LEVEL")]
                self.error_log.setLevel(level)
            put_on_root(handler, level)

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: Any, stream: Any = None) -> None:
        shown = (stream or sys.stderr) if output == "-" else None
        super()._set_handler(log, output, formatter(self._format, shown), stream)

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """gunicorn reports a caller that does not take its answer like a defect, with a traceback."""
        if isinstance(sys.exception(), TimeoutError) and str(msg).startswith("Socket error processing request"):
            callers_log.info("caller.slow", extra={"remote": "", "phase": "answer", "bytes": 0})
        else:
            super().exception(msg, *args, **kwargs)

    def atoms(self, resp: Any, req: Any, environ: Any, request_time: timedelta) -> dict[str, Any]:
        """What a format of the user's own may name, without secrets."""
        found: dict[str, Any] = super().atoms(resp, req, environ, request_time)
        for name in ("{authorization}i", "{http_authorization}e", "{cookie}i", "{http_cookie}e"):
            if name in found:
                found[name] = HIDDEN
        found = {name: redact_field(value) if isinstance(value, str) else value for name, value in found.items()}
        target = str(environ.get("RAW_URI") or "")
        shown = redact_field(target)
        if shown != target:  # a token may have been taken apart, at a question mark of its own
            path, _, query = shown.partition("?")
            found |= {name: path for name in ("U", "{path_info}e") if name in found}
            found |= {name: query for name in ("q", "{query_string}e") if name in found}
        return found

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """One event ``request`` for each request, or one line of the user's own format."""
        # For a format of the user's own: %({poolmgr.waited}e)s
        waited = environ.setdefault("poolmgr.waited", request_wait.take())
        if self._plain_access:
            super().access(resp, req, environ, request_time)
            return
        if not self.access_log_enabled:
            return
        # An error in a log line must not reach the request.
        with contextlib.suppress(Exception):
            status = resp.status if isinstance(resp.status, str) else resp.status.decode("latin-1")
            code = status.split(None, 1)[0]
            fields: dict[str, Any] = {
                "method": environ.get("REQUEST_METHOD"),
                "path": printable(environ.get("RAW_URI") or environ.get("PATH_INFO") or "", line=True),
                "status": int(code) if code.isdigit() else code,
                "bytes": getattr(resp, "sent", None) or 0,
                "ms": round(request_time.total_seconds() * 1000, 2),
                "remote": environ.get("REMOTE_ADDR") or "-",
            }
            agent = environ.get("HTTP_USER_AGENT")
            if agent and len(agent) > LONGEST_AGENT:  # a part of it could be a part of a secret
                agent = f"({len(agent)} characters)"
            if agent:
                fields["agent"] = printable(agent, line=True)
            fields["waited_ms"] = round(waited * 1000, 2)
            self.access_log.info("request", extra=fields)


def _setting(name: str) -> str:
    """The value of one variable. A wrong value counts as not set here; the start reports it."""
    variable = BY_NAME[name]
    text = os.environ.get(name, "").strip()
    try:
        return str(variable.read(text) if text else variable.default_value())
    except SettingsError:
        return str(variable.default_value())
