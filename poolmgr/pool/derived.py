"""Classes derived from a user's connection class, kept on that class; connections that become theirs; and the arguments
that all connections get.

A derived class bears its base's name and module, since it stands for it in messages and to agents. It lives as long as
the class that it derives from: kombu makes a connection class for every channel.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

from redis.driver_info import DriverInfo

from poolmgr.lazy import load
from poolmgr.pool.endpoints import opens_no_socket
from poolmgr.pool.entry import PoolEntry

Shape = TypeVar("Shape", bound=Hashable)

_KEPT = "_poolmgr_derived"
"""The attribute of a connection class that holds the classes derived from it, by shape."""


def kept(base: type, shape: Shape, make: Callable[[type, Shape], type]) -> type:
    """The class of this shape derived from a class: the same for the same class and shape."""
    found: dict[Hashable, type] | None = base.__dict__.get(_KEPT)  # its own, not an ancestor's
    if found is None:
        found = {}
        try:
            setattr(base, _KEPT, found)
        except (AttributeError, TypeError):  # it takes no attributes: derive for each connection, and keep nothing
            return make(base, shape)
    made = found.get(shape)
    if made is None:
        made = found.setdefault(shape, make(base, shape))
    return made


class Foreign(NamedTuple):
    """What of a class is not redis-py's own."""

    dials: bool = False
    """Foreign code stands between a connect and the socket."""
    eager: bool = False
    """A method that redis-py calls for every checkout is foreign."""
    asked: bool = False
    """``can_read`` is."""

    def members(self, base: type, *, secured: bool) -> dict[str, Any]:
        """The attributes by which a derived class's connections know it."""
        return {
            "_secured": secured,
            "_own_way": self.dials,
            "_eager": self.eager,
            "_asked": self.asked,
            "_socketless": opens_no_socket(base),
        }


def standing_for(base: type, bases: tuple[type, ...], members: dict[str, Any]) -> type:
    """A class with these bases and attributes that bears ``base``'s name."""
    named = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return types.new_class(base.__name__, bases, exec_body=lambda space: space.update(named | members))


def is_pooled(made: Any) -> bool:
    """Whether what a class, a function or ``make_connection`` has made is a pooled connection already.

    Raises:
        TypeError: it is not a connection.
    """
    if isinstance(made, PoolEntry):
        return True
    if not callable(getattr(made, "connect", None)):
        raise TypeError(f"{made!r}, made by connection_class or make_connection, is not a redis-py connection")
    return False


def become(made: Any, derive: Callable[[type], type]) -> None:
    """Make a connection one of the class derived from its own.

    Raises:
        TypeError: its class cannot be pooled.
    """
    kind = type(made)
    try:
        made.__class__ = derive(kind)
    except TypeError as error:
        raise TypeError(
            f"a {kind.__module__}.{kind.__qualname__}, made by connection_class or make_connection, cannot be pooled "
            f"({error}): pass the class itself as connection_class"
        ) from None


TO_READ_METADATA = (
    "email.parser", "email.message", "email.iterators", "email._encoded_words",
    "importlib.metadata._adapters", "importlib.metadata._text",
)  # fmt: skip
"""Modules that reading a package's metadata loads. Up to Python 3.13 all but the first come with what loads them."""


@functools.cache
def _driver() -> DriverInfo:
    for name in TO_READ_METADATA:
        load(name)
    return DriverInfo()


def with_driver(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a connection of redis-py's, the driver's name and version among them.

    redis-py looks its own version up in the package's metadata for every connection, which takes longer
    than a connect on this host; here it happens once.
    """
    if arguments.keys() & {"driver_info", "lib_name", "lib_version"}:
        return arguments
    return {**arguments, "driver_info": _driver()}
