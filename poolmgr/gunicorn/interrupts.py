"""Ctrl-C while a gunicorn master starts: it ends quietly with status 130 and leaves no process and no file behind.

gunicorn sets its own handlers only after ``on_starting``. Until then Python raises ``KeyboardInterrupt`` at any
instruction of the master: in an import, whose machinery may swallow it; after a supervisor was started and before a
process is connected to it; between making a file and taking the lock that marks its end. So from the first line of our
configuration on, the effect of an interrupt depends on what there is to clean up:

- while gunicorn reads the configuration (:func:`end_at_once`) there is nothing to clean up, and the process ends;
- after that (:func:`raise_exit`) an interrupt raises ``SystemExit``: gunicorn and the application may have to clean up;
- :func:`held_back` delays an interrupt until the end of a step, and :func:`let_through` lets it come in the waits
  that are part of that step. :data:`PATIENCE` bounds all of this.

This module only ever replaces Python's own handler, and only in a gunicorn. So a master that serves keeps gunicorn's
handlers when it reads its configuration again. Standard library only: this module is imported before anything else.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 130
"""The status that a shell reports for a process ended by SIGINT."""

PATIENCE = 3.0
"""Seconds after an interrupt within which the process ends, whatever it waits for."""

_at_once = False
_holds = 0
"""How many :func:`held_back` blocks we are in; 0 as well inside of :func:`let_through`."""
_came = False


def end_at_once() -> None:
    """From here on an interrupt ends this process on the spot. Does nothing in a master that serves."""
    global _at_once
    _at_once = _is_ours()


def raise_exit() -> None:
    """From here on an interrupt raises ``SystemExit``, if :func:`end_at_once` was called before."""
    global _at_once
    _at_once = False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """An interrupt within this block raises ``SystemExit`` at the end of the block, or at the next :func:`check`.

    Raises:
        SystemExit: an interrupt has come, within the block or earlier.
    """
    global _holds
    _is_ours()
    check()
    _holds += 1
    try:
        yield
    finally:
        _holds -= 1
    check()


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Inside :func:`held_back`: a wait that may end at any instant, so an interrupt need not wait for it.

    Raises:
        SystemExit: an interrupt has come.
    """
    global _holds
    before, _holds = _holds, 0
    try:
        check()
        yield
    finally:
        _holds = before


def check() -> None:
    """Raise the exit for an interrupt that was held back.

    Raises:
        SystemExit: there was an interrupt.
    """
    if _came:
        raise SystemExit(STATUS)


def in_child() -> None:
    """In a forked child that does a part of the start: its interrupts are its own, whatever its parent holds back."""
    global _holds
    _holds = 0
    check()


def _is_ours() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False  # only the main one may set handlers (signal.signal)
    if "gunicorn.app.base" not in sys.modules:
        return False  # the process that reads the configuration is not a master, and handles interrupts itself
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    return signal.getsignal(signal.SIGINT) is _interrupted


def _interrupted(_number: int, _frame: Any) -> None:
    global _came
    if _at_once:
        os._exit(STATUS)
    if _came:
        return  # a second interrupt must not strike what the first has begun
    _came = True
    signal.signal(signal.SIGALRM, _is_late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # atexit calls the newest handler first
    if not _holds:
        raise SystemExit(STATUS)


def _is_late(_number: int, _frame: Any) -> None:
    if signal.getsignal(signal.SIGINT) is _interrupted:  # otherwise the exit was caught, and the master serves
        os._exit(STATUS)
