"""Ctrl-C while a gunicorn master starts: it ends quietly with status 130 and leaves no process and no file behind.

gunicorn sets handlers of its own only after ``on_starting``. Until then Python raises ``KeyboardInterrupt`` at whatever
instruction the master happens to be: in an import, whose machinery may swallow it; after a supervisor was started and
before anybody was connected to it; between a file and the lock by which its end is known. So from the first line of our
configuration on, what an interrupt does depends on what there is to clean up:

- while the configuration is read (:func:`end_at_once`) nothing is, and the process is over;
- after that (:func:`raise_exit`) ``SystemExit`` is raised: gunicorn and the application may have something to end;
- :func:`held_back` keeps it from coming in the middle of something, and :func:`let_through` lets it come in the waits
  that are part of it. :data:`PATIENCE` bounds all that.

Only Python's own handler is ever replaced, and only in a gunicorn, so a master that serves keeps gunicorn's when it
reads its configuration again. Standard library only: it is imported before anything else.
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
"""What a shell says of a process that SIGINT has ended."""

PATIENCE = 3.0
"""Seconds after an interrupt by which the process ends, whatever it waits for."""

_at_once = False
_holds = 0
"""How many :func:`held_back` blocks we are in; 0 as well inside of :func:`let_through`."""
_came = False


def end_at_once() -> None:
    """From here on an interrupt ends this process on the spot. Does nothing in a master that serves."""
    global _at_once
    _at_once = _is_ours()


def raise_exit() -> None:
    """From here on an interrupt raises ``SystemExit``, where :func:`end_at_once` has begun it."""
    global _at_once
    _at_once = False


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """An interrupt that comes in here raises ``SystemExit`` at the end of it, or at the next :func:`check`.

    Raises:
        SystemExit: one has come, in here or earlier.
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
    """Inside of :func:`held_back`: something that may be left at any instant, so an interrupt need not wait for it.

    Raises:
        SystemExit: one has come.
    """
    global _holds
    before, _holds = _holds, 0
    try:
        check()
        yield
    finally:
        _holds = before


def check() -> None:
    """Let an interrupt come that was held back.

    Raises:
        SystemExit: there is one.
    """
    if _came:
        raise SystemExit(STATUS)


def in_child() -> None:
    """In a forked child that does a part of the start: it is interrupted for itself, whatever its parent holds back."""
    global _holds
    _holds = 0
    check()


def _is_ours() -> bool:
    if threading.current_thread() is not threading.main_thread():
        return False  # only the main one may set handlers (signal.signal)
    if "gunicorn.app.base" not in sys.modules:
        return False  # somebody reads the configuration who is no master, and has a life of its own
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    return signal.getsignal(signal.SIGINT) is _interrupted


def _interrupted(_number: int, _frame: Any) -> None:
    global _came
    if _at_once:
        os._exit(STATUS)
    if _came:
        return  # an impatient second one must not strike what the first has begun
    _came = True
    signal.signal(signal.SIGALRM, _is_late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)  # the last handler to come is the first to be called
    if not _holds:
        raise SystemExit(STATUS)


def _is_late(_number: int, _frame: Any) -> None:
    if signal.getsignal(signal.SIGINT) is _interrupted:  # else somebody caught the exit, and the master serves
        os._exit(STATUS)
