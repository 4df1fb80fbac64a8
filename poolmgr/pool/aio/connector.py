"""How the connections of an event loop are made, connected, renewed, and looked at when they come back.

The I/O of :mod:`poolmgr.pool.admission`, which has the rules. It happens here: never while the core is being advanced.
"""

from __future__ import annotations

from typing import Any

from redis.asyncio.observability import recorder
from redis.event import AsyncAfterConnectionReleasedEvent
from redis.exceptions import RedisError
from redis.observability.attributes import ConnectionState

from poolmgr.exceptions import PoolClosedError
from poolmgr.logs.journal import Log
from poolmgr.member.core.bounds import CONNECTING, LONGEST
from poolmgr.native import monotonic
from poolmgr.pool import admission
from poolmgr.pool.aio.derivation import pooled
from poolmgr.pool.aio.retries import patient
from poolmgr.pool.aio.shard import Shard
from poolmgr.pool.entry import set_up
from poolmgr.pool.queue import Ticket

log = Log("poolmgr.pool")

INFINITY = float("inf")


async def made(shard: Shard, ticket: Ticket, deadline: float = INFINITY) -> Any:
    """A connection with its place, connected."""
    started = monotonic()
    pool = shard.home()
    if pool is None:
        raise PoolClosedError(f"the pool {shard.name} is gone")
    connection = pooled(pool.make_connection())
    set_up(connection, shard._origin, ticket, started, INFINITY)
    connection._shard = shard
    try:
        with patient(connection, deadline, background=ticket.background):
            await _ensured(shard, connection)
    except BaseException:
        await connection.disconnect()
        raise
    admission.opened(shard, ticket, connection, monotonic() - started)
    shard._count(ConnectionState.IDLE, 1)
    if recorder._async_metrics_collector is not None:
        await recorder.record_connection_create_time(pool, monotonic() - started)
    return connection


async def open_here(shard: Shard, ticket: Ticket, deadline: float) -> Any:
    """Connect in the caller: no other caller could have given it a connection."""
    try:
        return await made(shard, ticket, deadline)
    except BaseException as error:
        admission.caller_failed(shard, ticket, error)
        raise


async def open_offered(shard: Shard, offered: list[Ticket]) -> None:
    """Connect for the queue, in a task of its own. One that is cancelled before it begins leaves the ticket where it
    was offered."""
    ticket = offered.pop()
    try:
        connection = await made(shard, ticket)
    except Exception as error:
        admission.attempt_failed(shard, ticket, error)
    except BaseException as error:
        admission.attempt_failed(shard, ticket, error)
        raise
    else:
        admission.arrived(shard, ticket, connection)


async def inspected(shard: Shard, connection: Any, now: float) -> Any:
    """A working connection: this one, if it works; otherwise another one."""
    reason = connection._look() or ("expired" if now >= connection._expires else "")
    if not reason and (connection._eager or shard._ensures):
        reason = await _asked(shard, connection)
    if not reason:
        return connection
    connection, reason = admission.replacement(shard, connection, reason, now)
    reason = reason or (connection._look() if connection._stream is None or connection._stream.stirred else "")
    if reason:
        await _renew(shard, connection, reason, now + LONGEST[CONNECTING])
    return connection


async def _asked(shard: Shard, connection: Any) -> str:
    """Why a connection cannot be used, by code of a user's that redis-py calls for every checkout; empty if it can."""
    try:
        with patient(connection, INFINITY):
            await _ensured(shard, connection)
    except (RedisError, OSError):
        return "stale"
    except BaseException:
        admission.dispose(shard, connection, "broken")
        raise
    return ""


async def _ensured(shard: Shard, connection: Any) -> None:
    pool = shard.home()
    await (connection.connect() if pool is None else pool.ensure_connection(connection))


async def _renew(shard: Shard, connection: Any, reason: str, deadline: float) -> None:
    """Replace the socket of an unusable connection."""
    ticket = connection._ticket
    if reason != "disconnected":
        shard._tally.shut(reason)
        shard._call(shard.hooks.closed, connection, reason)
    await connection.disconnect()
    try:
        down = shard._origin.down()
        if down is not None:
            raise down
        ticket.born = monotonic()
        with patient(connection, deadline):
            await _ensured(shard, connection)
    except BaseException as error:
        await connection.disconnect()
        shard._count(ConnectionState.IDLE, -1)
        admission.caller_failed(shard, ticket, error)
        raise
    shard._core.reached()
    admission.welcome(shard, connection)


def take_back(shard: Shard, connection: Any, *, listened: bool) -> None:
    """A release that needs a closer look. Never suspends: what may wait goes on in a task of its own.

    Args:
        listened: others than redis-py listen to releases.
    """
    shard._count(ConnectionState.USED, -1)
    if connection._eager and connection._stream is not None:
        connection._stream.stirred = True
    shard.make_room()
    reason = admission.flaw(shard, connection)
    if not reason and (listened or getattr(connection, "_re_auth_token", None) is not None):
        if shard.soon(lambda: dispatched(shard, connection)):
            return
        reason = "broken"
    connection._special = False
    admission.keep(shard, connection, reason)


async def dispatched(shard: Shard, connection: Any) -> None:
    """Let listeners hear of a release: redis-py's sends a new token. No task can get the connection meanwhile."""
    reason = "broken"
    try:
        connection._special = False
        pool = shard.home()
        if pool is not None:
            await pool._event_dispatcher.dispatch_async(AsyncAfterConnectionReleasedEvent(connection))
            shard.make_room()
            reason = admission.flaw(shard, connection)
    except Exception as error:
        log.warning("pool.release_listener_failed", extra={"pool": shard.name, "error": str(error)})
    finally:
        admission.keep(shard, connection, reason)
