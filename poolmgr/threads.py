"""The one place that starts our threads.

They are daemons, since nothing of ours may delay the end of a process. A subinterpreter (mod_wsgi, uWSGI) has no thread
of ours: a thread that is left at its end aborts the whole process, and Python 3.11 has no hook to end it before that.
"""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from threading import Thread  # for signatures; the class to start is looked up at the start

from poolmgr.lazy import load


@functools.cache
def allowed() -> bool:
    """Whether this is the process's main interpreter."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # from Python 3.13 on; before
        try:
            interpreters = load(name)
            return bool(interpreters.get_current() == interpreters.get_main())
        except (ImportError, AttributeError):
            continue
    return True


def make(target: Callable[..., object], name: str, *args: object) -> Thread:
    """A thread that is not started yet."""
    return threading.Thread(target=target, args=args, name=name, daemon=allowed())


def started(thread: Thread) -> bool:
    """Start it. False: no thread can start, by a limit of the system, where Python forbids it, or at the end."""
    if not allowed() or sys.is_finalizing():  # it would never run, and its starter would wait for it
        return False
    try:
        thread.start()
    except RuntimeError:
        return False
    return True


__all__ = ["Thread", "allowed", "make", "started"]
