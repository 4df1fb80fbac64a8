"""Which of redis-py's methods a connection class still has as redis-py wrote them.

Our quick path (:class:`poolmgr.pool.sync.replies.Accounted`, :mod:`poolmgr.pool.sync.handshake`) does the work of
several of redis-py's methods in one. It is for classes that have all of them as redis-py wrote them. If a subclass
or a mixin overrides one, or an agent has wrapped one on redis-py's class, redis-py's own order of calls holds.

The question is asked for every new connection (some microseconds). So a patch counts for all connections made after it;
``pool.drain()`` replaces earlier ones.
"""

from __future__ import annotations

from typing import Any

import redis.connection
import redis.sentinel

from poolmgr.pool.endpoints import Way
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.unchanged import codes, unchanged

REPLACED = (
    "send_command", "send_packed_command", "read_response", "pack_command", "pack_commands", "check_health",
    "on_connect_check_health", "activate_maint_notifications_handling_if_enabled", "_enable_maintenance_notifications",
)  # fmt: skip
"""Methods that the quick path leaves out, or calls in another order."""

ASKED = ("connect", "connect_check_health", "can_read")
"""Methods that redis-py calls for every checkout."""


_CODES = codes(redis.connection.AbstractConnection, REPLACED, redis.connection)
_SENTINEL = codes(redis.sentinel.SentinelManagedConnection, ("connect", "read_response"), redis.sentinel)
_ASKED = codes(redis.connection.AbstractConnection, ASKED, redis.connection)
_DIAL: dict[type, Any] = {
    owner: codes(owner, ("_connect",), redis.connection).get("_connect")
    for owner in (
        redis.connection.Connection,
        redis.connection.SSLConnection,
        redis.connection.UnixDomainSocketConnection,
    )
}


def changed(connection_class: type) -> set[str]:
    """Methods of :data:`REPLACED` that are not redis-py's own any more."""
    return {name for name in REPLACED if not unchanged(getattr(connection_class, name, None), _CODES.get(name, codes))}


def reads_as_sentinel(connection_class: type) -> bool:
    """Whether ``read_response`` is that of redis-py's connections through Sentinel."""
    return unchanged(connection_class.read_response, _SENTINEL.get("read_response", codes))  # type: ignore[attr-defined]


def connects_its_own_way(connection_class: Any) -> bool:
    """Whether a method that redis-py calls for every checkout of a connected connection is not redis-py's own."""
    names = set(ASKED)
    if unchanged(connection_class.connect, _SENTINEL.get("connect", codes)):
        names.discard("connect")
    return not all(unchanged(getattr(connection_class, name, None), _ASKED.get(name, codes)) for name in names)


def asks_its_own_way(connection_class: Any) -> bool:
    """Whether ``can_read``, by which redis-py looks at a connection before it lends it, is not redis-py's own."""
    return not unchanged(connection_class.can_read, _ASKED.get("can_read", codes))


def dials_as(connection_class: type) -> bool:
    """Whether ``_connect`` of this class, one of redis-py's three, is redis-py's own."""
    return unchanged(vars(connection_class).get("_connect"), _DIAL.get(connection_class) or codes)


def dials_its_own_way(connection_class: type) -> bool:
    """Whether foreign code stands between a connect and the socket."""
    if not all(dials_as(owner) for owner in _DIAL if issubclass(connection_class, owner)):
        return True
    return not any(unchanged(connection_class._connect, code) for code in _DIAL.values() if code)  # type: ignore[attr-defined]


def way_of(connection_class: type) -> Way:
    """How connections of a class, pooled or not, get to their server."""
    if issubclass(connection_class, PoolEntry):
        own = bool(getattr(connection_class, "_own_way", False))
    else:
        own = hasattr(connection_class, "_connect") and dials_its_own_way(connection_class)
    return Way(
        tcp=issubclass(connection_class, redis.connection.Connection),
        tls=issubclass(connection_class, redis.connection.SSLConnection),
        unix=issubclass(connection_class, redis.connection.UnixDomainSocketConnection),
        own=own,
    )
