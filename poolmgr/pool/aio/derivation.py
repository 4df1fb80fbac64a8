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
from poolmgr.pool.aio.counted import Counted
from poolmgr.pool.aio.managed import ReadsThroughSentinel, ThroughSentinel
from poolmgr.pool.aio.overrides import dials_its_own_way, is_quick
from poolmgr.pool.aio.replies import Quick
from poolmgr.pool.aio.sockets import Ended, Tcp, Unix
from poolmgr.pool.derived import kept, with_driver
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.metering import is_plain


class _Quick(Quick, Pooled):
    """For classes that send and read as redis-py does, with its parser for hiredis."""


class _Counted(Counted, Pooled):
    """For all others."""

    _together = False


class _QuickManaged(ReadsThroughSentinel, _Quick):
    """Through Sentinel."""


class _CountedManaged(ThroughSentinel, _Counted):
    """Through Sentinel."""


class _Shape(NamedTuple):
    """How a class is derived."""

    quick: bool
    own_way: bool
    """Foreign code stands between a connect and the socket."""


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
    quick = not own_way and is_plain(parser, _AsyncHiredisParser) and is_quick(base)
    return kept(base, _Shape(quick, own_way), _made)


def _made(base: type, shape: _Shape) -> type:
    members: dict[str, Any] = {
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        "_secured": issubclass(base, RedisSSLConnection),
        "_own_way": shape.own_way,
    }
    front: type = _Quick if shape.quick else _Counted
    behind: tuple[type, ...] = ()
    if not shape.own_way:
        behind = (Tcp,) if issubclass(base, RedisConnection) else (Unix,)
        members["_prepare"] = behind[0]._prepare
    if issubclass(base, SentinelManagedConnection):
        front = _QuickManaged if shape.quick else _CountedManaged
    bases = (front, *behind, Ended) if base in (RedisConnection, RedisUnixConnection) else (front, base, *behind, Ended)
    return types.new_class(base.__name__, bases, exec_body=lambda space: space.update(members))


def create(factory: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """A connection from a connection class, or from a function that makes them.

    Raises:
        TypeError: what it makes cannot be pooled.
    """
    parser = arguments.get("parser_class", _AsyncHiredisParser)
    if isinstance(factory, type):
        return derive(factory, parser)(**with_driver(arguments))
    made = factory(**arguments)
    if not isinstance(made, PoolEntry):
        parser = type(made._parser)
        made.__class__ = derive(type(made), parser)
        made.set_parser(parser)
    return made
