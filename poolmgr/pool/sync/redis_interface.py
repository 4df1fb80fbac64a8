"""The rest of redis-py's pool: the parts that Sentinel, Celery, django-redis, exporters and redis-py's own
maintenance handlers read and call, kept true on top of :mod:`poolmgr.pool.queue`.

Nothing here is on the warm path. The lock that foreign code takes (``_lock``) guards nothing of ours; it is
made when first asked for, so that it cannot be older than gevent's patches or the last fork.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import RedisError

from poolmgr.native import monotonic
from poolmgr.pool import housekeeping, metering
from poolmgr.pool.base import BasePool
from poolmgr.pool.sync.adapters import Cached
from poolmgr.pool.sync.derivation import create, pooled
from poolmgr.pool.views import Available, InUse, strangers


def _name_of(factory: Any) -> str:
    """The name of the maker of connections, without its arguments: a password may be among them."""
    if isinstance(factory, functools.partial):
        return _name_of(factory.func)
    named = factory if hasattr(factory, "__name__") else type(factory)
    return f"{named.__module__}.{named.__name__}"


class RedisInterface(BasePool, redis.ConnectionPool):
    """redis-py's pool, on top of ours: :class:`poolmgr.ConnectionPool` derives from it."""

    if TYPE_CHECKING:  # the subclass's

        def _inspect(self, connection: Any, now: float) -> Any: ...

        def _checkout(self, timeout: float | None) -> Any: ...

        def _give_back(self, connection: Any) -> None: ...

    OMIT_REPR_KEYS = frozenset(
        {
            "event_dispatcher", "himport_registry", "maint_notifications_config", "maint_notifications_pool_handler",
            "orig_host_address", "orig_socket_connect_timeout", "orig_socket_timeout",
        }
    )  # fmt: skip

    # ---- attributes that others read -------------------------------------------------------------

    def _idle_ones(self) -> list[Any]:
        return list(self._idle)

    def _lent_ones(self) -> set[Any]:
        return self._lent()

    def _borrow(self, connection: Any) -> bool:
        return housekeeping.borrow(self, connection)

    @property
    def _available_connections(self) -> list[Any]:
        return Available(self)

    @_available_connections.setter
    def _available_connections(self, value: Any) -> None:
        """Assigned by redis-py's ``reset``; ours does not."""

    @property
    def _in_use_connections(self) -> set[Any]:
        return InUse(self)

    @_in_use_connections.setter
    def _in_use_connections(self, value: Any) -> None: ...

    @property
    def _created_connections(self) -> int:
        return self._core.size

    @_created_connections.setter
    def _created_connections(self, value: Any) -> None: ...

    @property
    def _lock(self) -> Any:
        lock = self.__dict__.get("_outer_lock")
        return self.__dict__.setdefault("_outer_lock", threading.RLock()) if lock is None else lock

    @_lock.setter
    def _lock(self, value: Any) -> None:
        """redis-py's constructor makes a lock; ours is made when needed."""

    @property
    def _fork_lock(self) -> Any:
        return self._lock

    @_fork_lock.setter
    def _fork_lock(self, value: Any) -> None: ...

    def _checkpid(self) -> None:
        """Nothing to check: :mod:`poolmgr.pool.fork` has emptied a forked child's pools."""

    def make_connection(self) -> Any:
        """A connection object, not connected and not one of the pool's."""
        made = pooled(create(self.connection_class, self.connection_kwargs))
        if self.cache is not None:
            return Cached(made, self.cache, self._lock)
        return made

    def _get_free_connections(self) -> list[Any]:
        return self._available_connections

    def _get_in_use_connections(self) -> set[Any]:
        return self._in_use_connections

    def _get_pool_lock(self) -> Any:
        return self._lock

    # ---- operations on all connections -----------------------------------------------------------

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, as redis-py does, those in use under their users' hands."""
        self._empty("pool")
        for connection in strangers(self).available:
            connection.disconnect()
        if inuse_connections:
            housekeeping.unready(self, "pool")
            for connection in self._in_use_connections:
                connection.disconnect()

    def disconnect_free_connections(self, moving_address_src: str | None = None) -> None:
        """Close the idle connections to a node that is being moved."""
        for connection in tuple(self._idle):
            moves = self._should_update_connection(connection, "connected_address", moving_address_src)
            if moves and housekeeping.take_out(self, connection):
                self._dispose(connection, "marked")

    def reset(self) -> None:
        """Forget all connections: the idle ones are closed now, those in use when they come back."""
        self._empty("pool")
        housekeeping.retire(self, "pool")
        self.pid = os.getpid()

    def set_retry(self, retry: Any) -> None:
        """As redis-py's: the retry of all connections, now and later."""
        self.connection_kwargs["retry"] = retry
        for connection in self._connections():
            connection.retry = retry

    def re_auth_callback(self, token: Any) -> None:
        """A credential provider has a new token: idle connections send it at once, others at release."""
        for connection in self._in_use_connections:
            connection.set_re_auth_token(token)
        for _ in range(len(self._idle)):
            connection = self._core.take_idle()
            if connection is None:
                break
            try:
                connection.send_command("AUTH", token.try_get("oid"), token.get_value())
                connection.read_response()
                connection._authenticated()
            except (RedisError, OSError):
                self._dispose(connection, "broken")
                continue
            connection._loan.append(0.0)
            self.release(connection)

    # ---- ours: the user's ------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Close the pool.

        Args:
            timeout: None, as redis-py's: all connections are closed at once, even those in use; the pool
                can be used again. A number: no caller gets a connection any more, holders have that many
                seconds to finish, and connections still out are then closed. The pool stays closed.
        """
        if timeout is None:
            self.disconnect()
            return
        self._shut()
        deadline = monotonic() + timeout
        while self._core.lent and monotonic() < deadline:
            time.sleep(0.005)  # holders give back without waking a thread: the warm path signals nothing
            self._empty("pool")
        self.disconnect()

    # ---- a look inside ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"{self._described()} {self._state_in_words()}"

    def _described(self) -> str:
        """As redis-py's ``repr``; the maker of connections need not be a class."""
        arguments = ",".join(
            f"{name}={'<REDACTED>' if name in self.SENSITIVE_REPR_KEYS else value}"
            for name, value in metering.given(self.connection_kwargs).items()
            if name not in self.OMIT_REPR_KEYS
        )
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__}(<{_name_of(self.connection_class)}({arguments})>)>"

    def _after_fork(self) -> None:
        self.__dict__.pop("_strangers", None)
        self.__dict__.pop("_outer_lock", None)
        super()._after_fork()
