"""The rest of redis-py's pool: the parts that Sentinel, Celery, django-redis, exporters and redis-py's own
maintenance handlers read and call, kept true on top of :mod:`poolmgr.pool.core`.

Nothing here is on the warm path. The lock that foreign code takes (``_lock``) guards nothing of ours; it is
made when first asked for, so that it cannot be older than gevent's patches or the last fork.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import RedisError
from redis.observability import recorder
from redis.observability.attributes import ConnectionState, get_pool_name

from poolmgr.exceptions import PoolClosedError
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.pool import housekeeping
from poolmgr.pool.core import Served
from poolmgr.pool.host import UNBOUNDED, Host, connections
from poolmgr.pool.stats import Stats, Tally
from poolmgr.pool.sync.adapters import Cached
from poolmgr.pool.sync.derivation import create, pooled
from poolmgr.pool.sync.views import Available, InUse, strangers

log = Log("poolmgr.pool")


def _name_of(factory: Any) -> str:
    """The name of the maker of connections, without its arguments: a password may be among them."""
    if isinstance(factory, functools.partial):
        return _name_of(factory.func)
    named = factory if hasattr(factory, "__name__") else type(factory)
    return f"{named.__module__}.{named.__name__}"


if TYPE_CHECKING:

    class _Pool(redis.ConnectionPool, Host):
        """redis-py's pool, with the attributes of a host."""

else:
    _Pool = redis.ConnectionPool


class RedisInterface(_Pool):
    """redis-py's pool, on top of ours: :class:`poolmgr.ConnectionPool` derives from it."""

    _tally: Tally
    _checkouts: int
    _low: int
    _low_for_member: int
    _low_for_shrink: int
    _shrink_at: float
    _owner: dict[int, float]
    """The holder of the turn to advance the core: the instant at which it was taken, by identity. Guards the
    order of decisions; single atomic steps publish all decisions."""
    _dirty: bool
    """A note to the holder of the turn: look again."""
    _misdirected_at: float
    """When a connection was last found misdirected (monotonic seconds)."""
    _misdirected_by: str
    """The error reply that said so; empty once it is logged."""
    _watched: bool
    """Every checkout takes the cold path: for a hook, the leak watch, or because the pool is closed."""
    _strict: bool
    """Every release is looked at closely."""

    if TYPE_CHECKING:  # the subclass's

        def _advance(self, may_open: bool = True) -> None: ...

        def _checkout(self, timeout: float | None) -> Any: ...

        def _inspect(self, connection: Any, now: float) -> Any: ...

        def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None: ...

    OMIT_REPR_KEYS = frozenset(
        {
            "event_dispatcher", "himport_registry", "maint_notifications_config", "maint_notifications_pool_handler",
            "orig_host_address", "orig_socket_connect_timeout", "orig_socket_timeout",
        }
    )  # fmt: skip

    # ---- attributes that others read -------------------------------------------------------------

    @property
    def max_connections(self) -> int:
        """This pool's own ceiling; 2**31 if only the budget bounds it. May be set, as by :meth:`resize`."""
        return self._core.ceiling

    @max_connections.setter
    def max_connections(self, value: int) -> None:
        if value != self._core.ceiling:
            self.resize(max_connections=value)

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

    def _connections(self) -> list[Any]:
        """All connections, lent and idle."""
        return connections(self._core)

    def make_connection(self) -> Any:
        """A connection object, not connected and not one of the pool's."""
        made = pooled(create(self.connection_class, self.connection_kwargs))
        if self.cache is not None:
            return Cached(made, self.cache, self._lock)
        return made

    def _lent(self) -> set[Any]:
        """Connections out with callers."""
        return {connection for connection in self._connections() if connection._loan}

    def _get_free_connections(self) -> list[Any]:
        return self._available_connections

    def _get_in_use_connections(self) -> set[Any]:
        return self._in_use_connections

    def _get_pool_lock(self) -> Any:
        return self._lock

    # ---- operations on all connections -----------------------------------------------------------

    def _empty(self, reason: str) -> int:
        """Close all idle connections; how many."""
        closed = 0
        for _ in range(len(self._idle)):
            connection = self._core.take_idle()
            if connection is None:
                break
            self._dispose(connection, reason)
            closed += 1
        return closed

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the idle connections and, as redis-py does, those in use under their users' hands."""
        self._empty("pool")
        for connection in strangers(self).available:
            connection.disconnect()
        if inuse_connections:
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

    def owns_connection(self, connection: Any) -> bool:
        """Whether the connection was made in the pool's present process."""
        return bool(getattr(connection, "pid", self.pid) == self.pid)

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

    def resize(self, *, max_connections: int | None = None, min_idle: int | None = None) -> None:
        """Change the pool while it is in use. Connections above a lower ceiling are closed: idle ones now,
        lent ones when they come back.

        Raises:
            ValueError: a number is not allowed.
        """
        housekeeping.resize(self, max_connections, min_idle)
        for connection in housekeeping.above_ceiling(self):
            self._dispose(connection, "resized")
        if self.__dict__.get("_listeners") is not None and (self._queue or self._core.min_idle):
            self._origin.attach()
            self._advance()

    def drain(self) -> None:
        """Replace every connection: idle ones are closed now, lent ones when they come back. For a
        failover, or new credentials in ``connection_kwargs``."""
        housekeeping.retire(self, "drained")
        self._empty("drained")

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
        core = self._core
        core.closed = PoolClosedError(f"the pool {self.name} was closed")
        self._watched = self._strict = True
        housekeeping.retire(self, "pool")
        self._empty("pool")
        self._advance(may_open=False)
        deadline = monotonic() + timeout
        while core.lent and monotonic() < deadline:
            time.sleep(0.005)  # holders give back without waking a thread: the warm path signals nothing
            self._empty("pool")
        self.disconnect()

    # ---- hooks -------------------------------------------------------------------------------------

    def _call(self, hook: Callable[..., object] | None, *arguments: Any) -> None:
        """Call a user's function; log what it raises."""
        if hook is None:
            return
        try:
            hook(*arguments)
        except Exception:
            log.exception("pool.hook_failed", extra={"pool": self.name})

    def _count(self, state: ConnectionState, change: int) -> None:
        """redis-py's gauge of connections by state, if OpenTelemetry is on."""
        recorder.record_connection_count(pool_name=get_pool_name(self), connection_state=state, counter=change)

    # ---- a look inside ---------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Gauges and counters at this instant; see :class:`poolmgr.pool.stats.Stats`."""
        core, tally = self._core, self._tally
        held, _ = housekeeping.longest(self)
        return Stats(
            in_use=core.lent,
            idle=len(core.idle),
            opening=len(core.opening),
            waiting=core.waiting,
            max_connections=None if core.ceiling >= UNBOUNDED else core.ceiling,
            checkouts=self._checkouts,
            waits=tally.waits,
            wait_seconds=tally.wait_seconds,
            wait_buckets=tuple(tally.wait_buckets),
            timeouts=dict(tally.timeouts),
            created=tally.created,
            closed=dict(tally.closed),
            connect_errors=tally.connect_errors,
            leaks=tally.leaks,
            longest_held=held,
        )

    def __repr__(self) -> str:
        return f"{self._described()} {self._state_in_words()}"

    def _state_in_words(self) -> str:
        core = self._core
        ceiling = "" if core.ceiling >= UNBOUNDED else f" of {core.ceiling}"
        state = "closed" if core.closed else "empty" if not core.size else "ready"
        return (
            f"[{self.name} {state}: {core.lent} in use, {len(core.idle)} idle, "
            f"{len(core.opening)} opening{ceiling}, {core.waiting} waiting]"
        )

    def _described(self) -> str:
        """As redis-py's ``repr``; the maker of connections need not be a class."""
        arguments = ",".join(
            f"{name}={'<REDACTED>' if name in self.SENSITIVE_REPR_KEYS else value}"
            for name, value in self.connection_kwargs.items()
            if name not in self.OMIT_REPR_KEYS
        )
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__}(<{_name_of(self.connection_class)}({arguments})>)>"

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
        self.__dict__.pop("_strangers", None)
        self._owner.clear()
        self._dirty = False
        self.__dict__.pop("_outer_lock", None)
        self._origin.forget()
        for connection in inherited:
            connection._loan.clear()
            connection._abandon()
        housekeeping.restart_counting(self)
        self.pid = os.getpid()
