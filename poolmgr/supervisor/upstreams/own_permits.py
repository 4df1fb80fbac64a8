"""The permits of the supervisor's own connections at one server (rule S5).

The supervisor is a member of its own ledger. Before one of its parts opens a connection, it waits here until a turn has
granted the permit and the snapshot shows it. It returns the permit only when the connection is known to be gone. Used
in the event loop only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from poolmgr.budget.ledger import Ledger


class OwnPermits:
    """Hands granted permits to waiters, in order.

    Args:
        touch: asks for a turn.
        clock: monotonic seconds.

    Attributes:
        used: permits that a connection of ours holds, or that are lent to a look elsewhere.
        kept: permits kept even if unused, so that one to look with is always there.
    """

    def __init__(self, ledger: Ledger, server: str, touch: Callable[[], None], clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._server = server
        self._touch = touch
        self._clock = clock
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._into: OwnPermits | None = None
        self.used = 0
        self.kept = 0

    async def acquire(self, timeout: float) -> bool:
        """Wait for a permit, by recall if none is free. False: none came in ``timeout`` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._present._waiters.append(waiter)
        self._present.granted()  # one that was kept back is there already
        try:
            async with asyncio.timeout(timeout):
                await waiter
            return True
        except TimeoutError:
            return _granted(waiter)  # it may have come in the same turn of the loop in which the time was up
        except BaseException:
            if _granted(waiter):
                self.release()
            raise
        finally:
            present = self._present
            if waiter in present._waiters:
                present._waiters.remove(waiter)
                present._want()

    def release(self) -> None:
        """The connection that held it is proven gone, or was never opened."""
        present = self._present
        present.used -= 1
        present.granted()

    def keep(self, count: int) -> None:
        """Keep so many permits from now on, used or not."""
        if count != self.kept and self._into is None:
            self.kept = count
            self.granted()

    def granted(self) -> None:
        """A turn has granted some, or one was released: pass them on, and return unwanted ones."""
        while self._ledger.own(self._server) > self.used and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.used += 1
                waiter.set_result(None)
        surplus = self._ledger.own(self._server) - max(self.used, self.kept)
        if surplus > 0:
            self._ledger.return_own(self._server, surplus, self._clock())
        self._want()

    def pass_to(self, twin: OwnPermits) -> None:
        """The server is known by another name, which takes over the permits
        (:func:`poolmgr.budget.merging.dissolve`): holders return them there, and waiters wait there."""
        twin.used += self.used
        twin._waiters += self._waiters
        self.used = self.kept = 0
        self._waiters.clear()
        self._into = twin

    @property
    def _present(self) -> OwnPermits:
        """The object that holds these permits now: itself, or the one they passed to."""
        present = self
        while present._into is not None:
            present = present._into
        return present

    def _want(self) -> None:
        wanted = max(self.used + len(self._waiters), self.kept)
        self._ledger.want_own(self._server, wanted, self._clock())
        self._touch()


def _granted(waiter: asyncio.Future[None]) -> bool:
    return waiter.done() and not waiter.cancelled()
