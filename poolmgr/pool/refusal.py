"""Why a caller got no connection: the errors, with their numbers and the longest holder."""

from __future__ import annotations

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core.bounds import SERVER, SUPERVISOR, Cause
from poolmgr.member.ports import MAXCLIENTS, Shortage
from poolmgr.pool import fork
from poolmgr.pool.host import Host
from poolmgr.pool.housekeeping import longest
from poolmgr.pool.membership import REFUSAL


def why(pool: Host, cause: Cause) -> Shortage:
    """For a caller that got no connection; ``cause`` is what it last waited for."""
    core = pool._core
    if cause in (SUPERVISOR, SERVER):
        permits = pool._origin.attach()
        if permits is not None:
            return permits.explain()
    if core.last_error is not None:
        full = REFUSAL in str(core.last_error)
        return Shortage(
            "server",
            f"connecting failed {core.failures} times, last with: {core.last_error}",
            f"The server's maxclients is reached: {MAXCLIENTS}" if full else "",
        )
    if core.size >= core.ceiling:
        return Shortage(
            "pool",
            f"all {pool.max_connections} connections that max_connections allows are in use",
            "Raise the pool's max_connections (or set REDIS_POOL_MAX_CONNECTIONS)",
        )
    permits = pool._origin.attach()
    if permits is not None and core.starved:
        return permits.explain()
    if core.opening:
        return Shortage("server", f"{len(core.opening)} connections are being opened and are not ready")
    return Shortage("pool", "no connection was released")


def _held_up(pool: Host) -> str:
    """For a caller that blocks an event loop whose tasks hold the permits: what helps. No budget does for long, since
    they cannot give a connection back while it waits."""
    loop = pool._blocks()
    if loop is None:
        return ""
    keys = {permits.endpoint.key for permits in pool._origin.known}
    held = sum(other._lent_in(loop, keys) for other in fork.watched())
    if not held:
        return ""
    return (
        f"Tasks of this thread's event loop hold {held} connections and cannot give them back while this call blocks "
        "the loop: use redis.asyncio.Redis with a poolmgr.asyncio.ConnectionPool there, or make the call in a thread"
    )


def too_late(pool: Host, shortage: Shortage, seconds: float) -> ConnectionPoolTimeoutError:
    now = pool.stats()
    held, by = longest(pool)
    remedy = (_held_up(pool) if shortage.reason == "budget" else "") or shortage.remedy
    sentences = [
        f"no connection from pool {pool.name!r} within {seconds:.3g} s: {shortage.text}",
        f"This pool: {now.in_use} in use, {now.idle} idle, {now.opening} opening, {now.waiting} waiting"
        + ("" if now.max_connections is None else f", max_connections {now.max_connections}"),
        f"Longest checkout: {held:.3g} s{by}" if held else "",
        remedy,
    ]
    error = ConnectionPoolTimeoutError(". ".join(filter(None, sentences)), reason=shortage.reason)
    refused(pool, error)
    return error


def refused(pool: Host, error: BaseException) -> None:
    if isinstance(error, ConnectionPoolTimeoutError):
        pool._tally.timed_out(error.reason)
        pool._tell_timeout()
    pool._call(pool.hooks.timed_out, error)


def again(error: BaseException) -> BaseException:
    """An error for one more caller: a traceback belongs to one thread only."""
    try:
        copy = type(error)(*error.args)
    except Exception:  # its constructor takes other arguments
        return error
    copy.__cause__ = error
    if isinstance(error, ConnectionPoolTimeoutError) and isinstance(copy, ConnectionPoolTimeoutError):
        copy.reason = error.reason
    return copy
