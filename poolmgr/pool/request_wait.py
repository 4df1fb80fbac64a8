"""How long the request at hand has waited for connections: for its log line.

A pool adds to it (:func:`add`) whenever a caller had to wait; the writer of the log line takes it
(:func:`take`), which starts over for the next request. It belongs to the thread, greenlet or task that
waited. A task's children count for themselves.
"""

from __future__ import annotations

from contextvars import ContextVar

_waited: ContextVar[float] = ContextVar("poolmgr_waited", default=0.0)


def add(seconds: float) -> None:
    """A caller has waited this long, successfully or not."""
    _waited.set(_waited.get() + seconds)


def take() -> float:
    """Seconds waited here since the last call."""
    seconds = _waited.get()
    if seconds:
        _waited.set(0.0)
    return seconds
