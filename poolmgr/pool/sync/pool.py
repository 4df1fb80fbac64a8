"""The pool for threads and greenlets: a ``redis.ConnectionPool`` in every way that others rely on.

:mod:`poolmgr.pool.core` decides. This module carries the decisions out: threads wait, connections are
made, handed over and closed. The paths:

- **Warm** (:meth:`ConnectionPool.get_connection`, :meth:`ConnectionPool.release`): one deque operation
  each. No lock, no system call, no exception; a connection that was idle for more than a millisecond
  is looked at once.
- **Cold** (:meth:`ConnectionPool._checkout`): the caller queues, and waits for its fate.
- **Advance** (:meth:`ConnectionPool._advance`): lets the core decide, by one thread at a time. A thread
  that finds another one there leaves a note (``_dirty``) and goes; the other looks again before it is done.
  So a release never blocks, even when the garbage collector makes it inside any of these functions.

The pool has no lock that a fork, a dead greenlet or an asynchronous exception could leave taken.
The turn in ``_advance`` is an entry in a dictionary that names its holder; if two exceptions in a
row take its holder away before it could leave, another thread takes the turn over after :data:`STUCK` seconds.
A waiter looks for itself every :data:`poolmgr.pool.sync.waiting.SLICE` seconds, for the same reason: if an
exception struck between a decision and its effect, the waiter may never be woken.
"""

from __future__ import annotations

import secrets
import sys
import weakref
from collections.abc import Callable
from typing import Any

from redis.connection import Connection as RedisConnection
from redis.event import AfterConnectionReleasedEvent, EventDispatcher
from redis.observability import recorder
from redis.observability.attributes import ConnectionState

from poolmgr import settings, threads
from poolmgr.exceptions import PoolClosedError
from poolmgr.logs import journal
from poolmgr.member.core.bounds import CONNECTING, LONGEST
from poolmgr.member.ports import Usage
from poolmgr.native import monotonic
from poolmgr.pool import fork, housekeeping, options, request_wait
from poolmgr.pool.core import LEFT, Open, PoolCore, Ticket, Wake
from poolmgr.pool.endpoints import opens_no_socket
from poolmgr.pool.host import UNBOUNDED, UNSHARED
from poolmgr.pool.permit_source import Member, PermitSource
from poolmgr.pool.refusal import refused
from poolmgr.pool.stats import Hooks
from poolmgr.pool.sync import connector, metering, waiting
from poolmgr.pool.sync.lease import Lease
from poolmgr.pool.sync.overrides import way_of
from poolmgr.pool.sync.redis_interface import RedisInterface
from poolmgr.wire import Counters

FRESH = 0.001
"""Seconds of idleness after which a connection is looked at before it is used."""

STUCK = 1.0
"""Seconds after which the turn to advance is taken for abandoned. A turn takes microseconds."""


class ConnectionPool(RedisInterface):
    """A pool of Redis connections, first come first served, under the budget of its host.

    It takes the arguments of redis-py's pools, and these. Times are in seconds.

    Args:
        connection_class: redis-py's, one derived from it, or a callable that makes such connections. The pool's
            connections derive from it.
        max_connections: this pool's own ceiling. None (and, as redis-py reads it, 0): only the budget
            bounds it; :attr:`max_connections` then reads 2**31. If no budget is enforced
            (``REDIS_CONNECTION_BUDGET=off``, connections in memory) None means 100, as in redis-py.
        timeout: how long a caller waits for a connection that others hold; None: for ever; 0: not at all. Steps
            before there can be a connection have bounds of their own (``docs/times.md``).
        min_idle: connections kept ready, refilled in the background.
        max_waiting: callers that may wait; further ones are refused at once. 0: no bound.
        idle_timeout: close connections that stayed idle this long; 0: never.
        max_lifetime: replace connections older than this (less up to a tenth); 0: never.
        order: ``fifo`` uses all connections in turn, ``lifo`` the last used first.
        leak_after: report a connection held longer, with the stack of its checkout; 0: off.
        name: what messages and metrics call the pool.
        max_connecting: connections opened at the same time.
        max_reply: bytes that a reply, or the replies of a pipeline together, may take, 48 more for each element; a
            longer one raises :class:`poolmgr.ReplyTooLargeError`. 0: no bound.
        hooks: functions to call on events.
        member: the source of permits; default: the process's own.

    Raises:
        ValueError: an argument has a value that is not allowed.
    """

    def __init__(
        self,
        connection_class: Any = RedisConnection,
        max_connections: int | None = None,
        cache_factory: Any = None,
        maint_notifications_config: Any = None,
        *,
        timeout: float | None = 5.0,
        min_idle: int = 0,
        max_waiting: int = 0,
        idle_timeout: float = 60.0,
        max_lifetime: float = 3600.0,
        order: str = "fifo",
        leak_after: float = 0.0,
        name: str | None = None,
        max_connecting: int = 2,
        max_reply: int = 0,
        hooks: Hooks | None = None,
        member: Member | None = None,
        **connection_kwargs: Any,
    ) -> None:
        options.check(
            max_connections=max_connections,
            timeout=timeout,
            min_idle=min_idle,
            max_waiting=max_waiting,
            idle_timeout=idle_timeout,
            max_lifetime=max_lifetime,
            order=order,
            leak_after=leak_after,
            max_connecting=max_connecting,
            max_reply=max_reply,
        )
        ceiling = max_connections or self._default_ceiling(connection_class, member)
        self._core = core = PoolCore(ceiling=ceiling, lifo=order == "lifo", max_opening=max_connecting)
        core.min_idle = min_idle
        core.on_lost = _teller(self)
        self._idle = core.idle
        self._queue = core.queue
        self._pop: Callable[[], Any] = core.idle.pop if core.lifo else core.idle.popleft
        self._owner: dict[int, float] = {}
        self._dirty = False
        self._origin = PermitSource(self, member, way_of)
        housekeeping.restart_counting(self)
        self._misdirected_at, self._misdirected_by = float("-inf"), ""
        self.name = name or f"pool-{secrets.token_hex(3)}"
        self.timeout = timeout
        self.max_waiting = max_waiting
        self.idle_timeout = idle_timeout
        self.max_lifetime = max_lifetime
        self.order = order
        self.max_reply = max_reply
        self.leak_after = leak_after
        self.hooks = hooks or Hooks()
        super().__init__(
            connection_class=connection_class,
            max_connections=core.ceiling,
            cache_factory=cache_factory,
            maint_notifications_config=maint_notifications_config,
            **metering.arguments_of(max_reply, connection_kwargs),
        )
        self._listeners: Any = getattr(self._event_dispatcher, "_event_listeners_mapping", {})
        self._usual = self._listeners.get(AfterConnectionReleasedEvent)
        if type(self._event_dispatcher) is not EventDispatcher or len(self._usual or ()) != 1:
            self._usual = None  # there are other listeners
        self._watched = bool(leak_after or self.hooks.checked_out)
        self._strict = self._usual is None or type(self).owns_connection is not ConnectionPool.owns_connection
        fork.watch(self)

    @staticmethod
    def _default_ceiling(connection_class: Any, member: Member | None) -> int:
        """The default of ``max_connections``: redis-py's, unless a budget bounds the pool."""
        unshared = settings.unenforced() if member is None else ""
        return UNSHARED if unshared or opens_no_socket(connection_class) else UNBOUNDED

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
            try:
                connection = self._pop()
            except IndexError:
                pass
            else:
                left = len(self._idle)
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
            or self._strict
            or self._listeners.get(AfterConnectionReleasedEvent) is not self._usual
            or recorder._metrics_collector is not None
        ):
            connector.take_back(self, connection)
            return
        connection._since = monotonic()
        self._idle.append(connection)
        if self._queue:
            self._advance(may_open=False)

    def connection(self, timeout: float | None = -1) -> Lease:
        """For ``with pool.connection() as c:``. Gives the connection back at the end of the block.

        Args:
            timeout: how long to wait for others; default: the pool's; None: for ever.
        """
        return Lease(self, self.timeout if timeout is not None and timeout < 0 else timeout)

    # ---- cold ------------------------------------------------------------------------------------

    def _checkout(self, timeout: float | None) -> Any:
        journal.catch_up()
        started = monotonic()
        core = self._core
        if core.closed is not None:
            raise PoolClosedError(str(core.closed))
        self._origin.attach()
        connection = core.take_idle() if not self._queue else None
        if connection is not None:
            self._low = min(self._low, len(self._idle))
            if started - connection._since >= FRESH:
                connection = self._inspect(connection, started)
        else:
            self._origin.look_up()
            down = self._origin.down()
            if down is not None:
                refused(self, down)
                raise down
            self._low = 0
            try:
                connection, used = waiting.queue_up(self, started, timeout)
                now = monotonic()
                if used and now - connection._since >= FRESH:
                    connection = self._inspect(connection, now)
            finally:
                request_wait.add(monotonic() - started)
        connection._loan.append(monotonic())
        self._checkouts += 1
        self._count(ConnectionState.IDLE, -1)
        self._count(ConnectionState.USED, 1)
        if self._watched:
            housekeeping.note_checkout(self, connection)
        return connection

    def _inspect(self, connection: Any, now: float) -> Any:
        """A working connection: this one, idle for a while, if it works; otherwise another one."""
        while True:
            reason = connection._look()
            if not reason and now < connection._expires:
                return connection
            reason = reason or "expired"
            following = self._core.take_idle() if not self._queue else None
            if following is None:
                return connector.renew(self, connection, reason, now + LONGEST[CONNECTING])
            self._dispose(connection, reason)
            connection = following
            if now - connection._since < FRESH:
                return connection

    # ---- the core's turn -------------------------------------------------------------------------

    def _advance(self, may_open: bool = True) -> None:
        """Let the core do all it can for the queue.

        Args:
            may_open: whether connections may be opened here (not in a release, which may
                be the garbage collector's); else the head of the queue wakes to do it.
        """
        core, owner = self._core, self._owner
        take = self._origin.take if may_open else None
        tickets: list[Ticket] = []
        me: float | None = None
        self._dirty = True
        try:
            while self._dirty:
                me = monotonic()
                holder = owner.setdefault(0, me)
                if holder is not me:
                    if me - holder < STUCK:
                        break  # that one will see the note
                    owner.pop(0, None)
                    continue
                self._dirty = False
                for effect in core.advance(me, take):
                    if isinstance(effect, Wake):
                        effect.waiter.wake()
                    elif isinstance(effect, Open):
                        tickets.append(effect.ticket)
                    del effect
                owner.pop(0, None)
                me = None
        except BaseException:
            if me is not None and owner.get(0) is me:
                owner.pop(0, None)
            for waiter in tuple(self._queue)[:1]:
                waiter.wake()  # it goes on from here
            raise
        while tickets:
            connector.open_behind(self, tickets.pop())

    # ---- what its member asks (:class:`poolmgr.member.ports.PoolPort`) -----------------------------

    def usage(self, *, reset: bool) -> Usage:
        return housekeeping.usage(self, reset=reset)

    def replied(self, permits: Any) -> float:
        return housekeeping.replied(self, permits)

    def counters(self) -> Counters:
        """Counters since the pool was made, for metrics."""
        return self._tally.counters(self._checkouts)

    def grow(self) -> None:
        """A permit may be free now: open a connection for a waiting caller."""
        self._core.starved = False
        self._advance()

    def attempt(self) -> None:
        """Open a connection in the background although the server is believed to be down, if that is possible. A stale
        one makes room for it."""
        connection = self._core.take_idle()
        if connection is not None:
            reason = "" if connection._eager else connection._look()
            if reason:
                self._dispose(connection, reason)
            else:
                self._idle.append(connection)
        self._core.attempt = True
        self.grow()

    def tell_login(self, key: str) -> None:
        """Find out the present credentials, and report them to the member, in a thread for this only."""
        # If the thread cannot start, the supervisor asks again.
        threads.started(threads.make(connector.tell_login, f"{self.name}-login", self, key))

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections, oldest first; how many were closed."""
        return self._dispose_all(housekeeping.oldest_idle(self, count), "recalled")

    def tick(self, now: float) -> float:
        """Do what is due now; seconds until the next tick."""
        now = monotonic()
        self._core.audit()
        self._dispose_all(housekeeping.expired(self, now), "expired")
        self._dispose_all(housekeeping.unneeded(self, now), "idle")
        if self._core.min_idle and self._core.closed is None:
            self.grow()
        if self.leak_after:
            housekeeping.find_leaks(self, now)
        return housekeeping.pause(self, now)

    def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None:
        connector.dispose(self, connection, reason, was_idle=was_idle)

    def _dispose_all(self, taken: list[Any], reason: str) -> int:
        for connection in taken:
            self._dispose(connection, reason)
        return len(taken)


def _teller(pool: ConnectionPool) -> Callable[[], None]:
    """A function that the garbage collector calls when it has found a lost connection."""
    reference = weakref.ref(pool)
    ending = sys.is_finalizing  # at the end of the interpreter modules are emptied before objects go

    def on_lost() -> None:
        pool = reference()
        if pool is not None and not ending():
            pool._tally.shut("lost")
            pool._advance(may_open=False)

    return on_lost


__all__ = ["LEFT", "UNBOUNDED", "ConnectionPool", "Hooks", "Lease"]
