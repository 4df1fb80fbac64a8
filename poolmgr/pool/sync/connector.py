"""How a pool's connections are made, connected, renewed, and looked at when they come back.

The I/O of :mod:`poolmgr.pool.admission`, which has the rules. It happens here: never while the core is being advanced.
"""

from __future__ import annotations

import contextlib
from typing import Any

from redis.event import AfterConnectionReleasedEvent
from redis.observability import recorder
from redis.observability.attributes import ConnectionState

from poolmgr import threads
from poolmgr.logs.journal import Log
from poolmgr.native import monotonic
from poolmgr.pool import admission
from poolmgr.pool.entry import set_up
from poolmgr.pool.queue import Ticket
from poolmgr.pool.sync.derivation import pooled
from poolmgr.pool.sync.redis_interface import RedisInterface
from poolmgr.pool.sync.retries import patient

log = Log("poolmgr.pool")

INFINITY = float("inf")


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
    admission.opened(pool, ticket, connection, monotonic() - started)
    pool._count(ConnectionState.IDLE, 1)
    if recorder._metrics_collector is not None:
        recorder.record_connection_create_time(connection_pool=pool, duration_seconds=monotonic() - started)
    return connection


def open_here(pool: RedisInterface, ticket: Ticket, deadline: float) -> Any:
    """Connect in the caller: no other caller could have given it a connection."""
    try:
        return made(pool, ticket, deadline)
    except BaseException as error:
        admission.caller_failed(pool, ticket, error)
        raise


def open_behind(pool: RedisInterface, ticket: Ticket) -> None:
    """Connect for the queue, in a thread that lives no longer than that.

    A signal handler's exception inside ``Thread.start`` can leave a thread that never runs, or never gets
    to its work, and that the interpreter keeps forever. So the thread does not get the ticket, but a place
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
        admission.attempt_failed(pool, ticket, error)
    else:
        admission.arrived(pool, ticket, connection)


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
        admission.caller_failed(pool, ticket, error)
        raise
    pool._core.reached()
    admission.welcome(pool, connection)
    return connection


def take_back(pool: RedisInterface, connection: Any, *, listened: bool) -> None:
    """A release that needs a closer look.

    Args:
        listened: others than redis-py listen to releases.
    """
    pool._count(ConnectionState.USED, -1)
    reason = admission.flaw(pool, connection)
    if not reason:
        connection._special = False
        try:
            # redis-py takes a lock for it, which from Python 3.14 on a signal handler's exception can leave taken.
            if listened or getattr(connection, "_re_auth_token", None) is not None:
                dispatcher: Any = pool._event_dispatcher
                dispatcher.dispatch(AfterConnectionReleasedEvent(connection))
                reason = admission.flaw(pool, connection)
        except Exception as error:
            log.warning("pool.release_listener_failed", extra={"pool": pool.name, "error": str(error)})
            reason = "broken"
    admission.keep(pool, connection, reason)
