"""The pool for tasks: a ``redis.asyncio.ConnectionPool`` in every way that others rely on.

:mod:`poolmgr.pool.queue` decides, :mod:`poolmgr.pool.base` carries out; this module and its neighbours add how a task
waits and how an event loop connects. The paths:

- **Warm** (:meth:`ConnectionPool.get_connection`, :meth:`ConnectionPool.release`): one deque operation each. They do
  not suspend, so no other task runs and no cancellation comes in between.
- **Cold** (:meth:`ConnectionPool._checkout`): the task queues, and waits for its fate.

Each loop in which the pool is used has its own :class:`~poolmgr.pool.aio.shard.Shard`; :mod:`poolmgr.pool.aio.shards`
asks them together.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection
from threading import get_ident
from typing import Any

from redis._parsers import _AsyncHiredisParser
from redis.asyncio.connection import Connection as RedisConnection
from redis.asyncio.observability import recorder
from redis.event import AsyncAfterConnectionReleasedEvent

from poolmgr import gil
from poolmgr.exceptions import PoolClosedError
from poolmgr.logs import journal
from poolmgr.native import monotonic
from poolmgr.pool import fork, housekeeping, metering, options, request_wait
from poolmgr.pool.aio import connector, credentials, waiting
from poolmgr.pool.aio.aside import aside
from poolmgr.pool.aio.lease import Lease
from poolmgr.pool.aio.overrides import way_of
from poolmgr.pool.aio.redis_interface import FOR_THREADS
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.aio.shards import Shards
from poolmgr.pool.base import BasePool
from poolmgr.pool.membership import Member
from poolmgr.pool.options import DEFAULT, Options, documented
from poolmgr.pool.permit_source import PermitSource
from poolmgr.pool.releases import Releases
from poolmgr.pool.stats import Hooks

gil.require()  # redis-py is loaded: if hiredis needs the GIL, there is one

_hooks = sys.get_asyncgen_hooks


@documented
class ConnectionPool(Releases, Shards):
    """A pool of Redis connections for tasks, first come first served, under the budget of its host.

    It takes the arguments of ``redis.asyncio``'s pools, and these. Times are in seconds. Used in several loops, it has
    one ceiling for all; ``min_idle`` and ``max_connecting`` hold in each.

    Args:
        connection_class: redis.asyncio's, one derived from it, or a function that makes such connections. The pool's
            connections derive from it.
        OPTIONS
        member: the source of permits; default: the process's own.

    Raises:
        ValueError: an argument has a value that is not allowed.
    """

    descriptors = 2
    """Of each connection: the transport's, and the permit's."""

    _opener = staticmethod(connector.open_offered)
    _release = AsyncAfterConnectionReleasedEvent

    def __init__(
        self,
        connection_class: Any = RedisConnection,
        max_connections: int | None = DEFAULT.max_connections,
        maint_notifications_config: Any = None,
        *,
        timeout: float | None = DEFAULT.timeout,
        min_idle: int = DEFAULT.min_idle,
        max_waiting: int = DEFAULT.max_waiting,
        idle_timeout: float = DEFAULT.idle_timeout,
        max_lifetime: float = DEFAULT.max_lifetime,
        order: str = DEFAULT.order,
        leak_after: float = DEFAULT.leak_after,
        name: str | None = DEFAULT.name,
        max_connecting: int = DEFAULT.max_connecting,
        max_reply: int = DEFAULT.max_reply,
        hooks: Hooks | None = DEFAULT.hooks,
        member: Member | None = None,
        **connection_kwargs: Any,
    ) -> None:
        Options.of(locals()).settle_on(self)
        self.min_idle, self.max_connecting = min_idle, max_connecting
        self._ceiling = max_connections or BasePool._default_ceiling(connection_class, member)
        self.closed: PoolClosedError | None = None
        self._start_over()
        self._origin = PermitSource(self, member, way_of, credentials.ask)
        self._misdirected_at, self._misdirected_by = float("-inf"), ""
        super().__init__(
            connection_class=connection_class,
            max_connections=self._ceiling,
            maint_notifications_config=maint_notifications_config,
            **metering.arguments_of(max_reply, connection_kwargs, _AsyncHiredisParser),
        )
        self._hear()
        self._ensures = type(self).ensure_connection is not Shards.ensure_connection
        """A subclass's own is called for every checkout."""
        self._watched = bool(leak_after or self.hooks.checked_out or self._ensures)
        self._strict = type(self).owns_connection is not ConnectionPool.owns_connection
        fork.watch(self)

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> ConnectionPool:
        """A pool for a URL, as redis-py's; all options of the constructor that have a plain value may
        stand in the query, which overrides keyword arguments: ``redis://host/0?min_idle=2&order=lifo``.

        Raises:
            ValueError: the URL or one of its options is not valid.
        """
        url, ours = options.split(url)
        pool: ConnectionPool = super().from_url(url, **{**kwargs, **ours})
        return pool

    # ---- warm ------------------------------------------------------------------------------------

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection; waits at most ``timeout`` for one that others hold. Give it back with :meth:`release`.

        Raises:
            ConnectionPoolTimeoutError: no connection came in time; says why.
            ServerDownError: the server is known to be down.
            PoolClosedError: the pool was closed.
            redis.exceptions.RedisError: a connection could not be opened.
            TypeError: there is no event loop here.
        """
        shard = self._shard
        if shard is None or (
            _hooks()[0] is not shard.hook if (teller := shard.teller) is None else teller._thread_id != get_ident()
        ):
            if asyncio._get_running_loop() is None:
                raise TypeError(FOR_THREADS)
            shard = self._here()
            if self._watched:
                return await self._checkout(self.timeout)
        if not shard._queue and recorder._async_metrics_collector is None:
            idle = shard._idle
            try:
                connection = idle.pop() if shard._lifo else idle.popleft()
            except IndexError:
                pass
            else:
                left = len(idle)
                if left < shard._low:
                    shard._low = left
                now = monotonic()
                stream = connection._stream
                if stream is None or stream.stirred or now >= connection._expires:
                    connection = await connector.inspected(shard, connection, now)
                connection._loan.append(now)
                shard._checkouts += 1
                return connection
        return await self._checkout(self.timeout)

    async def release(self, connection: Any) -> None:
        """Take a connection back. Never suspends; a second release, and one of a connection that is not
        this pool's, does nothing."""
        try:
            if connection._origin is not self._origin:
                return
            connection._loan.pop()
        except (IndexError, AttributeError):
            return
        shard = connection._shard
        if (
            connection._owed
            or connection._special
            or connection._stream is None
            or connection._draws.surplus > 0
            or self._listeners[AsyncAfterConnectionReleasedEvent] is not self._usual
            or recorder._async_metrics_collector is not None
        ):
            connector.take_back(shard, connection, listened=self._listened)
            return
        connection._since = monotonic()
        shard._idle.append(connection)
        if shard._queue:
            shard._advance(may_open=False)

    def connection(self, timeout: float | None = -1) -> Lease:
        """For ``async with pool.connection() as c:``. Gives the connection back at the end of the block.

        Args:
            timeout: how long to wait for others; default: the pool's; None: for ever.
        """
        return Lease(self, self.timeout if timeout is not None and timeout < 0 else timeout)

    # ---- cold ------------------------------------------------------------------------------------

    async def _checkout(self, timeout: float | None) -> Any:
        journal.catch_up()
        started = monotonic()
        shard = self._here()
        if not self._origin.is_ready():
            await aside(self._origin.look_up)  # the member starts; a name is looked up
        connection = shard._found_idle()
        if connection is not None:
            connection = await connector.inspected(shard, connection, started)
        else:
            shard._must_be_up()
            shard._low = 0
            try:
                connection, used = await waiting.queue_up(shard, started, timeout)
                if used:
                    connection = await connector.inspected(shard, connection, monotonic())
            finally:
                request_wait.add(monotonic() - started)
        shard._lend(connection)
        if self._watched:
            housekeeping.note_checkout(shard, connection)
        return connection

    # ---- what its user sets ----------------------------------------------------------------------

    @property
    def max_connections(self) -> int:
        """This pool's own ceiling; 2**31 if only the budget bounds it. May be set, as by :meth:`resize`."""
        return self._ceiling

    @max_connections.setter
    def max_connections(self, value: int) -> None:
        if value != self._ceiling:
            self.resize(max_connections=value)

    def resize(self, *, max_connections: int | None = None, min_idle: int | None = None) -> None:
        """Change the pool while it is in use. Connections above a lower ceiling are closed: idle ones now,
        lent ones when they come back.

        Raises:
            ValueError: a number is not allowed.
        """
        self._ceiling, self.min_idle = housekeeping.bounds(self._ceiling, self.min_idle, max_connections, min_idle)
        for shard in tuple(self._shards):
            shard.resize(max_connections=self._ceiling, min_idle=self.min_idle)
        self._shrink()

    def _lent_in(self, loop: object, keys: Collection[str]) -> int:
        if not any(permits.endpoint.key in keys for permits in self._origin.known):
            return 0
        return sum(shard._core.lent for shard in tuple(self._shards) if shard.loop is loop)

    def _rest(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close what lies idle in a loop that is about to end."""
        for shard in tuple(self._shards):
            if shard.loop is loop:
                shard._empty("pool")

    def drain(self) -> None:
        """Replace every connection: idle ones are closed now, lent ones when they come back. For a
        failover, or new credentials in ``connection_kwargs``."""
        for shard in tuple(self._shards):
            shard.drain()

    async def aclose(self, timeout: float | None = None) -> None:
        """Close the pool.

        Args:
            timeout: None, as redis-py's: all connections are closed at once, even those in use; the pool
                can be used again. A number: no task gets a connection any more, holders have that many
                seconds to finish, and connections still out are then closed. The pool stays closed.
        """
        await self._on_close()
        if timeout is not None:
            self.closed = PoolClosedError(f"the pool {self.name} was closed")
            for shard in tuple(self._shards):
                shard._shut()
            deadline = monotonic() + timeout
            while self._lent_ones() and monotonic() < deadline:
                await asyncio.sleep(0.005)
        for shard in tuple(self._shards):
            shard.stop()
        await self.disconnect()

    # ---- a look inside ---------------------------------------------------------------------------

    def __repr__(self) -> str:
        stats = self.stats()
        size = stats.in_use + stats.idle + stats.opening
        ceiling = "" if stats.max_connections is None else f" of {stats.max_connections}"
        state = "closed" if self.closed else "ready" if size else "empty"
        return (
            f"{self._described()} [{self.name} {state}: {stats.in_use} in use, {stats.idle} idle, "
            f"{stats.opening} opening{ceiling}, {stats.waiting} waiting]"
        )

    def _after_fork(self) -> None:
        """In the child: no shard. The parent's sockets are closed, and its loop is not touched."""
        for shard in self._shards:
            shard._after_fork()
        _inherited.extend(self._shards)
        self._start_over()
        self._origin.forget()
        self.__dict__.pop("_strangers", None)


_inherited: list[Shard] = []
"""The parent's, kept in a child: their tasks and futures are the parent's, and are not finalised there."""


__all__ = ["ConnectionPool", "Hooks", "Lease"]
