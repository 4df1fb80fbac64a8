"""Every living pool starts empty in a forked child.

``os.register_at_fork`` calls :func:`_in_child` before any other code of the child runs, whatever lock
another thread of the parent held at that instant. It must not connect, log, start a thread or wait.
"""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any

from poolmgr.native import at_fork

if TYPE_CHECKING:
    from poolmgr.pool.sync import ConnectionPool

_pools: weakref.WeakSet[ConnectionPool] = weakref.WeakSet()


def watch(pool: ConnectionPool) -> None:
    """Empty this pool in every child to come."""
    _pools.add(pool)


MOMENT = 1.0
"""Seconds that a fork, or another thread, waits for a thread that is between making a socket and noting it. That takes
microseconds; it is never over if an exception of a signal handler has torn the thread away there."""


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
    """``with whole():`` no fork comes in the middle. A child would have a copy of a socket of which it does not know,
    and would keep the connection that its parent makes with it."""
    return _Whole()


_turns = 0
"""How often the lock was taken. Changed by its holder only."""


def _take() -> Any:
    """The lock, held. A lock that stays taken by the same thread for a :data:`MOMENT` has lost its holder: another one
    takes its place. Threads that take it one after the other are waited for: it is not fair, and on a busy machine its
    next holder may be one of them for long."""
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
    global _pools, _noting
    _noting = threading.RLock()
    _waited.clear()
    pools = list(_pools)
    _pools = weakref.WeakSet(pools)  # the old one may be in the middle of somebody's change
    for pool in pools:
        pool._after_fork()


at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
