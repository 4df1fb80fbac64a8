"""How log lines look: structlog for gunicorn, the supervisor and the command line.

The library logs to the standard :mod:`logging` with an event's name as its message and details as
``extra`` fields, so that it costs its users nothing. This module renders both: readable on a terminal,
one JSON object a line elsewhere. Lines that applications log in a worker go the same way.

No line may hold a secret, nor, on a terminal, a character that the terminal obeys
(:mod:`poolmgr.logs.redaction`). Every field is redacted, and last the rendered text of every line from every logger,
a traceback included.

This module must never be imported by the library itself: structlog is slow to load.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from typing import Any, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from poolmgr.logs.flood import FloodFilter
from poolmgr.logs.redaction import hide_environment, printable, printable_json, redact, redact_field
from poolmgr.settings import Settings

# ---- rendering -------------------------------------------------------------------------------


_encoder = msgspec.json.Encoder(enc_hook=repr)


def _to_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    fields = dict(event)
    head = {key: fields.pop(key) for key in ("timestamp", "level", "event") if key in fields}
    try:
        return printable_json(_encoder.encode({**head, **fields}).decode())
    except (TypeError, UnicodeEncodeError):  # keys that are not text, lone surrogates
        return json.dumps({**head, **fields}, default=repr, skipkeys=True)


def _drop_rendered(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Standard formatters that saw the record before left their text in it; no caller can use these names."""
    event.pop("message", None)
    event.pop("asctime", None)
    return event


def _add_pid(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()
    return event


def _redact_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact_field(value)
        elif isinstance(value, Settings):
            event[key] = repr(value)  # as JSON it would have its secrets
    return event


def _make_printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For a terminal. A caller's or a server's text must neither command it nor look like a line of ours."""
    return {
        printable(str(key), line=True): printable(value, line=key not in ("exception", "stack"))
        if isinstance(value, str)
        else value
        for key, value in event.items()
    }


def _traceback(stream: TextIO, exc_info: Any) -> None:
    text = io.StringIO()
    structlog.dev.plain_traceback(text, exc_info)
    stream.write(printable(text.getvalue()))


class _Redacting:
    """A renderer whose text is redacted."""

    def __init__(self, render: structlog.typing.Processor) -> None:
        self._render = render

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redact(str(self._render(logger, method, event)))


_OF_ALL: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
]
"""What every event gets, whether it comes from structlog or from standard logging."""


def formatter(log_format: str, stream: TextIO | None) -> logging.Formatter:
    """A formatter for standard log records.

    Args:
        log_format: ``console``, ``json`` or ``auto``, which is ``console`` if ``stream`` is a terminal.
    """
    hide_environment(os.environ)
    console = log_format == "console" or (log_format == "auto" and stream is not None and _is_terminal(stream))
    processors: list[structlog.typing.Processor] = [
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console),
        _add_pid,
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        _redact_fields,
    ]
    if console:
        processors.append(_make_printable)
        colors = stream is not None and _is_terminal(stream) and not os.environ.get("NO_COLOR")
        processors.append(
            _Redacting(
                structlog.dev.ConsoleRenderer(
                    colors=colors, sort_keys=False, pad_event_to=26, exception_formatter=_traceback
                )
            )
        )
    else:
        processors += [structlog.processors.format_exc_info, _Redacting(_to_json)]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_OF_ALL, structlog.stdlib.ExtraAdder(), _drop_rendered], processors=processors
    )


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a closed or borrowed stream
        return False


def _through_standard_logging() -> None:
    """Lines of structlog's own loggers go the way of all other lines."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_OF_ALL,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


# ---- the supervisor and the command line -----------------------------------------------------


def configure(settings: Settings, stream: TextIO | None = None) -> None:
    """Send everything that this process logs to ``stream``, by default standard error. May be repeated."""
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter(settings.log_format, stream))
    put_on_root(handler, settings.log_level.upper())


def put_on_root(handler: logging.Handler, level: str | int) -> None:
    """Make this the one handler of ours on the root logger; others' handlers stay."""
    if not any(isinstance(known, FloodFilter) for known in handler.filters):
        handler.addFilter(FloodFilter())
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "_poolmgr", False):
            root.removeHandler(old)
    handler._poolmgr = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    _through_standard_logging()
