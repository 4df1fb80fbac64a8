"""Which of redis-py's methods a connection class still has as redis-py wrote them.

Our quick path (:class:`poolmgr.pool.sync.replies.Accounted`, :mod:`poolmgr.pool.sync.handshake`) does the work of
several of redis-py's methods in one. It is for classes that have all of them as redis-py wrote them. If a subclass
or a mixin overrides one, or an agent has wrapped one on redis-py's class, redis-py's own order of calls holds.

A method counts as redis-py's if it is a plain function with the code that redis-py's module was loaded with. A wrapper
is another object; a tool that rewrites functions in place gives them other code. If an agent wrapped a method before
this module was imported, the namespace of its function shows that.

The question is asked for every new connection (some microseconds). So a patch counts for all connections made after it;
``pool.drain()`` replaces earlier ones.
"""

from __future__ import annotations

from types import FunctionType, ModuleType
from typing import Any

import redis.connection
import redis.sentinel

from poolmgr.pool.endpoints import Way
from poolmgr.pool.entry import PoolEntry

REPLACED = (
    "send_command", "send_packed_command", "read_response", "pack_command", "pack_commands", "check_health",
    "on_connect_check_health", "activate_maint_notifications_handling_if_enabled", "_enable_maintenance_notifications",
)  # fmt: skip
"""Methods that the quick path leaves out, or calls in another order."""

ASKED = ("connect", "connect_check_health", "can_read")
"""Methods that redis-py calls for every checkout."""


def _codes(owner: type, names: tuple[str, ...], module: ModuleType) -> dict[str, Any]:
    """The code of redis-py's own methods, except those already wrapped."""
    found = {name: getattr(owner, name, None) for name in names}
    return {
        name: method.__code__
        for name, method in found.items()
        if type(method) is FunctionType and method.__globals__ is vars(module)
    }


_CODES = _codes(redis.connection.AbstractConnection, REPLACED, redis.connection)
_SENTINEL = _codes(redis.sentinel.SentinelManagedConnection, ("connect", "read_response"), redis.sentinel)
_ASKED = _codes(redis.connection.AbstractConnection, ASKED, redis.connection)
_DIAL: dict[type, Any] = {
    owner: _codes(owner, ("_connect",), redis.connection).get("_connect")
    for owner in (
        redis.connection.Connection,
        redis.connection.SSLConnection,
        redis.connection.UnixDomainSocketConnection,
    )
}


def _is(method: object, code: object) -> bool:
    return type(method) is FunctionType and method.__code__ is code


def changed(connection_class: type) -> set[str]:
    """Methods of :data:`REPLACED` that are not redis-py's own any more."""
    return {name for name in REPLACED if not _is(getattr(connection_class, name, None), _CODES.get(name, _is))}


def reads_as_sentinel(connection_class: type) -> bool:
    """Whether ``read_response`` is that of redis-py's connections through Sentinel."""
    return _is(connection_class.read_response, _SENTINEL.get("read_response", _is))  # type: ignore[attr-defined]


def connects_its_own_way(connection_class: Any) -> bool:
    """Whether a method that redis-py calls for every checkout of a connected connection is not redis-py's own."""
    names = set(ASKED)
    if _is(connection_class.connect, _SENTINEL.get("connect", _is)):
        names.discard("connect")
    return not all(_is(getattr(connection_class, name, None), _ASKED.get(name, _is)) for name in names)


def asks_its_own_way(connection_class: Any) -> bool:
    """Whether ``can_read``, by which redis-py looks at a connection before it lends it, is not redis-py's own."""
    return not _is(connection_class.can_read, _ASKED.get("can_read", _is))


def dials_as(connection_class: type) -> bool:
    """Whether ``_connect`` of this class, one of redis-py's three, is redis-py's own."""
    return _is(vars(connection_class).get("_connect"), _DIAL.get(connection_class) or _is)


def dials_its_own_way(connection_class: type) -> bool:
    """Whether foreign code stands between a connect and the socket."""
    if not all(dials_as(owner) for owner in _DIAL if issubclass(connection_class, owner)):
        return True
    return not any(_is(connection_class._connect, code) for code in _DIAL.values() if code)  # type: ignore[attr-defined]


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
