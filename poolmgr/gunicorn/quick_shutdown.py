"""gunicorn's quick shutdown ends a worker in a bounded time, whatever its threads do."""

from __future__ import annotations

import functools
import signal
from collections.abc import Callable
from typing import Any

QUICK = 2.0
"""Seconds that a quick shutdown leaves to requests in flight."""


def bound_quick_shutdown() -> None:
    """In a worker: have SIGINT and SIGQUIT, gunicorn's quick shutdown, end it within :data:`QUICK` seconds.

    Otherwise a gthread worker ends only when its threads have finished their requests. It never ends if the signal
    arrives while its main thread holds the executor's lock, which gunicorn's handler takes too. Ctrl-C sends a second
    signal, which would interrupt that very handler. The kernel's timer ends the process without any lock of Python's.
    """
    for number in _QUIT:
        theirs = signal.getsignal(number)
        if callable(theirs):
            signal.signal(number, functools.partial(_quit_in_time, theirs))


_QUIT = signal.SIGINT, signal.SIGQUIT


def _quit_in_time(theirs: Callable[..., Any], number: int, frame: Any) -> None:
    for another in _QUIT:  # Ctrl-C reaches the worker, and the master, which sends it SIGQUIT: once is enough
        signal.signal(another, _is_quitting)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, QUICK)
    theirs(number, frame)


def _is_quitting(number: int, frame: Any) -> None:
    """Not SIG_IGN: Python would complain that a signal that has already arrived is ignored."""
