"""What the shared parts of a pool know of it, whatever its flavour: plain state, and what only the flavour can do.

It names nothing of redis-py's pools. :mod:`poolmgr.pool.base` fills it; :mod:`poolmgr.pool.admission`,
:mod:`poolmgr.pool.waiting`, :mod:`poolmgr.pool.housekeeping` and :mod:`poolmgr.pool.refusal` work on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from redis.observability.attributes import ConnectionState

from poolmgr.pool.permit_source import PermitSource
from poolmgr.pool.queue import PoolCore, Ticket, Waiter
from poolmgr.pool.stats import UNBOUNDED, Hooks, Stats, Tally

UNSHARED = 100
"""``max_connections`` of a pool that no budget bounds, as in redis-py's pools (``redis.connection.ConnectionPool``,
8.1)."""

__all__ = ["UNBOUNDED", "UNSHARED", "Host"]


class Host:
    """A pool."""

    name: str
    timeout: float | None
    max_waiting: int
    max_reply: int
    idle_timeout: float
    max_lifetime: float
    order: str
    leak_after: float
    """To be set with the constructor, unlike the rest of these options (:mod:`poolmgr.pool.options`)."""
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

    max_connections: Any
    """This pool's own ceiling, for all its parts together."""
    connection_class: Any
    connection_kwargs: dict[str, Any]

    # Methods, of BasePool or of the flavour.
    _advance: Callable[..., None]
    """Let the core do all it can for the queue; with ``may_open=False`` open no connection, as in a release."""
    _due: Callable[[float], float]
    """Seconds until the head of the queue should look for itself."""
    _open: Callable[[Ticket], None]
    """Open a connection for the queue, in the background. Does not block."""
    _end: Callable[[Any], None]
    """Hand a connection's socket over to be closed. Does not block; any thread may call it."""
    _give_back: Callable[[Any], None]
    """Release a connection that was taken out of the idle ones. Does not block."""
    _remind: Callable[[], None]
    """Have the head of the queue find out when it is due."""
    _dispose_all: Callable[[list[Any], str], int]
    """Close connections that were taken out, for this reason; how many."""
    _empty: Callable[[str], int]
    """Close all idle connections, for this reason; how many."""
    _connections: Callable[[], list[Any]]
    """All connections, lent and idle."""
    _lent: Callable[[], set[Any]]
    """Connections out with callers."""
    stats: Callable[[], Stats]
    """Of the whole pool, where it has parts."""
    owns_connection: Callable[[Any], bool]
    """Whether the connection was made in the pool's present process."""
    _call: Callable[..., None]
    """Call a user's function; log what it raises."""
    _count: Callable[[ConnectionState, int], None]
    """redis-py's gauge of connections by state. Its recorder is another one for each flavour."""
    _tell_waited: Callable[[float], None]
    """For the same recorder: how long a caller has waited."""
    _blocks: Callable[[], Any]
    """The event loop that a waiting caller keeps from running its tasks; None: none."""
    _tell_timeout: Callable[[], None]
    """For the same recorder: a caller got no connection in time."""
