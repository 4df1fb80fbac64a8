"""The rest of redis.asyncio's pool: the parts that redis-py's clients, Sentinel and its maintenance handlers read and
call, kept true on top of the shards.

Nothing here is on the warm path. The lock that foreign code takes (``_lock``) guards nothing of ours.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import redis.asyncio
from redis.exceptions import ConnectionError as RedisConnectionError

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.pool import housekeeping, metering
from poolmgr.pool.aio import connector
from poolmgr.pool.aio.derivation import create, pooled
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.views import Available, InUse, strangers

if TYPE_CHECKING:
    _Pool: Any
else:
    _Pool = redis.asyncio.ConnectionPool

OMITTED = frozenset(
    {
        "event_dispatcher", "himport_registry", "maint_notifications_config", "maint_notifications_pool_handler",
        "orig_host_address", "orig_socket_connect_timeout", "orig_socket_timeout",
    }
)  # fmt: skip
"""Arguments of connections that ``repr`` leaves out."""


FOR_THREADS = (
    "this pool is for tasks of an event loop: give it to redis.asyncio.Redis(connection_pool=...) and await it there; "
    "for redis.Redis(connection_pool=...), in threads, use poolmgr.ConnectionPool"
)


class RedisInterface(_Pool):  # type: ignore[misc]
    """redis.asyncio's pool, on top of ours: :class:`poolmgr.asyncio.ConnectionPool` derives from it."""

    _shards: list[Shard]

    if TYPE_CHECKING:  # the subclass's
        timeout: float | None

        def _here(self) -> Shard: ...

        async def _checkout(self, timeout: float | None) -> Any: ...

    OMIT_REPR_KEYS = OMITTED

    @property
    def connection_kwargs(self) -> dict[str, Any]:
        """The arguments of connections. A client for threads asks for them in its constructor. It gets an error
        there, because later it would receive coroutines instead of replies.

        Raises:
            TypeError: a ``redis.Redis`` asks.
        """
        if sys._getframe(1).f_globals.get("__name__") == "redis.client":
            raise TypeError(FOR_THREADS)
        arguments: dict[str, Any] = self._connection_kwargs
        return arguments

    @connection_kwargs.setter
    def connection_kwargs(self, value: dict[str, Any]) -> None:
        self._connection_kwargs = value

    # ---- attributes that others read -------------------------------------------------------------

    def _idle_ones(self) -> list[Any]:
        return [connection for shard in tuple(self._shards) for connection in tuple(shard._idle)]

    def _lent_ones(self) -> set[Any]:
        return {connection for shard in tuple(self._shards) for connection in shard._lent()}

    def _borrow(self, connection: Any) -> bool:
        shard = getattr(connection, "_shard", None)
        return shard in tuple(self._shards) and housekeeping.borrow(shard, connection)

    def _give_back(self, connection: Any) -> None:
        connection._shard._give_back(connection)

    @property
    def _available_connections(self) -> list[Any]:
        return Available(self)

    @_available_connections.setter
    def _available_connections(self, value: Any) -> None:
        """Assigned by redis-py's constructor."""

    @property
    def _in_use_connections(self) -> set[Any]:
        return InUse(self)

    @_in_use_connections.setter
    def _in_use_connections(self, value: Any) -> None: ...

    @property
    def _lock(self) -> asyncio.Lock:
        """One for each loop: a lock belongs to the first loop in which a task waits for it."""
        locks = self.__dict__.setdefault("_locks", weakref.WeakKeyDictionary())
        loop = asyncio._get_running_loop()
        lock: asyncio.Lock = asyncio.Lock() if loop is None else locks.setdefault(loop, asyncio.Lock())
        return lock

    @_lock.setter
    def _lock(self, value: Any) -> None: ...

    def _get_pool_lock(self) -> asyncio.Lock:
        return self._lock

    def can_get_connection(self) -> bool:
        """Whether a checkout here would find a connection idle, or may open one."""
        shard = self._here()
        return bool(shard._idle) or shard._core.size < shard._core.ceiling

    def get_available_connection(self) -> Any:
        """An idle connection, not looked at.

        Raises:
            ConnectionPoolTimeoutError: none is idle: only :meth:`get_connection` can open one.
        """
        shard = self._here()
        connection = shard._core.take_idle()
        if connection is None:
            raise ConnectionPoolTimeoutError("no connection is idle: await get_connection(), which may open one")
        shard._lend(connection)
        return connection

    async def ensure_connection(self, connection: Any) -> None:
        """Connect it, unless it is connected. A subclass's own is called for every checkout.

        Raises:
            redis.exceptions.ConnectionError: it cannot be connected, or a class of a user's says that there is
                something to read.
        """
        if not issubclass(type(connection), PoolEntry):
            await super().ensure_connection(connection)
            return
        await connection.connect()
        if connection._asked and await connection.can_read() and not self.maint_notifications_enabled():
            raise RedisConnectionError("Connection has data")

    def make_connection(self) -> Any:
        """A connection object, not connected and not one of the pool's."""
        return pooled(create(self.connection_class, self.connection_kwargs))

    def owns_connection(self, connection: Any) -> bool:
        """Whether a connection that comes back may be used again, for all that is known of its address."""
        return True

    # ---- operations on all connections -----------------------------------------------------------

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, as redis-py does, those in use under their users' hands. Never suspends."""
        for shard in tuple(self._shards):
            shard._empty("pool")
        for connection in strangers(self).available:
            await connection.disconnect()
        if inuse_connections:
            for shard in tuple(self._shards):
                housekeeping.unready(shard, "pool")
            await self._disconnect_connections(self._in_use_connections)

    async def _disconnect_connections(self, connections: Iterable[Any]) -> None:
        for connection in tuple(connections):
            for shard in tuple(self._shards):
                if housekeeping.take_out(shard, connection):
                    shard._dispose(connection, "marked")
                    break
            else:
                await connection.disconnect()

    async def update_active_connections_for_reconnect(self) -> None:
        for connection in self._in_use_connections:
            connection.mark_for_reconnect()

    def reset(self) -> None:
        """Forget all connections: the idle ones are closed now, those in use when they come back."""
        for shard in tuple(self._shards):
            shard._empty("pool")
            housekeeping.retire(shard, "pool")

    def set_retry(self, retry: Any) -> None:
        """The retry of all connections, now and later."""
        self.connection_kwargs["retry"] = retry
        for shard in tuple(self._shards):
            for connection in shard._connections():
                connection.retry = retry

    async def re_auth_callback(self, token: Any) -> None:
        """A credential provider has a new token: idle connections send it at once, in their own loops, and others at
        release."""
        for shard in tuple(self._shards):
            for connection in shard._lent():
                connection.set_re_auth_token(token)
            for _ in range(len(shard._idle)):
                connection = shard._core.take_idle()
                if connection is None:
                    break
                connection.set_re_auth_token(token)
                if not shard.soon(functools.partial(connector.dispatched, shard, connection)):
                    shard._dispose(connection, "broken")

    # ---- in words --------------------------------------------------------------------------------

    def _described(self) -> str:
        """As redis-py's ``repr``; the maker of connections need not be a class."""
        arguments = ",".join(
            f"{name}={'<REDACTED>' if name in self.SENSITIVE_REPR_KEYS else value}"
            for name, value in metering.given(self.connection_kwargs).items()
            if name not in self.OMIT_REPR_KEYS
        )
        kind = type(self)
        made = self.connection_class
        named = made if hasattr(made, "__name__") else type(made)
        return f"<{kind.__module__}.{kind.__name__}(<{named.__module__}.{named.__name__}({arguments})>)>"

    def __del__(self) -> None:
        """redis-py's counts what is left; here the connections end with the pool."""
