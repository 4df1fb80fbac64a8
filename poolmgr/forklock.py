"""Delays a fork while a socket is made and not noted yet, or is being closed.

A child has a copy of each descriptor of its parent, and closes those that it knows. A socket that nothing refers to
yet, or that Python has dropped and the kernel has not closed yet, would stay open in the child.
"""

from __future__ import annotations

import threading
from typing import Any

from poolmgr.native import at_fork

MOMENT = 1.0
"""Seconds that a fork, or another thread, waits for a thread that is between making a socket and noting it. That takes
microseconds. It never ends if an exception from a signal handler has pulled the thread out of there."""


class _Whole:
    """``with whole():`` no fork comes in the middle."""

    __slots__ = ("_has",)

    def __enter__(self) -> None:
        self._has = _take()

    def __exit__(self, *exception: object) -> None:
        if self._has is not None:
            self._has.release()


_noting = threading.RLock()
"""Held while a socket is made and noted. No I/O that could wait is done under it."""
_waited: list[Any] = []
"""The lock as the fork under way has it."""


def whole() -> _Whole:
    """``with whole():`` delays a fork until the end of the block. Otherwise a child would have a copy of a socket that
    it does not know, and would keep the connection that its parent makes with it."""
    return _Whole()


_turns = 0
"""How often the lock was taken. Changed by its holder only."""


def _take() -> Any:
    """The lock, held. If the same thread keeps a lock for a :data:`MOMENT`, the lock has lost its holder, and a new
    lock replaces it. This waits for threads that take the lock one after the other: the lock is not fair, and on a busy
    machine its next holder may be one of them for a long time."""
    global _noting, _turns
    lock, turns = _noting, -1
    while turns != _turns:
        turns = _turns
        if lock.acquire(timeout=MOMENT):
            _turns += 1
            return lock
    if _noting is lock:
        _noting = threading.RLock()
    return None


def _before() -> None:
    _waited.append(_take())


def _in_parent() -> None:
    lock = _waited.pop() if _waited else None
    if lock is not None:
        lock.release()


def _in_child() -> None:
    global _noting
    _noting = threading.RLock()
    _waited.clear()


at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
