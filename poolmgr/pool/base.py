"""A pool, whatever its flavour: what its member asks, what its user sets and reads, and the core's turn.

:mod:`poolmgr.pool.queue` decides; a flavour carries the decisions out. It derives its pool from
:class:`BasePool` and adds how a caller waits (by the steps of :class:`poolmgr.pool.waiting.Caller`) and how a
connection is opened, closed and given back (``_open``, ``_end``, ``_give_back``), by the rules of
:mod:`poolmgr.pool.admission`.

The pool has no lock that a fork, a dead greenlet or an asynchronous exception could leave taken.
The turn in :meth:`BasePool._advance` is an entry in a dictionary that names its holder; if two exceptions in a
row take its holder away before it could leave, another thread takes the turn over after :data:`STUCK` seconds.
A waiter looks for itself every :data:`poolmgr.pool.waiting.SLICE` seconds, for the same reason: if an
exception struck between a decision and its effect, the waiter may never be woken.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Callable, Collection
from typing import Any

from redis.observability import recorder
from redis.observability.attributes import ConnectionState, get_pool_name

from poolmgr import settings, threads
from poolmgr.exceptions import PoolClosedError
from poolmgr.logs.journal import Log
from poolmgr.member.ports import Permit, Usage
from poolmgr.native import monotonic
from poolmgr.pool import admission, housekeeping
from poolmgr.pool.endpoints import Way, opens_no_socket
from poolmgr.pool.host import UNBOUNDED, UNSHARED, Host
from poolmgr.pool.membership import Member
from poolmgr.pool.options import Options
from poolmgr.pool.permit_source import PermitSource
from poolmgr.pool.queue import NEVER, Open, PoolCore, Served, Ticket, Wake
from poolmgr.pool.refusal import refused
from poolmgr.pool.stats import Stats, snapshot
from poolmgr.wire import Counters

log = Log("poolmgr.pool")

STUCK = 1.0
"""Seconds after which the turn to advance is taken for abandoned. A turn takes microseconds."""


class BasePool(Host):
    """A pool without callers and without sockets."""

    descriptors = 1
    """Of each connection."""
    _owner: dict[int, float]
    """The holder of the turn to advance the core: the instant at which it was taken, by identity. Guards the
    order of decisions; single atomic steps publish all decisions."""
    _dirty: bool
    """A note to the holder of the turn: look again."""
    _watched: bool
    """Every checkout takes the cold path: for a hook, the leak watch, or because the pool is closed."""
    _strict: bool
    """Every release is looked at closely."""
    pid: int
    """The process to which the pool belongs."""

    def _set_up(
        self, options: Options, connection_class: Any, member: Member | None, way_of: Callable[[type], Way]
    ) -> None:
        """The first part of a flavour's constructor. The last one is :func:`poolmgr.pool.fork.watch`."""
        ceiling = options.max_connections or self._default_ceiling(connection_class, member)
        self._core = core = PoolCore(ceiling=ceiling, lifo=options.order == "lifo", max_opening=options.max_connecting)
        core.min_idle = options.min_idle
        core.on_lost = teller(self)
        self._idle = core.idle
        self._queue = core.queue
        self._lifo = core.lifo
        self._owner = {}
        self._dirty = False
        self._origin = PermitSource(self, member, way_of)
        housekeeping.restart_counting(self)
        self._misdirected_at, self._misdirected_by = float("-inf"), ""
        options.settle_on(self)
        self._watched = bool(self.leak_after or self.hooks.checked_out)

    @staticmethod
    def _default_ceiling(connection_class: Any, member: Member | None) -> int:
        """The default of ``max_connections``: redis-py's, unless a budget bounds the pool."""
        unshared = settings.unenforced() if member is None else ""
        return UNSHARED if unshared or opens_no_socket(connection_class) else UNBOUNDED

    # ---- a checkout that found nothing idle, or is watched ---------------------------------------

    def _found_idle(self) -> Any | None:
        """The next idle connection for a caller in the cold path, unless others wait before it.

        Raises:
            PoolClosedError: the pool was closed.
        """
        core = self._core
        if core.closed is not None:
            raise PoolClosedError(str(core.closed))
        self._origin.attach()
        connection = core.take_idle() if not self._queue else None
        self._low = min(self._low, len(self._idle))
        return connection

    def _must_be_up(self) -> None:
        """Raise ServerDownError if the server is known to be down: a caller would have to connect."""
        down = self._origin.down()
        if down is not None:
            refused(self, down)
            raise down

    def _lend(self, connection: Any) -> None:
        """A caller gets it, in the cold path."""
        connection._loan.append(monotonic())
        self._checkouts += 1
        self._count(ConnectionState.IDLE, -1)
        self._count(ConnectionState.USED, 1)

    # ---- the core's turn -------------------------------------------------------------------------

    def _advance(self, may_open: bool = True) -> None:
        """Let the core do all it can for the queue.

        Args:
            may_open: whether connections may be opened here (not in a release, which may
                be the garbage collector's); else the head of the queue wakes to do it.
        """
        core, owner = self._core, self._owner
        take = self._take if may_open else None
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
            self._open(tickets.pop())

    def _take(self) -> Permit | None:
        return self._origin.take()

    def _due(self, now: float) -> float:
        return self._core.due(now)

    def _remind(self) -> None:
        """Have the head of the queue find out when it is due."""
        if self._queue and self._due(monotonic()) < NEVER:
            for head in tuple(self._queue)[:1]:
                head.wake()

    # ---- what its member asks (:class:`poolmgr.member.ports.PoolPort`) ---------------------------

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
        threads.started(threads.make(self._tell_login, f"{self.name}-login", key))

    def _tell_login(self, key: str) -> None:
        try:
            self._origin.renew(key)
        except Exception as error:  # of a user's provider
            log.warning("pool.login_unknown", extra={"pool": self.name, "error": type(error).__name__})

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

    def _forget_refusal(self) -> None:
        self._core.starved = False

    # ---- what its user sets ----------------------------------------------------------------------

    @property
    def max_connections(self) -> int:
        """This pool's own ceiling; 2**31 if only the budget bounds it. May be set, as by :meth:`resize`."""
        return self._core.ceiling

    @max_connections.setter
    def max_connections(self, value: int) -> None:
        if value != self._core.ceiling:
            self.resize(max_connections=value)

    def resize(self, *, max_connections: int | None = None, min_idle: int | None = None) -> None:
        """Change the pool while it is in use. Connections above a lower ceiling are closed: idle ones now,
        lent ones when they come back.

        Raises:
            ValueError: a number is not allowed.
        """
        housekeeping.resize(self, max_connections, min_idle)
        self._dispose_all(housekeeping.above_ceiling(self), "resized")
        if self._queue or self._core.min_idle:
            self._origin.attach()
            self._advance()

    def drain(self) -> None:
        """Replace every connection: idle ones are closed now, lent ones when they come back. For a
        failover, or new credentials in ``connection_kwargs``."""
        housekeeping.retire(self, "drained")
        self._empty("drained")

    def _shut(self) -> None:
        """No caller gets a connection any more; lent ones are closed when they come back."""
        self._core.closed = PoolClosedError(f"the pool {self.name} was closed")
        self._watched = self._strict = True
        housekeeping.retire(self, "pool")
        self._empty("pool")
        self._advance(may_open=False)

    # ---- its connections -------------------------------------------------------------------------

    def _connections(self) -> list[Any]:
        references = (ticket.connection for ticket in self._core.tickets())
        found = (reference() for reference in references if reference is not None)
        return [connection for connection in found if connection is not None]

    def _lent(self) -> set[Any]:
        return {connection for connection in self._connections() if connection._loan}

    def owns_connection(self, connection: Any) -> bool:
        return bool(getattr(connection, "pid", self.pid) == self.pid)

    def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None:
        admission.dispose(self, connection, reason, was_idle=was_idle)

    def _dispose_all(self, taken: list[Any], reason: str) -> int:
        for connection in taken:
            self._dispose(connection, reason)
        return len(taken)

    def _empty(self, reason: str) -> int:
        closed = 0
        for _ in range(len(self._idle)):
            connection = self._core.take_idle()
            if connection is None:
                break
            self._dispose(connection, reason)
            closed += 1
        return closed

    # ---- a look inside ---------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Gauges and counters at this instant; see :class:`poolmgr.pool.stats.Stats`."""
        return snapshot([self._core], self._core.ceiling, housekeeping.longest(self)[0], self.counters())

    def _state_in_words(self) -> str:
        core = self._core
        ceiling = "" if core.ceiling >= UNBOUNDED else f" of {core.ceiling}"
        state = "closed" if core.closed else "empty" if not core.size else "ready"
        return (
            f"[{self.name} {state}: {core.lent} in use, {len(core.idle)} idle, "
            f"{len(core.opening)} opening{ceiling}, {core.waiting} waiting]"
        )

    def _blocks(self) -> Any:
        return asyncio._get_running_loop()

    def _lent_in(self, loop: object, keys: Collection[str]) -> int:
        return 0

    def _call(self, hook: Callable[..., object] | None, *arguments: Any) -> None:
        if hook is None:
            return
        try:
            hook(*arguments)
        except Exception:
            log.exception("pool.hook_failed", extra={"pool": self.name})

    def _count(self, state: ConnectionState, change: int) -> None:
        """redis-py's gauge of connections by state, if OpenTelemetry is on."""
        this: Any = self
        recorder.record_connection_count(pool_name=get_pool_name(this), connection_state=state, counter=change)

    def _tell_waited(self, seconds: float) -> None:
        """To OpenTelemetry likewise: how long a caller has waited. By then a connection was counted."""
        if recorder._metrics_collector is not None:
            recorder.record_connection_wait_time(get_pool_name(self), seconds)  # type: ignore[arg-type]

    def _tell_timeout(self) -> None:
        """Likewise: a caller got no connection in time."""
        recorder.record_connection_timeout(get_pool_name(self))  # type: ignore[arg-type]

    # ---- a fork ----------------------------------------------------------------------------------

    def _after_fork(self) -> None:
        """In the child: no connection, no waiter, no turn; the parent's sockets are closed, not shut down."""
        core = self._core
        inherited = [*core.idle, *self._connections()]
        for ticket in core.tickets():
            ticket.permit = None
        core.idle.clear()
        for waiter in tuple(core.queue):
            if isinstance(waiter.fate, Served):
                inherited.append(waiter.fate.connection)
        core.queue.clear()
        core.places.clear()
        core.opening.clear()
        core.lost.clear()
        core.starved = False
        core.failure = core.last_error = None
        core.failures = 0
        core.retry_at = 0.0
        self._owner.clear()
        self._dirty = False
        self._origin.forget()
        for connection in inherited:
            connection._loan.clear()
            connection._abandon()
        housekeeping.restart_counting(self)
        self.pid = os.getpid()


def teller(pool: BasePool) -> Callable[[], None]:
    """A function that the garbage collector calls when it has found a lost connection."""
    reference = weakref.ref(pool)
    ending = sys.is_finalizing  # at the end of the interpreter modules are emptied before objects go

    def on_lost() -> None:
        pool = reference()
        if pool is not None and not ending():
            pool._tally.shut("lost")
            pool._advance(may_open=False)

    return on_lost
