"""What a pool keeps on each of its connections, whatever their class."""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from poolmgr.pool.queue import Ticket


class _NoPermits:
    """The permits of a connection that has not drawn on any."""

    surplus = 0


NO_PERMITS = _NoPermits()


class PoolEntry:
    """What the pool keeps on every connection, whatever its class."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Deriving from a user's class does not call the user's: it may want arguments, or keep a list."""

    _origin: Any = None
    """Its owner (:class:`poolmgr.pool.permit_source.PermitSource`); a release refuses a connection of another pool, of
    an earlier process, or without an owner."""
    _ticket: Ticket | None = None
    _loan: deque[float]
    """Holds the time of the checkout while it is lent. Popping is atomic: of two releases one succeeds. A list would
    give its memory back at every release and ask for it again at every checkout."""
    if TYPE_CHECKING:
        _sock: Any

    @property
    def _is_open(self) -> bool:
        """Whether it has a connection."""
        return self._sock is not None

    _since: float = 0.0
    """When it was last known to work (monotonic seconds)."""

    @property
    def _rested(self) -> float:
        """When it came back last (monotonic seconds)."""
        return self._since

    _special: bool = False
    """The release must look closer: marked for a reconnect, retired, or a token to send."""
    _retired: str = ""
    """Why it must be closed when it comes back; empty: it need not."""
    _expires: float = float("inf")
    _owed: int = 0
    _refused: Any = None
    """Why there was no permit for a replica, while others are tried (:mod:`poolmgr.pool.sentinels`)."""
    _draws: Any = None
    """The permits it draws on; the pool's release reads their surplus."""
    _trace: Any = None
    """Where it was checked out, if the pool watches that."""


def lent_at(connection: Any) -> float | None:
    """When it was lent, None if it is idle. Another thread may release it at any instant, so this asks once."""
    try:
        return float(connection._loan[-1])
    except IndexError:
        return None


def set_up(connection: Any, origin: object, ticket: Ticket, now: float, expires: float) -> None:
    """Give a fresh connection its place."""
    connection._loan = deque()
    connection._since = now
    connection._expires = expires
    connection._origin = origin
    connection._ticket = ticket
    inner = getattr(connection, "_conn", None)
    if inner is not None:
        inner._origin = origin
        inner._ticket = ticket
        inner._draws = NO_PERMITS
    else:
        connection._draws = NO_PERMITS
        inner = connection
    loosen = getattr(inner, "_loosen", None)
    if loosen is not None:
        loosen()
    ticket.connection = weakref.ref(connection)
