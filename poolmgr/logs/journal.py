"""Our log lines, written by a thread that holds nothing.

The code that writes a line may be the user's: a handler, a filter, a record factory. It may block, and it may use the
very pool that the line is about. A caller in its checkout, a release, or the member's thread would then wait for
something that only itself can give. So these note their line and go on, and a thread writes it. The line shows the
time, the place, the thread and the context (:mod:`contextvars`) in which it was noted. The thread lives as long as
there are lines.

Noting a line takes no lock and waits for nothing: the garbage collector and signal handlers may note lines anywhere.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import contextvars
import logging
import sys
import threading
from collections import deque
from typing import Any

from poolmgr import threads
from poolmgr.lazy import load
from poolmgr.native import at_fork, monotonic, time

MOST = 1000
"""Lines that may wait to be written. Further lines are dropped, and counted."""

LAST = 0.3
"""Seconds that the end of a process waits for lines that a thread is writing."""

GENERATIONS = 2
"""Writing a line may cause lines, which are written too. Lines that these cause are not."""

_generation: contextvars.ContextVar[int] = contextvars.ContextVar("poolmgr_generation", default=0)


class Line:
    """A line that was noted."""

    def __init__(self, logger: logging.Logger, level: int, event: str, extra: dict[str, object] | None, where: Any):
        self._logger, self._level, self._event, self._extra = logger, level, event, extra
        self._place = where.f_code.co_filename, where.f_lineno, where.f_code.co_name
        self._error = sys.exc_info() if level == logging.ERROR else None
        self._at = time()
        self._thread = threading.get_ident(), _name_of_this_thread()
        self._context = contextvars.copy_context()

    def write(self) -> None:
        """If the user's code raises, :mod:`logging` reports it, or the error is dropped."""
        self._context.run(self._write)

    def _write(self) -> None:
        _generation.set(_generation.get() + 1)
        logger = self._logger
        if not logger.isEnabledFor(self._level):
            return
        path, number, function = self._place
        record = logger.makeRecord(
            logger.name, self._level, path, number, self._event, (), self._error, function, self._extra
        )
        record.created, record.msecs = self._at, (self._at - int(self._at)) * 1000
        record.thread, record.threadName = self._thread
        if not logger.hasHandlers():
            with contextlib.suppress(Exception):
                record.msg = self._spelt_out()
        logger.handle(record)

    def _spelt_out(self) -> str:
        """For an application without any logging: Python then prints the message without its fields
        (``logging.lastResort``), and an event's name alone does not help the reader of a cron job's mail."""
        redaction = load("poolmgr.logs.redaction")  # rarely needed
        fields = ", ".join(f"{name}: {value}" for name, value in (self._extra or {}).items())
        text = f"{self._event} ({fields})" if fields else self._event
        return str(redaction.printable(redaction.redact(text), line=True))


def _name_of_this_thread() -> str:
    """Without the lock that ``threading.current_thread`` takes for a thread that is not one of its own."""
    found: threads.Thread | None = threading._active.get(threading.get_ident())  # type: ignore[attr-defined]
    return found.name if found is not None else ""


class Journal:
    """The lines of a process that are not written yet."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._writing: dict[int, object] = {}
        """The writer, if there is one. An entry instead of a lock: see :meth:`note`."""
        self._lost = 0
        self._patience = LAST

    def note(self, line: Line) -> None:
        """Have a line written soon. Takes no lock."""
        if len(self._lines) >= MOST:
            self._lost += 1
            return
        self._lines.append(line)
        self._begin()

    def _begin(self) -> None:
        me = object()
        if self._writing.setdefault(0, me) is not me:
            return  # that thread looks again before it ends
        try:
            if threads.allowed():
                _thread.start_new_thread(self._start, (me,))
                return
        except RuntimeError:
            pass
        self._leave(me)

    def _start(self, me: object) -> None:
        """In a thread that :mod:`threading` does not know. Its lock may be held where a line is noted, but not here."""
        if not threads.started(threads.make(self._write, "poolmgr-log", me)):
            self._leave(me)

    def _leave(self, me: object) -> None:
        if self._writing.get(0) is me:
            self._writing.pop(0, None)

    def _write(self, me: object) -> None:
        while True:
            try:
                self._write_all()
            finally:
                self._leave(me)
            if not self._lines or self._writing.setdefault(0, me) is not me:
                return

    def _write_all(self) -> None:
        while self._lines:
            try:
                line = self._lines.popleft()
            except IndexError:
                return
            try:
                line.write()
            except Exception:  # noqa: S110 (a filter's, or a record factory's)
                pass
            del line
            lost, self._lost = self._lost, 0
            if lost:
                log.warning("log.behind", extra={"lines": lost})

    def catch_up(self) -> None:
        """Where a caller holds no lock: write the lines here if no thread can be started."""
        if self._lines and not self._writing:
            self._begin()
            if not self._writing:
                self._write_all()

    def finish(self, timeout: float) -> None:
        """Wait for the thread that is writing, and write the lines that it leaves."""
        deadline = monotonic() + timeout
        while self._writing and monotonic() < deadline:
            threading.Event().wait(0.005)
        if not self._writing:
            self._write_all()

    def end(self) -> None:
        """At each step of the end of the process: :meth:`finish`, for :data:`LAST` seconds in all."""
        began = monotonic()
        self.finish(self._patience)
        self._patience = max(0.0, self._patience - (monotonic() - began))

    def forget(self) -> None:
        """In a forked child: drop the lines, which are the parent's."""
        self._lines.clear()
        self._writing.clear()
        self._lost = 0
        self._patience = LAST


_journal = Journal()
atexit.register(_journal.end)
with contextlib.suppress(RuntimeError):  # when this module is first loaded at the end
    # Before ``atexit``'s functions, which may end the user's log; and in multiprocessing's children, which call none.
    threading._register_atexit(_journal.end)  # type: ignore[attr-defined]
at_fork(after_in_child=_journal.forget)


catch_up = _journal.catch_up


class Log:
    """A logger whose lines the journal writes.

    Args:
        name: the logger's.
    """

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, *, extra: dict[str, object] | None = None) -> None:
        self._note(logging.INFO, event, extra)

    def warning(self, event: str, *, extra: dict[str, object] | None = None) -> None:
        self._note(logging.WARNING, event, extra)

    def exception(self, event: str, *, extra: dict[str, object] | None = None) -> None:
        """With the error that is being handled."""
        self._note(logging.ERROR, event, extra)

    def _note(self, level: int, event: str, extra: dict[str, object] | None) -> None:
        if _generation.get() < GENERATIONS:
            _journal.note(Line(self._logger, level, event, extra, sys._getframe(2)))


log = Log("poolmgr.logs.journal")
