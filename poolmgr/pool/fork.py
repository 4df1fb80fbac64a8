"""Every living pool starts empty in a forked child.

``os.register_at_fork`` calls :func:`_in_child` before any other code of the child runs, whatever lock
another thread of the parent held at that instant. It must not connect, log, start a thread or wait.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from typing import Protocol

from poolmgr.native import at_fork


class Forkable(Protocol):
    """A pool."""

    def _after_fork(self) -> None: ...

    def _lent_in(self, loop: object, keys: Collection[str]) -> int:
        """Connections to these endpoints that tasks of that event loop hold."""


_pools: weakref.WeakSet[Forkable] = weakref.WeakSet()


def watch(pool: Forkable) -> None:
    """Empty this pool in every child to come."""
    _pools.add(pool)


def watched() -> list[Forkable]:
    """Every living pool of this process."""
    return list(_pools)


def _in_child() -> None:
    global _pools
    pools = list(_pools)
    _pools = weakref.WeakSet(pools)  # the old one may be in the middle of another thread's change
    for pool in pools:
        pool._after_fork()


at_fork(after_in_child=_in_child)
