"""What a pool consists of, declared once for the parts that its methods are spread over.

No behaviour: :mod:`poolmgr.pool.sync.pool` fills it, :mod:`poolmgr.pool.housekeeping` and
:mod:`poolmgr.pool.sync.redis_interface` work on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis

from poolmgr.pool.core import PoolCore, Waiter
from poolmgr.pool.permit_source import PermitSource
from poolmgr.pool.stats import Hooks, Tally

UNBOUNDED, UNSHARED = 2**31, 100
"""``max_connections`` of a pool that only the budget bounds; of one that no budget bounds, as redis-py's pools have it
(``redis.connection.ConnectionPool``, 8.1)."""


class State(redis.ConnectionPool):
    """Attributes of a pool, and the methods that its parts call on each other."""

    name: str
    """What messages and metrics call the pool."""
    timeout: float | None
    """Seconds a caller waits for a connection; None for ever."""
    max_waiting: int
    """Callers that may wait; 0: no bound."""
    idle_timeout: float
    """Seconds after which connections that nobody needed are closed; 0 never."""
    max_lifetime: float
    """Seconds after which a connection is replaced; 0 never."""
    leak_after: float
    """Seconds after which a holder is reported; 0 off. Set it with the constructor."""
    hooks: Hooks

    _core: PoolCore
    _idle: deque[Any]
    """The core's, for the warm path."""
    _queue: deque[Waiter]
    """The core's, for the warm path."""
    _owner: dict[int, float]
    """Who has the turn to advance the core: the instant at which it was taken, by identity. Guards the
    order of decisions; everything decided is published by single atomic steps."""
    _dirty: bool
    """A note to whoever has the turn: look again."""
    _origin: PermitSource
    _tally: Tally
    _checkouts: int
    _low: int
    """Fewest idle connections since the mark was last folded; the warm path writes it."""
    _low_for_member: int
    _low_for_shrink: int
    _shrink_at: float
    _misdirected_at: float
    """When a connection was last found to lead to the wrong server (monotonic seconds)."""
    _misdirected_by: str
    """The error reply that said so; empty once it is logged."""
    _watched: bool
    """Every checkout takes the cold path: somebody wants to see it."""
    _strict: bool
    """Every release is looked at closely."""

    if TYPE_CHECKING:

        def _advance(self, may_open: bool = True) -> None: ...

        def _checkout(self, timeout: float | None) -> Any: ...

        def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None: ...

        def _call(self, hook: Callable[..., object] | None, *arguments: Any) -> None: ...

        def _count(self, state: Any, change: int) -> None: ...

        def _refused(self, error: BaseException) -> None: ...

        def _longest(self) -> tuple[float, str]: ...

        def _connections(self) -> list[Any]: ...

        def _lent(self) -> set[Any]: ...

        def _restart_counting(self) -> None: ...

        def _empty(self, reason: str) -> int: ...

        def _retire(self, reason: str) -> None: ...

        def resize(self, *, max_connections: int | None = None, min_idle: int | None = None) -> None: ...
