"""The bounded retries of :mod:`poolmgr.pool.retries`, for tasks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from poolmgr.pool.retries import Deadline

ONCE = Retry(NoBackoff(), 0)
"""For the queue: the pool itself paces the next attempt; and this one takes one of ``max_connecting`` meanwhile."""


class Until(Deadline):
    """A user's retries, but none that begins after a deadline."""

    async def call_with_retry(self, do: Callable[[], Any], fail: Callable[..., Any], *rest: Any, **options: Any) -> Any:
        """Await ``do`` until it succeeds, the retries are used up or the deadline is over; ``fail`` after each failure.

        Raises:
            Exception: what ``do`` raised last.
        """
        last: list[Exception] = []

        async def attempt() -> Any:
            self._raise_late(last)
            return await do()

        async def failed(error: Exception, *count: int) -> None:
            if error not in last:
                last[:] = [error]
                await fail(error, *count)
            self._raise_late(last)

        return await self._cut().call_with_retry(attempt, failed, *rest, **options)


@contextlib.contextmanager
def patient(connection: Any, deadline: float, *, background: bool = False) -> Iterator[None]:
    """Inside it, the connection's attempts to connect are repeated until a deadline, or not at all for the queue."""
    theirs = getattr(connection, "retry", None)
    if theirs is None:
        yield
        return
    connection.retry = ours = ONCE if background else Until(theirs, deadline)
    try:
        yield
    finally:
        if connection.retry is ours:
            connection.retry = theirs
