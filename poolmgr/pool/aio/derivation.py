"""From a connection class of redis.asyncio, or a user's, to the class of pooled connections.

A derived class bears its base's name and module, since it stands for it in messages and to agents.
"""

from __future__ import annotations

import types
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
from poolmgr.pool.derived import kept, with_driver
from poolmgr.pool.endpoints import opens_no_socket
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
    own_way: bool
    """Foreign code stands between a connect and the socket."""
    eager: bool
    """A method that redis-py calls for every checkout is foreign."""
    asked: bool
    """``can_read`` is."""


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
    own_way = dials_its_own_way(base)
    eager = connects_its_own_way(base)  # and may have a stream of its own making
    quick = not own_way and not eager and is_plain(parser, _AsyncHiredisParser) and is_quick(base)
    shape = _Shape(quick, own_way, eager, asks_its_own_way(base))
    return kept(base, shape, _made)


def _made(base: type, shape: _Shape) -> type:
    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_secured": issubclass(base, RedisSSLConnection),
        "_own_way": shape.own_way,
        "_eager": shape.eager,
        "_asked": shape.asked,
        "_socketless": opens_no_socket(base),
    }
    front: type = _Quick if shape.quick else _Counted
    behind: tuple[type, ...] = ()
    if not shape.own_way:
        behind = (Tcp,) if issubclass(base, RedisConnection) else (Unix,)
        members["_prepare"] = behind[0]._prepare
    if issubclass(base, SentinelManagedConnection):
        front = _QuickManaged if shape.quick else _CountedManaged
    last = (*behind, Ended) if shape.quick else (*behind, Ended, Behind)
    bases = (front, *last) if base in (RedisConnection, RedisUnixConnection) else (front, base, *last)
    if shape.eager:
        bases = (_Eager, *bases)
    return types.new_class(base.__name__, bases, exec_body=lambda space: space.update(members))


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
    if isinstance(made, PoolEntry):
        return made
    kind = type(made)
    if not callable(getattr(made, "connect", None)):
        raise TypeError(f"{made!r}, made by connection_class or make_connection, is not a redis-py connection")
    if getattr(made, "_writer", None) is not None:
        raise TypeError(
            f"{made!r}, made by connection_class or make_connection, is connected already, without a permit: "
            "leave that to the pool"
        )
    parser = getattr(made, "_parser", None)
    try:
        made.__class__ = derive(kind, type(parser))
    except TypeError as error:
        raise TypeError(
            f"a {kind.__module__}.{kind.__qualname__}, made by connection_class or make_connection, cannot be pooled "
            f"({error}): pass the class itself as connection_class"
        ) from None
    if parser is not None:
        made.set_parser(type(parser))
    return made
