"""The bounded retries of :mod:`poolmgr.pool.retries`, for threads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from redis.backoff import NoBackoff
from redis.retry import Retry

from poolmgr.pool.retries import Deadline

ONCE = Retry(NoBackoff(), 0)
"""For the queue: the pool itself paces the next attempt; and this one takes one of ``max_connecting`` meanwhile."""


class Until(Deadline):
    """A user's retries, but none that begins after a deadline."""

    def call_with_retry(self, do: Callable[[], Any], fail: Callable[..., Any], *rest: Any, **options: Any) -> Any:
        """Call ``do`` until it succeeds, the retries are used up or the deadline is over; ``fail`` after each failure.

        Raises:
            Exception: what ``do`` raised last.
        """
        last: list[Exception] = []

        def attempt() -> Any:
            self._raise_late(last)
            return do()

        def failed(error: Exception, *count: int) -> None:
            if error not in last:
                last[:] = [error]
                fail(error, *count)
            self._raise_late(last)

        return self._cut().call_with_retry(attempt, failed, *rest, **options)


@contextlib.contextmanager
def patient(connection: Any, deadline: float, *, background: bool = False) -> Iterator[None]:
    """Inside it, the connection's attempts to connect are repeated until a deadline, or not at all for the queue."""
    inner = getattr(connection, "_conn", connection)
    theirs = getattr(inner, "retry", None)
    if theirs is None:
        yield
        return
    ours = ONCE if background else Until(theirs, deadline)
    inner.retry = ours
    try:
        yield
    finally:
        if inner.retry is ours:
            inner.retry = theirs
