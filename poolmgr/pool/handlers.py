"""redis-py's handlers of maintenance notifications, referring to their connection weakly.

Handler and connection refer to each other, so a connection that its holder lost would end only when the
garbage collector next looks for cycles, and so would its place and permit. A reader of ``handler.connection`` still
gets the connection itself.
"""

from __future__ import annotations

import weakref
from typing import Any


class _Weakly:
    @property
    def connection(self) -> Any:
        reference = self.__dict__["connection"]
        return None if reference is None else reference()

    @connection.setter
    def connection(self, value: Any) -> None:
        self.__dict__["connection"] = None if value is None else weakref.ref(value)


_weak: dict[type, type] = {}
"""By the few classes of redis-py's handlers."""


def loosen(handler: Any, connection: object) -> None:
    """Let a connection's handler refer to it weakly."""
    if getattr(handler, "connection", None) is not connection:
        return
    kind = type(handler)
    if kind.__module__.startswith("redis.") and not isinstance(handler, _Weakly):
        weak = _weak.get(kind)
        if weak is None:
            weak = _weak.setdefault(kind, type(kind.__name__, (_Weakly, kind), {"__module__": kind.__module__}))
        handler.__class__ = weak
        handler.connection = connection
    elif not isinstance(handler, _Weakly):  # a user's own class
        handler.connection = weakref.proxy(connection)
