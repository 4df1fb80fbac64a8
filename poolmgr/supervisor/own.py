"""The permits of the supervisor's own connections at one server (rule S5).

The supervisor is a member of its own ledger: whoever in it wants to open a connection waits here
until a turn has granted the permit and the snapshot shows it, and gives it back only when the
connection is known to be gone. Used in the event loop only.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from poolmgr.budget.ledger import Ledger


class OwnPermits:
    """Hands granted permits to whoever waits, in order.

    Args:
        touch: asks for a turn.
        clock: monotonic seconds.
    """

    def __init__(self, ledger: Ledger, server: str, touch: Callable[[], None], clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._server = server
        self._touch = touch
        self._clock = clock
        self._waiters: deque[asyncio.Future[None]] = deque()
        self.used = 0

    async def acquire(self, timeout: float) -> bool:
        """Wait for a permit, by recall if none is free. False: none came in ``timeout`` seconds."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._want()
        try:
            async with asyncio.timeout(timeout):
                await waiter
            return True
        except TimeoutError:
            return _granted(waiter)  # it may have come in the very turn of the loop in which the time was up
        except BaseException:
            if _granted(waiter):
                self.release()
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                self._want()

    def release(self) -> None:
        """The connection that held it is proven gone, or was never opened."""
        self.used -= 1
        self.granted()

    def granted(self) -> None:
        """A turn has granted some, or one was released: pass them on; what nobody wants goes back."""
        while self._ledger.own(self._server) > self.used and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.used += 1
                waiter.set_result(None)
        surplus = self._ledger.own(self._server) - self.used
        if surplus > 0:
            self._ledger.return_own(self._server, surplus, self._clock())
        self._want()

    def _want(self) -> None:
        self._ledger.want_own(self._server, self.used + len(self._waiters), self._clock())
        self._touch()


def _granted(waiter: asyncio.Future[None]) -> bool:
    return waiter.done() and not waiter.cancelled()
