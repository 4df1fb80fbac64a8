"""How often an attempt to connect is repeated before it fails: a user's retries, but none after a deadline.

redis-py's retries are inside ``connect()``. Against a server that accepts and never answers, each of them takes
``socket_timeout``, so that three retries of five seconds keep a caller for twenty, whatever the pool's ``timeout``.
"""

from __future__ import annotations

import copy
from typing import Any

from redis.backoff import AbstractBackoff

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.native import monotonic


class Deadline:
    """What the flavours' ``Until`` have in common. Wraps any class with redis-py's interface.

    Args:
        retry: a user's.
        deadline: monotonic seconds.
    """

    def __init__(self, retry: Any, deadline: float) -> None:
        self._retry = retry
        self._deadline = deadline

    def _cut(self) -> Any:
        """The user's retry, with no pause beyond the deadline."""
        retry = _twin(self._retry)
        if isinstance(getattr(retry, "_backoff", None), AbstractBackoff):
            retry._backoff = _Cut(retry._backoff, self._deadline)
        return retry

    def _raise_late(self, last: list[Exception]) -> None:
        """Let no attempt begin after the deadline, if one has failed; nor after a refused permit, for which it has
        waited as long as it may."""
        if last and (isinstance(last[0], ConnectionPoolTimeoutError) or monotonic() >= self._deadline):
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
