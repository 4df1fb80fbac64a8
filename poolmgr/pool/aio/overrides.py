"""Which of redis.asyncio's methods a connection class still has as redis-py wrote them.

What :mod:`poolmgr.pool.sync.overrides` is for threads: our quick path is for classes that have all of these methods as
redis-py wrote them. Else redis-py's own order of calls holds.
"""

from __future__ import annotations

from typing import Any

import redis._parsers.hiredis
import redis.asyncio.connection
import redis.asyncio.sentinel
from redis._parsers import _AsyncHiredisParser
from redis.asyncio.sentinel import SentinelManagedConnection

from poolmgr.pool.endpoints import Way
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.unchanged import codes, unchanged

REPLACED = (
    "send_command", "send_packed_command", "_send_packed_command", "read_response", "_read_response_from_parser",
    "pack_command", "pack_commands", "check_health", "can_read", "on_connect_check_health",
    "activate_maint_notifications_handling_if_enabled", "_enable_maintenance_notifications",
)  # fmt: skip
"""Methods that the quick path leaves out, or calls in another order."""

ASKED = ("connect", "connect_check_health", "can_read")
"""Methods that redis-py calls for every checkout; and ``is_connected``, a property, by which it knows the answer."""

PARSED = ("read_response",)
"""Those of its parser."""

_CODES = codes(redis.asyncio.connection.AbstractConnection, REPLACED, redis.asyncio.connection)
_ASKED = codes(redis.asyncio.connection.AbstractConnection, ASKED, redis.asyncio.connection)
_SENTINEL = codes(SentinelManagedConnection, ("read_response",), redis.asyncio.sentinel)
_FINDS = codes(SentinelManagedConnection, ("connect",), redis.asyncio.sentinel)
_PARSER = codes(_AsyncHiredisParser, PARSED, redis._parsers.hiredis)
_DIAL: dict[type, Any] = {
    owner: codes(owner, ("_connect",), redis.asyncio.connection).get("_connect")
    for owner in (redis.asyncio.connection.Connection, redis.asyncio.connection.UnixDomainSocketConnection)
}


def is_quick(connection_class: type) -> bool:
    """Whether it sends and reads as redis-py does, its parser for hiredis included, through Sentinel or not."""
    own = _CODES
    if issubclass(connection_class, SentinelManagedConnection):
        own = {**_CODES, **_SENTINEL}
    return all(unchanged(getattr(connection_class, name, None), own.get(name, codes)) for name in REPLACED) and all(
        unchanged(getattr(_AsyncHiredisParser, name), _PARSER.get(name, codes)) for name in PARSED
    )


def connects_its_own_way(connection_class: Any) -> bool:
    """Whether a method that redis-py calls for every checkout of a connected connection is not redis-py's own."""
    names = set(ASKED)
    if unchanged(connection_class.connect, _FINDS.get("connect", codes)):
        names.discard("connect")
    return (
        not all(unchanged(getattr(connection_class, name, None), _ASKED.get(name, codes)) for name in names)
        or connection_class.is_connected is not redis.asyncio.connection.AbstractConnection.is_connected
    )


def asks_its_own_way(connection_class: Any) -> bool:
    """Whether ``can_read``, by which redis-py looks at a connection before it lends it, is not redis-py's own."""
    return not unchanged(connection_class.can_read, _ASKED.get("can_read", codes))


def dials_its_own_way(connection_class: type) -> bool:
    """Whether foreign code stands between a connect and the socket."""
    dial = getattr(connection_class, "_connect", None)
    return not any(
        unchanged(dial, code) for owner, code in _DIAL.items() if code and issubclass(connection_class, owner)
    )


def way_of(connection_class: type) -> Way:
    """How connections of a class, pooled or not, get to their server."""
    if issubclass(connection_class, PoolEntry):
        own = bool(getattr(connection_class, "_own_way", False))
    else:
        own = dials_its_own_way(connection_class)
    return Way(
        tcp=issubclass(connection_class, redis.asyncio.connection.Connection),
        tls=issubclass(connection_class, redis.asyncio.connection.SSLConnection),
        unix=issubclass(connection_class, redis.asyncio.connection.UnixDomainSocketConnection),
        own=own,
    )
