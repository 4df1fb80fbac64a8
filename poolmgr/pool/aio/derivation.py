"""From a connection class of redis.asyncio, or a user's, to the class of pooled connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import (
    AbstractConnection,
    Connection as RedisConnection,
    SSLConnection as RedisSSLConnection,
    UnixDomainSocketConnection as RedisUnixConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection

from poolmgr.pool.aio.connection import Pooled
from poolmgr.pool.aio.counted import Before, Behind
from poolmgr.pool.aio.managed import ReadsThroughSentinel, ThroughSentinel
from poolmgr.pool.aio.overrides import asks_its_own_way, connects_its_own_way, dials_its_own_way, is_quick
from poolmgr.pool.aio.replies import Quick
from poolmgr.pool.aio.sockets import Ended, Tcp, Unix
from poolmgr.pool.derived import Foreign, become, is_pooled, kept, standing_for, with_driver
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.metering import is_plain


class _Quick(Quick, Pooled):
    """For classes that send and read as redis-py does, with its parser for hiredis."""


class _Counted(Pooled, Before):
    """For all others."""

    _together = False


class _QuickManaged(ReadsThroughSentinel, _Quick):
    """Through Sentinel."""


class _CountedManaged(ThroughSentinel, _Counted):
    """Through Sentinel."""


class _Eager(PoolEntry):
    """For classes that are asked before every checkout: each release looks closer, and has the next checkout ask."""

    @property
    def _special(self) -> bool:
        return True

    @_special.setter
    def _special(self, value: bool) -> None: ...


class _Shape(NamedTuple):
    """How a class is derived."""

    quick: bool
    foreign: Foreign


def derive(base: type, parser: type = _AsyncHiredisParser) -> type:
    """The class of pooled connections for a connection class; the same for the same class.

    Raises:
        TypeError: it is not a connection class of redis.asyncio's.
    """
    if issubclass(base, PoolEntry):
        return base
    if not issubclass(base, AbstractConnection):
        raise TypeError(
            f"poolmgr.asyncio.ConnectionPool needs a connection class derived from redis.asyncio's, not "
            f"{base.__module__}.{base.__qualname__}; for threads use poolmgr.ConnectionPool"
        )
    foreign = Foreign(dials_its_own_way(base), connects_its_own_way(base), asks_its_own_way(base))
    quick = not foreign.dials and not foreign.eager  # which may have a stream of its own making
    quick = quick and is_plain(parser, _AsyncHiredisParser) and is_quick(base)
    return kept(base, _Shape(quick, foreign), _made)


def _made(base: type, shape: _Shape) -> type:
    members = shape.foreign.members(base, secured=issubclass(base, RedisSSLConnection))
    front: type = _Quick if shape.quick else _Counted
    behind: tuple[type, ...] = ()
    if not shape.foreign.dials:
        behind = (Tcp,) if issubclass(base, RedisConnection) else (Unix,)
        members["_prepare"] = behind[0]._prepare
    if issubclass(base, SentinelManagedConnection):
        front = _QuickManaged if shape.quick else _CountedManaged
    last = (*behind, Ended) if shape.quick else (*behind, Ended, Behind)
    bases = (front, *last) if base in (RedisConnection, RedisUnixConnection) else (front, base, *last)
    if shape.foreign.eager:
        bases = (_Eager, *bases)
    return standing_for(base, bases, members)


def create(factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """A connection from a connection class, or from any function that makes them; :func:`pooled` makes it ours."""
    if isinstance(factory, type):
        return derive(factory, arguments.get("parser_class", _AsyncHiredisParser))(**with_driver(arguments))
    return factory(**arguments)


def pooled(made: Any) -> Any:
    """The same connection as a pooled one, whatever made it: a class, a function, a pool's ``make_connection``.

    Raises:
        TypeError: it is not a connection, or its class cannot be pooled.
    """
    if is_pooled(made):
        return made
    if getattr(made, "_writer", None) is not None:
        raise TypeError(
            f"{made!r}, made by connection_class or make_connection, is connected already, without a permit: "
            "leave that to the pool"
        )
    parser = getattr(made, "_parser", None)
    become(made, lambda kind: derive(kind, type(parser)))
    if parser is not None:
        made.set_parser(type(parser))
    return made
