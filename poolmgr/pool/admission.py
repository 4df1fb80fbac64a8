"""Which connections a pool takes in, keeps and lets go: the rules of every flavour.

The flavour does the I/O before or after: it connects, and ``pool._end(connection)`` closes. The user's functions are
called here: never while the core is being advanced.
"""

from __future__ import annotations

import random
from typing import Any

from redis.backoff import FullJitterBackoff
from redis.observability.attributes import ConnectionState

from poolmgr.errors import PoolmgrError
from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.pool.host import Host
from poolmgr.pool.housekeeping import above_ceiling
from poolmgr.pool.misdirected import MISDIRECTED
from poolmgr.pool.queue import Ticket
from poolmgr.pool.refusal import refused

log = Log("poolmgr.pool")

FRESH = 0.001
"""Seconds of idleness after which a connection is looked at before it is used."""

LIFETIME_JITTER = 0.1
"""Connections live up to this part shorter than ``max_lifetime``, so that they do not all end at once."""

BACKOFF = FullJitterBackoff(cap=1.0, base=0.008)
"""Pauses between attempts to connect while they fail."""


# ---- in --------------------------------------------------------------------------------------


def welcome(pool: Host, connection: Any) -> None:
    """A connection has a new socket."""
    pool._origin.reached(connection)
    now = monotonic()
    connection._since = now
    if pool.max_lifetime:
        connection._expires = now + pool.max_lifetime * (1 - random.uniform(0, LIFETIME_JITTER))
    connection._retired = ""
    connection._special = pool._core.size > pool._core.ceiling  # it was lowered meanwhile
    pool._tally.created += 1
    pool._call(pool.hooks.created, connection)


def opened(pool: Host, ticket: Ticket, connection: Any, seconds: float) -> None:
    """A connection is there, for a caller or for the queue. While a caller opened it for itself, ``max_connecting`` may
    have kept the pool from opening the next one."""
    pool._core.opened(ticket, seconds)
    welcome(pool, connection)
    if ticket.background:
        return
    at, reason = pool._core.emptied
    if ticket.born <= at:
        connection._retired, connection._special = reason, True
    if pool._queue:
        pool._advance()


def arrived(pool: Host, ticket: Ticket, connection: Any) -> None:
    """A connection opened for the queue is ready. All may have been closed since it was begun: no thread that connects
    can be stopped, and a task's cancellation may come to nothing (in redis-py's ``asyncio.wait_for``, before Python
    3.12: https://github.com/python/cpython/issues/86296)."""
    if pool._core.closed is not None:
        dispose(pool, connection, "pool")
        return
    at, reason = pool._core.emptied
    if ticket.born <= at:
        dispose(pool, connection, reason)
        pool._advance()
        return
    pool._core.arrived(ticket, connection)
    if pool._core.closed is not None:  # since the last look
        pool._empty("pool")
    pool._advance()
    if pool._core.size > pool._core.ceiling:  # it was lowered meanwhile
        pool._dispose_all(above_ceiling(pool), "resized")


def attempt_failed(pool: Host, ticket: Ticket, error: BaseException) -> None:
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
        pool._remind()


def caller_failed(pool: Host, ticket: Ticket, error: BaseException) -> None:
    """The same for an attempt in a caller, who gets the error."""
    attempt_failed(pool, ticket, error)
    if isinstance(error, ConnectionPoolTimeoutError):  # it has waited for a permit in the middle of the attempt
        refused(pool, error)


def replacement(pool: Host, connection: Any, reason: str, now: float) -> tuple[Any, str]:
    """An idle connection that works, instead of one that does not; or the last one, and why it must be renewed."""
    while reason:
        following = pool._core.take_idle() if not pool._queue else None
        if following is None:
            break
        dispose(pool, connection, reason)
        connection = following
        if now - connection._since < FRESH:
            reason = ""
        else:
            reason = connection._look() or ("expired" if now >= connection._expires else "")
    return connection, reason


# ---- back, and out ---------------------------------------------------------------------------


def flaw(pool: Host, connection: Any) -> str:
    """Why a connection that comes back must not be used again; empty if it may."""
    core = pool._core
    if not connection._is_open:
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


def keep(pool: Host, connection: Any, reason: str) -> None:
    """A connection has come back: close it for this reason, or have it lent again."""
    if reason:
        dispose(pool, connection, reason, was_idle=False)
        if reason == MISDIRECTED and pool._misdirected_by:
            _tell_misdirected(pool)
        return
    pool._count(ConnectionState.IDLE, 1)
    connection._trace = None
    connection._since = monotonic()
    pool._idle.append(connection)
    if pool._queue:
        pool._advance(may_open=False)


def _tell_misdirected(pool: Host) -> None:
    error, pool._misdirected_by = pool._misdirected_by, ""
    log.warning(
        "pool.misdirected",
        extra={
            "pool": pool.name,
            "error": error,
            "remedy": "none after a failover: new connections look the name up again; if it goes on, "
            "the pool's address leads to a replica: give it the primary's",
        },
    )


def dispose(pool: Host, connection: Any, reason: str, *, was_idle: bool = True) -> None:
    """Close a connection without a holder, and free its place."""
    pool._core.drop(connection._ticket)
    pool._tally.shut(reason)
    if was_idle:
        pool._count(ConnectionState.IDLE, -1)
    try:
        pool._end(connection)
    except Exception as error:  # a class of the user's
        log.warning("pool.disconnect_failed", extra={"pool": pool.name, "error": str(error)})
    pool._call(pool.hooks.closed, connection, reason)
    if pool._queue:
        pool._advance(may_open=False)
