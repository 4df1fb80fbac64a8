"""From a connection class, or a function that makes connections, to the class of pooled connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis.connection import (
    AbstractConnection,
    CacheProxyConnection,
    Connection as RedisConnection,
    SSLConnection as RedisSSLConnection,
    UnixDomainSocketConnection as RedisUnixConnection,
)
from redis.sentinel import SentinelManagedConnection

from poolmgr.pool.derived import Foreign, become, is_pooled, kept, standing_for, with_driver
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.sync.adapters import Bare, Cached
from poolmgr.pool.sync.connection import Pooled
from poolmgr.pool.sync.managed import ThroughSentinel
from poolmgr.pool.sync.overridden import Before, Behind
from poolmgr.pool.sync.overrides import (
    asks_its_own_way,
    changed,
    connects_its_own_way,
    dials_its_own_way,
    reads_as_sentinel,
)
from poolmgr.pool.sync.replies import Accounted, Counted
from poolmgr.pool.sync.sockets import Ended, Tcp, Unix


class _Quick(Pooled, Accounted):
    """For classes that send and read as redis-py does."""


class _Managed(Counted, Pooled):
    """For classes whose ``read_response`` is that of redis-py's connections through Sentinel."""


class _Plain(Pooled, Before):
    """For classes that send or read in another way: redis-py's order of calls, nothing left out."""

    _together = False


class _Eager(PoolEntry):
    """For classes that are asked before every checkout: their connections never count as known to work."""

    _came: float = 0.0

    @property
    def _since(self) -> float:
        return 0.0

    @_since.setter
    def _since(self, value: float) -> None:
        self._came = value

    @property
    def _rested(self) -> float:
        return self._came


def derive(base: type) -> type:
    """The class of pooled connections for a connection class; the same for the same class.

    A patch to how the class sends and reads changes the answer, so it is asked for every connection.
    """
    if issubclass(base, PoolEntry):
        return base
    return kept(base, _shape(base), _made)


class _Shape(NamedTuple):
    """How a class is derived."""

    front: type
    foreign: Foreign = Foreign()


def _shape(base: type) -> _Shape:
    if not issubclass(base, AbstractConnection):
        return _Shape(Bare)
    found = changed(base)
    if not found:
        front: type = _Quick
    elif found == {"read_response"} and reads_as_sentinel(base):
        front = _Managed
    else:
        front = _Plain
    return _Shape(front, Foreign(dials_its_own_way(base), connects_its_own_way(base), asks_its_own_way(base)))


def _made(base: type, shape: _Shape) -> type:
    front, foreign = shape
    members: dict[str, Any] = {}
    bases: tuple[type, ...] = (front, base)
    if front is not Bare:
        members = foreign.members(base, secured=issubclass(base, RedisSSLConnection))
        behind: tuple[type, ...] = ()
        if issubclass(base, RedisConnection):
            behind = (Tcp,)
            members["_prepare"] = Tcp._prepare
        elif issubclass(base, RedisUnixConnection):
            behind = (Unix,)
        bases = (front, *behind) if base in (RedisConnection, RedisUnixConnection) else (front, base, *behind)
        bases += (Ended, Behind) if front is _Plain else (Ended,)
        if issubclass(base, SentinelManagedConnection):
            bases = (ThroughSentinel, *bases)
        if foreign.eager:
            bases = (_Eager, *bases)
    return standing_for(base, bases, members)


def create(factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """A connection from a connection class, or from any function that makes them; :func:`pooled` makes it ours."""
    if isinstance(factory, type):
        redis_own = issubclass(factory, AbstractConnection)
        return derive(factory)(**(with_driver(arguments) if redis_own else arguments))
    return factory(**arguments)


def pooled(made: Any) -> Any:
    """The same connection as a pooled one, whatever made it: a class, a function, a pool's ``make_connection``.

    Raises:
        TypeError: it is not a connection, or its class cannot be pooled.
    """
    if is_pooled(made):
        return made
    if type(made) is CacheProxyConnection:
        made._conn = pooled(made._conn)
        made.__class__ = Cached
        return made
    if getattr(made, "_sock", None) is not None:
        made.disconnect()  # it connects again under a permit
    become(made, derive)
    return made
