"""Classes derived from a user's connection class, kept on that class; and the arguments that all connections get.

A derived class lives as long as the class that it derives from: kombu makes a connection class for every channel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from redis.driver_info import DriverInfo

from poolmgr.lazy import load

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
