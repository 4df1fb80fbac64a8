"""redis-py's handlers of maintenance notifications, referring to their connection weakly.

Handler and connection refer to each other, so a connection that its holder lost would end only when the
garbage collector next looks for cycles, and so would its place and permit. A reader of ``handler.connection`` still
gets the connection itself.
"""

from __future__ import annotations

import weakref
from typing import Any

from redis.maint_notifications import MaintNotificationsConnectionHandler, MaintNotificationsPoolHandler


class _Weakly:
    @property
    def connection(self) -> Any:
        reference = self.__dict__["connection"]
        return None if reference is None else reference()

    @connection.setter
    def connection(self, value: Any) -> None:
        self.__dict__["connection"] = None if value is None else weakref.ref(value)


class _PoolHandler(_Weakly, MaintNotificationsPoolHandler):
    pass


class _ConnectionHandler(_Weakly, MaintNotificationsConnectionHandler):
    pass


_WEAK = {MaintNotificationsPoolHandler: _PoolHandler, MaintNotificationsConnectionHandler: _ConnectionHandler}


def loosen(handler: Any, connection: object) -> None:
    """Let a connection's handler refer to it weakly."""
    if getattr(handler, "connection", None) is not connection:
        return
    weak = _WEAK.get(type(handler))
    if weak is not None:
        handler.__class__ = weak
        handler.connection = connection
    elif not isinstance(handler, _Weakly):  # a user's own class
        handler.connection = weakref.proxy(connection)
