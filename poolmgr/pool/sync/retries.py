"""How often an attempt to connect is repeated before it fails.

redis-py's retries are inside ``connect()``. Against a server that accepts and never answers, each of them takes
``socket_timeout``, so that three retries of five seconds keep a caller for twenty, whatever the pool's ``timeout``.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

from redis.backoff import AbstractBackoff, NoBackoff
from redis.retry import Retry

from poolmgr.native import monotonic

ONCE = Retry(NoBackoff(), 0)
"""For the queue: the pool itself paces the next attempt; and this one takes one of ``max_connecting`` meanwhile."""


class Until:
    """A user's retries, but none that begins after a deadline. Wraps any class with redis-py's interface.

    Args:
        retry: theirs.
        deadline: monotonic seconds.
    """

    def __init__(self, retry: Any, deadline: float) -> None:
        self._retry = retry
        self._deadline = deadline

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

        retry = _twin(self._retry)
        if isinstance(getattr(retry, "_backoff", None), AbstractBackoff):
            retry._backoff = _Cut(retry._backoff, self._deadline)
        return retry.call_with_retry(attempt, failed, *rest, **options)

    def _raise_late(self, last: list[Exception]) -> None:
        if last and monotonic() >= self._deadline:
            raise last[0]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # asked by a copy, before there is a retry to ask
            raise AttributeError(name)
        return getattr(self._retry, name)


def _twin(retry: Any) -> Any:
    """A shallow copy. ``copy`` imports a module for that, and at the interpreter's end nothing can be imported."""
    try:
        twin = object.__new__(type(retry))
        twin.__dict__.update(retry.__dict__)
    except (TypeError, AttributeError):  # written in another language, or with slots
        return copy.copy(retry)
    return twin


class _Cut(AbstractBackoff):
    """A user's pauses, none of which lasts beyond a deadline."""

    def __init__(self, backoff: AbstractBackoff, deadline: float) -> None:
        self._backoff = backoff
        self._deadline = deadline

    def reset(self) -> None:
        self._backoff.reset()

    def compute(self, failures: int) -> float:
        return max(0.0, min(self._backoff.compute(failures), self._deadline - monotonic()))


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
