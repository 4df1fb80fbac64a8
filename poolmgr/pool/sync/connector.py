"""How a pool's connections begin and end: made, connected, renewed, looked at when they come back, closed.

I/O happens here, and the user's functions are called here: never while the core is being advanced.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from typing import Any

from redis.backoff import FullJitterBackoff
from redis.event import AfterConnectionReleasedEvent
from redis.observability import recorder
from redis.observability.attributes import ConnectionState, get_pool_name

from poolmgr import threads
from poolmgr.errors import PoolmgrError
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.pool.core import Ticket
from poolmgr.pool.entry import set_up
from poolmgr.pool.host import State
from poolmgr.pool.sync.adapters import Cached
from poolmgr.pool.sync.derivation import create, pooled
from poolmgr.pool.sync.misdirected import MISDIRECTED
from poolmgr.pool.sync.retries import patient

log = Log("poolmgr.pool")

INFINITY = float("inf")

LIFETIME_JITTER = 0.1
"""Connections live up to this part shorter than ``max_lifetime``, so that they do not all end at once."""

BACKOFF = FullJitterBackoff(cap=1.0, base=0.008)
"""Pauses between attempts to connect while they fail."""


class Connector(State):
    """Part of :class:`poolmgr.ConnectionPool`."""

    # ---- making connections ----------------------------------------------------------------------

    def make_connection(self) -> Any:
        """A connection object, not connected and not one of the pool's."""
        made = pooled(create(self.connection_class, self.connection_kwargs))
        if self.cache is not None:
            return Cached(made, self.cache, self._lock)
        return made

    def _made(self, ticket: Ticket, deadline: float = INFINITY) -> Any:
        """A connection with its place, connected."""
        started = monotonic()
        connection = pooled(self.make_connection())  # a subclass may make it as redis-py's pool does
        set_up(connection, self._origin, ticket, started, INFINITY)
        try:
            with patient(connection, deadline, background=ticket.background):
                connection.connect()
        except BaseException:
            connection.disconnect()
            raise
        self._core.opened(ticket, monotonic() - started)
        self._origin.reached(connection)
        self._welcome(connection)
        self._count(ConnectionState.IDLE, 1)
        if recorder._metrics_collector is not None:
            recorder.record_connection_create_time(connection_pool=self, duration_seconds=monotonic() - started)
        return connection

    def _welcome(self, connection: Any) -> None:
        """A connection has a new socket."""
        now = monotonic()
        connection._since = now
        if self.max_lifetime:
            connection._expires = now + self.max_lifetime * (1 - random.uniform(0, LIFETIME_JITTER))
        connection._retired = ""
        connection._special = False
        self._tally.created += 1
        self._call(self.hooks.created, connection)

    def _open_here(self, ticket: Ticket, deadline: float) -> Any:
        """Connect in the caller: nobody else could have given it a connection."""
        try:
            return self._made(ticket, deadline)
        except BaseException as error:
            self._attempt_failed(ticket, error)
            raise

    def _open_behind(self, ticket: Ticket) -> None:
        """Connect for the queue, in a thread that lives no longer than that.

        An exception of a signal handler inside ``Thread.start`` can leave a thread that never runs, or never gets
        to its work, and that the interpreter keeps for ever. So the thread is not given the ticket, but told where
        to take it, and what it has not taken is taken back.
        """
        offered = [ticket]
        del ticket
        try:
            if not threads.started(threads.make(self._connector, f"{self.name}-connect", offered)):
                with contextlib.suppress(IndexError):  # it has begun after all
                    waiter = self._core.hand_over(offered.pop())
                    if waiter is not None:
                        waiter.wake()  # it connects itself
        except BaseException:  # it says nothing of the server
            with contextlib.suppress(IndexError):
                self._core.drop(offered.pop())
            raise

    def _connector(self, offered: list[Ticket]) -> None:
        try:
            ticket = offered.pop()
        except IndexError:
            return
        try:
            connection = self._made(ticket)
        except Exception as error:
            self._attempt_failed(ticket, error)
            return
        if self._core.closed is not None:
            self._dispose(connection, "pool")
            return
        self._core.arrived(ticket, connection)
        if self._core.closed is not None:  # since the last look
            self._empty("pool")
        self._advance()

    def _attempt_failed(self, ticket: Ticket, error: BaseException) -> None:
        """Free the place; tell the member, pace the next attempt, fail those who cannot be served."""
        core = self._core
        if not isinstance(error, Exception) or isinstance(error, PoolmgrError):
            core.drop(ticket)  # it says nothing of the server
        else:
            self._tally.connect_errors += 1
            core.failed(ticket, error, monotonic(), BACKOFF.compute)
            self._origin.tell(error, ticket.born)
            if core.failures == 1:
                log.warning("pool.connect_failed", extra={"pool": self.name, "error": str(error)})
        if self._queue:
            self._advance(may_open=False)

    def _renew(self, connection: Any, reason: str, deadline: float) -> Any:
        """Replace the socket of a connection that cannot be used."""
        ticket = connection._ticket
        if reason != "disconnected":
            self._tally.shut(reason)
            self._call(self.hooks.closed, connection, reason)
        connection.disconnect()
        try:
            down = self._origin.down()
            if down is not None:
                raise down
            ticket.born = monotonic()
            with patient(connection, deadline):
                connection.connect()
        except BaseException as error:
            connection.disconnect()
            self._count(ConnectionState.IDLE, -1)
            self._attempt_failed(ticket, error)
            raise
        self._core.reached()
        self._origin.reached(connection)
        self._welcome(connection)
        return connection

    # ---- closing connections ---------------------------------------------------------------------

    def _take_back(self, connection: Any) -> None:
        """A release that needs a closer look."""
        self._count(ConnectionState.USED, -1)
        reason = self._flaw(connection)
        if not reason:
            connection._special = False
            try:
                dispatcher: Any = self._event_dispatcher
                dispatcher.dispatch(AfterConnectionReleasedEvent(connection))
                reason = self._flaw(connection)
            except Exception as error:
                log.warning("pool.release_listener_failed", extra={"pool": self.name, "error": str(error)})
                reason = "broken"
        if reason:
            self._dispose(connection, reason, was_idle=False)
            if reason == MISDIRECTED and self._misdirected_by:
                self._tell_misdirected()
            return
        self._count(ConnectionState.IDLE, 1)
        connection._trace = None
        connection._since = monotonic()
        self._idle.append(connection)
        if self._queue:
            self._advance(may_open=False)

    def _tell_misdirected(self) -> None:
        error, self._misdirected_by = self._misdirected_by, ""
        log.warning(
            "pool.misdirected",
            extra={
                "pool": self.name,
                "error": error,
                "remedy": "none after a failover, for new connections look the name up again; if it goes on, "
                "the pool's address leads to a replica: give it the primary's",
            },
        )

    def _flaw(self, connection: Any) -> str:
        """Why a connection that comes back is not to be used again; empty if it is."""
        core = self._core
        if connection._sock is None:
            return "broken"
        if connection._owed:
            return "dirty"
        if core.closed is not None:
            return "pool"
        if connection._retired:
            return str(connection._retired)
        if connection.should_reconnect() or not self.owns_connection(connection):
            return "marked"
        if connection._draws.surplus > 0 and connection._draws.give_up():
            return "recalled"
        if core.size > core.ceiling:
            return "resized"
        return ""

    def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None:
        """Close a connection that nobody holds, and free its place."""
        self._core.drop(connection._ticket)
        self._tally.shut(reason)
        if was_idle:
            self._count(ConnectionState.IDLE, -1)
        try:
            connection.disconnect()
        except Exception as error:  # a class of the user's
            log.warning("pool.disconnect_failed", extra={"pool": self.name, "error": str(error)})
        self._call(self.hooks.closed, connection, reason)
        if self._queue:
            self._advance(may_open=False)

    # ---- who is told ------------------------------------------------------------------------------

    def _call(self, hook: Callable[..., object] | None, *arguments: Any) -> None:
        """Call a user's function; what it raises is its own affair."""
        if hook is None:
            return
        try:
            hook(*arguments)
        except Exception:
            log.exception("pool.hook_failed", extra={"pool": self.name})

    def _count(self, state: ConnectionState, change: int) -> None:
        """redis-py's gauge of connections by state, if OpenTelemetry is on."""
        recorder.record_connection_count(pool_name=get_pool_name(self), connection_state=state, counter=change)
