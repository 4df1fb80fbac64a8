"""The pool for threads and greenlets: a ``redis.ConnectionPool`` in every way that others rely on.

:mod:`poolmgr.pool.queue` decides. This module carries the decisions out: threads wait, connections are
made, handed over and closed. The paths:

- **Warm** (:meth:`ConnectionPool.get_connection`, :meth:`ConnectionPool.release`): one deque operation
  each. No lock, no system call, no exception; a connection that was idle for more than a millisecond
  is looked at once.
- **Cold** (:meth:`ConnectionPool._checkout`): the caller queues, and waits for its fate.

How the core is advanced, without a lock: :meth:`poolmgr.pool.base.BasePool._advance`.
"""

from __future__ import annotations

from typing import Any

from redis.connection import Connection as RedisConnection, DefaultParser
from redis.event import AfterConnectionReleasedEvent
from redis.observability import recorder

from poolmgr import gil
from poolmgr.logs import journal
from poolmgr.member.core.bounds import CONNECTING, LONGEST
from poolmgr.native import monotonic
from poolmgr.pool import admission, fork, housekeeping, metering, options, request_wait
from poolmgr.pool.admission import FRESH
from poolmgr.pool.host import UNBOUNDED
from poolmgr.pool.membership import Member
from poolmgr.pool.options import DEFAULT, Options
from poolmgr.pool.queue import LEFT, Ticket
from poolmgr.pool.releases import Releases
from poolmgr.pool.stats import Hooks
from poolmgr.pool.sync import connector, waiting
from poolmgr.pool.sync.lease import Lease
from poolmgr.pool.sync.overrides import way_of
from poolmgr.pool.sync.redis_interface import RedisInterface

gil.require()  # redis-py is loaded: if hiredis needs the GIL, there is one


@options.documented
class ConnectionPool(Releases, RedisInterface):
    """A pool of Redis connections, first come first served, under the budget of its host.

    It takes the arguments of redis-py's pools, and these. Times are in seconds.

    Args:
        connection_class: redis-py's, one derived from it, or a callable that makes such connections. The pool's
            connections derive from it.
        OPTIONS
        member: the source of permits; default: the process's own.

    Raises:
        ValueError: an argument has a value that is not allowed.
    """

    _release = AfterConnectionReleasedEvent

    def __init__(
        self,
        connection_class: Any = RedisConnection,
        max_connections: int | None = DEFAULT.max_connections,
        cache_factory: Any = None,
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
        self._set_up(Options.of(locals()), connection_class, member, way_of)
        super().__init__(
            connection_class=connection_class,
            max_connections=self._core.ceiling,
            cache_factory=cache_factory,
            maint_notifications_config=maint_notifications_config,
            **metering.arguments_of(max_reply, connection_kwargs, DefaultParser),
        )
        self._hear()
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
        return super().from_url(url, **{**kwargs, **ours})

    # ---- warm ------------------------------------------------------------------------------------

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection; waits at most ``timeout`` for one that others hold. Give it back with :meth:`release`.

        Raises:
            ConnectionPoolTimeoutError: no connection came in time; says why.
            ServerDownError: the server is known to be down.
            PoolClosedError: the pool was closed.
            redis.exceptions.RedisError: a connection could not be opened.
        """
        if not self._queue and not self._watched and recorder._metrics_collector is None:
            idle = self._idle
            try:
                connection = idle.pop() if self._lifo else idle.popleft()
            except IndexError:
                pass
            else:
                left = len(idle)
                if left < self._low:
                    self._low = left
                now = monotonic()
                if now - connection._since >= FRESH:
                    connection = self._inspect(connection, now)
                connection._loan.append(now)
                self._checkouts += 1
                return connection
        return self._checkout(self.timeout)

    def release(self, connection: Any) -> None:
        """Take a connection back. Never blocks; a second release, and one of a connection that is not
        this pool's, does nothing."""
        try:
            if connection._origin is not self._origin:
                return
            connection._loan.pop()
        except (IndexError, AttributeError):
            return
        if (
            connection._owed
            or connection._special
            or connection._sock is None
            or connection._draws.surplus > 0
            or self._listeners[AfterConnectionReleasedEvent] is not self._usual
            or recorder._metrics_collector is not None
        ):
            connector.take_back(self, connection, listened=self._listened)
            return
        connection._since = monotonic()
        self._idle.append(connection)
        if self._queue:
            self._advance(may_open=False)

    def connection(self, timeout: float | None = -1) -> Lease:
        """For ``with pool.connection() as c:``. Gives the connection back at the end of the block.

        Args:
            timeout: how long to wait for others; default: the pool's; None: forever.
        """
        return Lease(self, self.timeout if timeout is not None and timeout < 0 else timeout)

    # ---- cold ------------------------------------------------------------------------------------

    def _checkout(self, timeout: float | None) -> Any:
        journal.catch_up()
        started = monotonic()
        connection = self._found_idle()
        if connection is not None:
            if started - connection._since >= FRESH:
                connection = self._inspect(connection, started)
        else:
            self._origin.look_up()
            self._must_be_up()
            self._low = 0
            try:
                connection, used = waiting.queue_up(self, started, timeout)
                now = monotonic()
                if used and now - connection._since >= FRESH:
                    connection = self._inspect(connection, now)
            finally:
                request_wait.add(monotonic() - started)
        self._lend(connection)
        if self._watched:
            housekeeping.note_checkout(self, connection)
        return connection

    def _inspect(self, connection: Any, now: float) -> Any:
        """A working connection: this one, idle for a while, if it works; otherwise another one."""
        reason = connection._look()
        if not reason and now < connection._expires:
            return connection
        connection, reason = admission.replacement(self, connection, reason or "expired", now)
        return connector.renew(self, connection, reason, now + LONGEST[CONNECTING]) if reason else connection

    # ---- the base's questions --------------------------------------------------------------------

    def _open(self, ticket: Ticket) -> None:
        connector.open_behind(self, ticket)

    def _end(self, connection: Any) -> None:
        connection.disconnect()

    def _give_back(self, connection: Any) -> None:
        self.release(connection)


__all__ = ["LEFT", "UNBOUNDED", "FRESH", "ConnectionPool", "Hooks", "Lease"]
