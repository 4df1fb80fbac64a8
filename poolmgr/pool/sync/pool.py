"""The pool for threads and greenlets: a ``redis.ConnectionPool`` in every way that others rely on.

The decisions are :mod:`poolmgr.pool.core`'s. Here they are carried out: threads wait, connections are
made, handed over and closed. The paths:

- **Warm** (:meth:`ConnectionPool.get_connection`, :meth:`ConnectionPool.release`): one deque operation
  each. No lock, no system call, no exception; a connection that was idle for more than a millisecond
  is looked at once.
- **Cold** (:meth:`ConnectionPool._checkout`): the caller queues, and waits for its fate.
- **Advance** (:meth:`ConnectionPool._advance`): lets the core decide, by one thread at a time. Whoever
  finds another one at it leaves a note (``_dirty``) and goes; that one looks again before it is done.
  So a release never blocks, also when the garbage collector makes it inside any of these functions.

No lock of the pool exists that a fork, a dead greenlet or an asynchronous exception could leave taken.
The turn in ``_advance`` is an entry in a dictionary that names its holder; should two exceptions in a
row take its holder away before it could leave, the turn is taken over after :data:`STUCK` seconds.
A waiter looks for itself every :data:`SLICE` seconds, for the same reason: where an exception struck
between a decision and its effect, no proof is to be had that somebody was woken.
"""

from __future__ import annotations

import secrets
import sys
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from redis.connection import Connection as RedisConnection
from redis.event import AfterConnectionReleasedEvent, EventDispatcher
from redis.observability import recorder
from redis.observability.attributes import ConnectionState, get_pool_name

from poolmgr import settings
from poolmgr.exceptions import PoolClosedError
from poolmgr.logs import journal
from poolmgr.member.core.bounds import ANSWER, CONNECTING, LONGEST, OTHERS, SUPERVISOR, Cause, Wait
from poolmgr.member.ports import SERVES_HERE
from poolmgr.native import monotonic
from poolmgr.pool import fork, options, request_wait
from poolmgr.pool.core import LEFT, Failed, Granted, Open, PoolCore, Served, Ticket, Waiter, Wake
from poolmgr.pool.host import UNBOUNDED, UNSHARED
from poolmgr.pool.housekeeping import Housekeeping
from poolmgr.pool.permit_source import Member, PermitSource
from poolmgr.pool.refusal import Refusal, again
from poolmgr.pool.stats import Hooks, Tally
from poolmgr.pool.sync import metering
from poolmgr.pool.sync.connector import Connector
from poolmgr.pool.sync.overrides import opens_no_socket
from poolmgr.pool.sync.redis_interface import RedisInterface

FRESH = 0.001
"""Seconds of idleness after which a connection is looked at before it is used."""

SLICE = 0.25
"""Seconds after which a waiter looks for itself."""

SOON = 0.05
"""The same while it waits for something that is no connection of others: nobody wakes it when that changes."""

AT_ONCE = 0.005
"""The same while the supervisor's answer is awaited, which takes a millisecond."""

STUCK = 1.0
"""Seconds after which the turn to advance is taken for abandoned. A turn takes microseconds."""


class ConnectionPool(Housekeeping, Connector, Refusal, RedisInterface):
    """A pool of Redis connections, first come first served, under the budget of its host.

    It takes the arguments of redis-py's pools, and these. Times are in seconds.

    Args:
        connection_class: redis-py's, one derived from it, or a callable that makes such connections. What the pool
            makes derives from it.
        max_connections: this pool's own ceiling. None (and, as redis-py reads it, 0): only the budget
            bounds it; :attr:`max_connections` then reads 2**31. Where no budget is enforced
            (``REDIS_CONNECTION_BUDGET=off``, connections in memory) None means 100, as in redis-py.
        timeout: how long a caller waits for a connection that others hold; None for ever, 0 not at all. What has
            to be done before there can be one has bounds of its own (``docs/times.md``).
        min_idle: connections kept ready, refilled in the background.
        max_waiting: callers that may wait; further ones are refused at once. 0: no bound.
        idle_timeout: connections that nobody needed for so long are closed; 0 never.
        max_lifetime: connections older than this (less up to a tenth) are replaced; 0 never.
        order: ``fifo`` uses all connections in turn, ``lifo`` the last used first.
        leak_after: a connection held longer is reported with the stack of its checkout; 0 off.
        name: what messages and metrics call the pool.
        max_connecting: connections opened at the same time.
        max_reply: bytes that a reply may take, or those of a pipeline together, 48 more for each element; a longer one
            is :class:`poolmgr.ReplyTooLargeError`. 0: no bound.
        hooks: functions to be called on events.
        member: who gives permits; the process's own if not given.

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
        self._origin = PermitSource(self, member)
        self._tally = Tally()
        self._checkouts = 0
        self._low = self._low_for_member = self._low_for_shrink = 0
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
        self._begin_upkeep()
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
            self._usual = None  # somebody listens
        self._watched = bool(leak_after or self.hooks.checked_out)
        self._strict = self._usual is None or type(self).owns_connection is not ConnectionPool.owns_connection
        fork.watch(self)

    @staticmethod
    def _default_ceiling(connection_class: Any, member: Member | None) -> int:
        """``max_connections`` where none is given: as redis-py's, unless a budget bounds the pool."""
        unshared = settings.unenforced() if member is None else ""
        return UNSHARED if unshared or opens_no_socket(connection_class) else UNBOUNDED

    @classmethod
    def from_url(cls, url: str, **kwargs: Any) -> ConnectionPool:
        """A pool for a URL, as redis-py's; all options of the constructor that have a plain value may
        stand in the query, which goes before keyword arguments: ``redis://host/0?min_idle=2&order=lifo``.

        Raises:
            ValueError: the URL or one of its options is not valid.
        """
        url, ours = options.split(url)
        return super().from_url(url, **{**kwargs, **ours})

    # ---- warm ------------------------------------------------------------------------------------

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection; waits for one that others hold no longer than ``timeout``. Give it back with :meth:`release`.

        Raises:
            ConnectionPoolTimeoutError: none came in time; says why.
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
            self._take_back(connection)
            return
        connection._since = monotonic()
        self._idle.append(connection)
        if self._queue:
            self._advance(may_open=False)

    def connection(self, timeout: float | None = -1) -> Lease:
        """For ``with pool.connection() as c:``. Gives the connection back at the end of the block.

        Args:
            timeout: how long to wait for others, if not as long as the pool's; None for ever.
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
                self._refused(down)
                raise down
            self._low = 0
            try:
                connection = self._queue_up(started, timeout)
            finally:
                request_wait.add(monotonic() - started)
        connection._loan.append(monotonic())
        self._checkouts += 1
        self._count(ConnectionState.IDLE, -1)
        self._count(ConnectionState.USED, 1)
        if self._watched:
            self._note_checkout(connection)
        return connection

    def _queue_up(self, started: float, timeout: float | None) -> Any:
        """Wait in the queue for a connection, or make one if it comes to that."""
        core = self._core
        if self.max_waiting and core.waiting >= self.max_waiting:
            raise self._too_late("queue", f"{self.max_waiting} callers wait already (max_waiting)", 0.0)
        if any(permits.serves_here for permits in self._origin.known):
            raise self._too_late("supervisor", SERVES_HERE, 0.0)
        wait = Wait(timeout, started)
        cause: Cause = OTHERS
        lock = threading.Lock()
        lock.acquire()
        waiter = Waiter(started, _waker(lock))
        waited = False
        try:
            core.join(waiter)
            self._advance()
            while (fate := waiter.fate) is None:
                now, (cause, in_vain) = monotonic(), self._held_up_by(waiter)
                left = wait.left(cause, now, lent=self._core.lent > 0)
                if left <= 0 or in_vain:
                    fate = core.leave(waiter)
                    break
                pause = min(left, SLICE if cause == OTHERS else SOON if cause != ANSWER else AT_ONCE)
                if core.is_head(waiter):
                    pause = min(pause, core.due(now))
                waited = True
                if not self._sleep(lock, max(0.0, pause)):
                    core.starved = False
                    core.audit()
                if waiter.fate is None:
                    down = self._origin.down()
                    if down is not None:
                        waiter.settle(Failed(down))
                    self._advance()
        except BaseException:
            self._give_up(waiter)
            raise
        seconds = monotonic() - started
        if waited:
            self._tally.waited(seconds)
            if recorder._metrics_collector is not None:
                recorder.record_connection_wait_time(get_pool_name(self), seconds)
        if isinstance(fate, Served):
            connection = fate.connection
            now = monotonic()
            return self._inspect(connection, now) if now - connection._since >= FRESH else connection
        if isinstance(fate, Granted):
            now = monotonic()
            return self._open_here(fate.ticket, now + wait.left(CONNECTING, now))
        if self._queue:
            self._advance()  # the next one's turn, with whatever this one leaves
        if isinstance(fate, Failed):
            error = again(fate.error)
            self._refused(error)
            raise error
        raise self._too_late(*self._why(cause), seconds)

    def _sleep(self, lock: threading.Lock, seconds: float) -> bool:
        """Until the lock is released, or for so long; whether it was."""
        permits = self._origin.attach()
        if permits is not None and permits.attend(seconds):
            return lock.acquire(blocking=False)
        return lock.acquire(timeout=seconds)

    def _held_up_by(self, waiter: Waiter) -> tuple[Cause, bool]:
        """What a caller waits for now, and so which bound holds; and whether to wait for it is in vain."""
        cause = self._core.held_up_by(waiter)
        if cause != "permit":
            return cause, False
        permits = self._origin.attach()
        if permits is None:
            return OTHERS, False
        if permits.pending != SUPERVISOR or not permits.obstacle:
            return permits.pending, False
        if self._core.lent:
            return OTHERS, False  # none can be opened, but those that are lent come back
        return SUPERVISOR, True

    def _give_up(self, waiter: Waiter) -> None:
        """A waiter goes because of an exception: what it was given goes to the next one."""
        fate = self._core.leave(waiter)
        if isinstance(fate, Served):
            self._idle.append(fate.connection)
        elif isinstance(fate, Granted):
            self._core.drop(fate.ticket)
        if self._queue:
            self._advance(may_open=False)

    def _inspect(self, connection: Any, now: float) -> Any:
        """A connection that was idle for a while: it, if it is well, or one that is."""
        while True:
            reason = connection._look()
            if not reason and now < connection._expires:
                return connection
            reason = reason or "expired"
            following = self._core.take_idle() if not self._queue else None
            if following is None:
                return self._renew(connection, reason, now + LONGEST[CONNECTING])
            self._dispose(connection, reason)
            connection = following
            if now - connection._since < FRESH:
                return connection

    # ---- the core's turn -------------------------------------------------------------------------

    def _advance(self, may_open: bool = True) -> None:
        """Let the core do what can be done for the queue.

        Args:
            may_open: whether this is a place where connections may be opened (not a release, which may
                be the garbage collector's); else the head of the queue is woken to do it.
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
            self._open_behind(tickets.pop())


class Lease:
    """A connection for a ``with`` block."""

    __slots__ = ("_connection", "_pool", "_timeout")

    def __init__(self, pool: ConnectionPool, timeout: float | None) -> None:
        self._pool = pool
        self._timeout = timeout
        self._connection: Any = None

    def __enter__(self) -> Any:
        pool = self._pool
        self._connection = connection = (
            pool.get_connection() if self._timeout == pool.timeout else pool._checkout(self._timeout)
        )
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.release(connection)


def _waker(lock: threading.Lock) -> Callable[[], None]:
    def wake() -> None:
        try:
            lock.release()
        except RuntimeError:  # it is awake already
            pass

    return wake


def _teller(pool: ConnectionPool) -> Callable[[], None]:
    """What the garbage collector calls when it has found a lost connection."""
    reference = weakref.ref(pool)
    ending = sys.is_finalizing  # at the end of the interpreter modules are emptied before objects go

    def on_lost() -> None:
        pool = reference()
        if pool is not None and not ending():
            pool._tally.shut("lost")
            pool._advance(may_open=False)

    return on_lost


__all__ = ["LEFT", "UNBOUNDED", "ConnectionPool", "Hooks", "Lease"]
