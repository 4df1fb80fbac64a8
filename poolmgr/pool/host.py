"""What the shared parts of a pool know of it, whatever its flavour: plain state, and what only the flavour can do.

It names nothing of redis-py's pools. :mod:`poolmgr.pool.base` fills it; :mod:`poolmgr.pool.admission`,
:mod:`poolmgr.pool.waiting`, :mod:`poolmgr.pool.housekeeping` and :mod:`poolmgr.pool.refusal` work on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from redis.observability.attributes import ConnectionState

from poolmgr.pool.core import PoolCore, Ticket, Waiter
from poolmgr.pool.permit_source import PermitSource
from poolmgr.pool.stats import Hooks, Tally

UNBOUNDED, UNSHARED = 2**31, 100
"""``max_connections`` of a pool that only the budget bounds; of one that no budget bounds, as in redis-py's pools
(``redis.connection.ConnectionPool``, 8.1)."""


class Host:
    """A pool. What raises NotImplementedError is :class:`~poolmgr.pool.base.BasePool`'s or the flavour's."""

    name: str
    """What messages and metrics call the pool."""
    timeout: float | None
    """Seconds a caller waits for a connection; None: for ever."""
    max_waiting: int
    """Callers that may wait; 0: no bound."""
    idle_timeout: float
    """Close connections that stayed idle for this many seconds; 0: never."""
    max_lifetime: float
    """Seconds after which a connection is replaced; 0: never."""
    leak_after: float
    """Seconds after which a holder is reported; 0: off. Set it with the constructor."""
    hooks: Hooks

    _core: PoolCore
    _idle: deque[Any]
    """The core's, for the warm path."""
    _queue: deque[Waiter]
    """The core's, for the warm path."""
    _origin: PermitSource
    _tally: Tally
    _checkouts: int
    _low: int
    """Fewest idle connections since the mark was last folded; the warm path writes it."""
    _low_for_member: int
    _low_for_shrink: int
    _shrink_at: float
    _misdirected_at: float
    """When a connection was last found misdirected (monotonic seconds)."""
    _misdirected_by: str
    """The error reply that said so; empty once it is logged."""

    connection_class: Any
    connection_kwargs: dict[str, Any]

    def _advance(self, may_open: bool = True) -> None:
        """Let the core do all it can for the queue."""
        raise NotImplementedError

    def _open(self, ticket: Ticket) -> None:
        """Open a connection for the queue, in the background. Does not block."""
        raise NotImplementedError

    def _end(self, connection: Any) -> None:
        """Hand a connection's socket over to be closed. Does not block; any thread may call it."""
        raise NotImplementedError

    def _give_back(self, connection: Any) -> None:
        """Release a connection that was taken out of the idle ones. Does not block."""
        raise NotImplementedError

    def _empty(self, reason: str) -> int:
        """Close all idle connections; how many."""
        raise NotImplementedError

    def _lent(self) -> set[Any]:
        """Connections out with callers."""
        raise NotImplementedError

    def owns_connection(self, connection: Any) -> bool:
        """Whether the connection was made in the pool's present process."""
        raise NotImplementedError

    def _connections(self) -> list[Any]:
        """All connections, lent and idle."""
        raise NotImplementedError

    def _call(self, hook: Callable[..., object] | None, *arguments: Any) -> None:
        """Call a user's function; log what it raises."""
        raise NotImplementedError

    def _count(self, state: ConnectionState, change: int) -> None:
        """redis-py's gauge of connections by state."""
        raise NotImplementedError


def connections(core: PoolCore) -> list[Any]:
    """All connections that have a place in the core, lent and idle."""
    references = (ticket.connection for ticket in core.tickets())
    found = (reference() for reference in references if reference is not None)
    return [connection for connection in found if connection is not None]
