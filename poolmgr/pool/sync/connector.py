"""How a pool's connections begin and end: made, connected, renewed, looked at when they come back, closed.

I/O and calls of the user's functions happen here: never while the core is being advanced.
"""

from __future__ import annotations

import contextlib
import random
from typing import Any

from redis.backoff import FullJitterBackoff
from redis.event import AfterConnectionReleasedEvent
from redis.observability import recorder
from redis.observability.attributes import ConnectionState

from poolmgr import threads
from poolmgr.errors import PoolmgrError
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.pool.core import Ticket
from poolmgr.pool.entry import set_up
from poolmgr.pool.misdirected import MISDIRECTED
from poolmgr.pool.sync.derivation import pooled
from poolmgr.pool.sync.redis_interface import RedisInterface
from poolmgr.pool.sync.retries import patient

log = Log("poolmgr.pool")

INFINITY = float("inf")

LIFETIME_JITTER = 0.1
"""Connections live up to this part shorter than ``max_lifetime``, so that they do not all end at once."""

BACKOFF = FullJitterBackoff(cap=1.0, base=0.008)
"""Pauses between attempts to connect while they fail."""


# ---- making connections ----------------------------------------------------------------------


def made(pool: RedisInterface, ticket: Ticket, deadline: float = INFINITY) -> Any:
    """A connection with its place, connected."""
    started = monotonic()
    connection = pooled(pool.make_connection())  # a subclass may make it as redis-py's pool does
    set_up(connection, pool._origin, ticket, started, INFINITY)
    try:
        with patient(connection, deadline, background=ticket.background):
            connection.connect()
    except BaseException:
        connection.disconnect()
        raise
    pool._core.opened(ticket, monotonic() - started)
    pool._origin.reached(connection)
    welcome(pool, connection)
    pool._count(ConnectionState.IDLE, 1)
    if recorder._metrics_collector is not None:
        recorder.record_connection_create_time(connection_pool=pool, duration_seconds=monotonic() - started)
    return connection


def welcome(pool: RedisInterface, connection: Any) -> None:
    """A connection has a new socket."""
    now = monotonic()
    connection._since = now
    if pool.max_lifetime:
        connection._expires = now + pool.max_lifetime * (1 - random.uniform(0, LIFETIME_JITTER))
    connection._retired = ""
    connection._special = False
    pool._tally.created += 1
    pool._call(pool.hooks.created, connection)


def open_here(pool: RedisInterface, ticket: Ticket, deadline: float) -> Any:
    """Connect in the caller: no other caller could have given it a connection."""
    try:
        return made(pool, ticket, deadline)
    except BaseException as error:
        attempt_failed(pool, ticket, error)
        raise


def open_behind(pool: RedisInterface, ticket: Ticket) -> None:
    """Connect for the queue, in a thread that lives no longer than that.

    A signal handler's exception inside ``Thread.start`` can leave a thread that never runs, or never gets
    to its work, and that the interpreter keeps for ever. So the thread does not get the ticket, but a place
    from which to take it; a ticket that it has not taken is taken back.
    """
    offered = [ticket]
    del ticket
    try:
        if not threads.started(threads.make(open_offered, f"{pool.name}-connect", pool, offered)):
            with contextlib.suppress(IndexError):  # the thread has begun after all
                waiter = pool._core.hand_over(offered.pop())
                if waiter is not None:
                    waiter.wake()  # it connects itself
    except BaseException:  # it says nothing about the server
        with contextlib.suppress(IndexError):
            pool._core.drop(offered.pop())
        raise


def open_offered(pool: RedisInterface, offered: list[Ticket]) -> None:
    try:
        ticket = offered.pop()
    except IndexError:
        return
    try:
        connection = made(pool, ticket)
    except Exception as error:
        attempt_failed(pool, ticket, error)
        return
    if pool._core.closed is not None:
        dispose(pool, connection, "pool")
        return
    pool._core.arrived(ticket, connection)
    if pool._core.closed is not None:  # since the last look
        pool._empty("pool")
    pool._advance()


def attempt_failed(pool: RedisInterface, ticket: Ticket, error: BaseException) -> None:
    """Free the place; tell the member, pace the next attempt, fail callers that cannot be served."""
    core = pool._core
    if not isinstance(error, Exception) or isinstance(error, PoolmgrError):
        core.drop(ticket)  # it says nothing about the server
    else:
        pool._tally.connect_errors += 1
        core.failed(ticket, error, monotonic(), BACKOFF.compute)
        pool._origin.tell(error, ticket.born)
        if core.failures == 1:
            log.warning("pool.connect_failed", extra={"pool": pool.name, "error": str(error)})
    if pool._queue:
        pool._advance(may_open=False)


def renew(pool: RedisInterface, connection: Any, reason: str, deadline: float) -> Any:
    """Replace the socket of an unusable connection."""
    ticket = connection._ticket
    if reason != "disconnected":
        pool._tally.shut(reason)
        pool._call(pool.hooks.closed, connection, reason)
    connection.disconnect()
    try:
        down = pool._origin.down()
        if down is not None:
            raise down
        ticket.born = monotonic()
        with patient(connection, deadline):
            connection.connect()
    except BaseException as error:
        connection.disconnect()
        pool._count(ConnectionState.IDLE, -1)
        attempt_failed(pool, ticket, error)
        raise
    pool._core.reached()
    pool._origin.reached(connection)
    welcome(pool, connection)
    return connection


# ---- closing connections ---------------------------------------------------------------------


def take_back(pool: RedisInterface, connection: Any) -> None:
    """A release that needs a closer look."""
    pool._count(ConnectionState.USED, -1)
    reason = flaw(pool, connection)
    if not reason:
        connection._special = False
        try:
            dispatcher: Any = pool._event_dispatcher
            dispatcher.dispatch(AfterConnectionReleasedEvent(connection))
            reason = flaw(pool, connection)
        except Exception as error:
            log.warning("pool.release_listener_failed", extra={"pool": pool.name, "error": str(error)})
            reason = "broken"
    if reason:
        dispose(pool, connection, reason, was_idle=False)
        if reason == MISDIRECTED and pool._misdirected_by:
            tell_misdirected(pool)
        return
    pool._count(ConnectionState.IDLE, 1)
    connection._trace = None
    connection._since = monotonic()
    pool._idle.append(connection)
    if pool._queue:
        pool._advance(may_open=False)


def tell_misdirected(pool: RedisInterface) -> None:
    error, pool._misdirected_by = pool._misdirected_by, ""
    log.warning(
        "pool.misdirected",
        extra={
            "pool": pool.name,
            "error": error,
            "remedy": "none after a failover, for new connections look the name up again; if it goes on, "
            "the pool's address leads to a replica: give it the primary's",
        },
    )


def flaw(pool: RedisInterface, connection: Any) -> str:
    """Why a connection that comes back must not be used again; empty if it may."""
    core = pool._core
    if connection._sock is None:
        return "broken"
    if connection._owed:
        return "dirty"
    if core.closed is not None:
        return "pool"
    if connection._retired:
        return str(connection._retired)
    if connection.should_reconnect() or not pool.owns_connection(connection):
        return "marked"
    if connection._draws.surplus > 0 and connection._draws.give_up():
        return "recalled"
    if core.size > core.ceiling:
        return "resized"
    return ""


def dispose(pool: RedisInterface, connection: Any, reason: str, *, was_idle: bool = True) -> None:
    """Close a connection without a holder, and free its place."""
    pool._core.drop(connection._ticket)
    pool._tally.shut(reason)
    if was_idle:
        pool._count(ConnectionState.IDLE, -1)
    try:
        connection.disconnect()
    except Exception as error:  # a class of the user's
        log.warning("pool.disconnect_failed", extra={"pool": pool.name, "error": str(error)})
    pool._call(pool.hooks.closed, connection, reason)
    if pool._queue:
        pool._advance(may_open=False)


# ---- credentials -----------------------------------------------------------------------------


def tell_login(pool: RedisInterface, key: str) -> None:
    """Ask the pool's provider of credentials, and tell the member."""
    try:
        pool._origin.renew(key)
    except Exception as error:  # of a user's provider
        log.warning("pool.login_unknown", extra={"pool": pool.name, "error": type(error).__name__})
