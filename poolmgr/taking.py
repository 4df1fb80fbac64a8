"""Take a lock in a way that no signal handler's exception can leave it taken.

The interpreter looks for signals after each call, and where a handler raises an exception there, what follows does not
run. So ``lock.acquire()`` may have taken the lock and never reach the ``try`` behind it. ``with lock:`` was safe up to
Python 3.13, which entered it in one instruction; from Python 3.14 on it is a call like any other. It does not look for
signals between two steps of a ``for``::

    for _ in taken(lock):
        try:
            ...
        finally:
            lock.release()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import starmap
from typing import Protocol

_ONCE = ((),)
_AT_ONCE = ((False,),)


class Lock(Protocol):
    """Of :mod:`threading`, or what gevent has put in its place."""

    @property
    def acquire(self) -> Callable[..., bool]: ...
    @property
    def release(self) -> Callable[[], None]: ...


class _NoLock:
    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


NO_LOCK: Lock = _NoLock()
"""For the interpreter's end: a stopped thread may hold the real one, and only one thread runs."""


def taken(lock: Lock) -> Iterator[bool]:
    """The block runs once, with the lock taken; it waits for that."""
    return starmap(lock.acquire, _ONCE)


def tried(lock: Lock) -> Iterator[bool]:
    """The block runs once, with whether the lock was free and is taken now."""
    return starmap(lock.acquire, _AT_ONCE)
