"""Why a caller got no connection: the errors, with their numbers and the longest holder."""

from __future__ import annotations

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core.bounds import SERVER, SUPERVISOR, Cause
from poolmgr.pool.host import UNBOUNDED, Host
from poolmgr.pool.housekeeping import longest


def why(pool: Host, cause: Cause) -> tuple[str, str]:
    """Reason and sentence for a caller that got no connection, and waited for this last."""
    core = pool._core
    if cause in (SUPERVISOR, SERVER):
        permits = pool._origin.attach()
        if permits is not None:
            shortage = permits.explain()
            return shortage.reason, shortage.text
    if core.last_error is not None:
        return "server", f"connecting failed {core.failures} times, last with: {core.last_error}"
    if core.size >= core.ceiling:
        return "pool", f"all {core.ceiling} connections that max_connections allows are in use"
    permits = pool._origin.attach()
    if permits is not None and core.starved:
        shortage = permits.explain()
        return shortage.reason, shortage.text
    if core.opening:
        return "server", f"{len(core.opening)} connections are being opened and are not ready"
    return "pool", "no connection was released"


def too_late(pool: Host, reason: str, text: str, seconds: float) -> ConnectionPoolTimeoutError:
    core = pool._core
    held, by = longest(pool)
    holder = f"; the longest holder has its connection for {held:.3g} s{by}" if held else ""
    ceiling = "none of its own" if core.ceiling == UNBOUNDED else str(core.ceiling)
    error = ConnectionPoolTimeoutError(
        f"no connection of {pool.name} after {seconds:.3g} s: {text} ({core.lent} in use, {len(core.idle)} idle, "
        f"{len(core.opening)} opening, {core.waiting} waiting, ceiling {ceiling}{holder})",
        reason=reason,
    )
    refused(pool, error)
    return error


def refused(pool: Host, error: BaseException) -> None:
    if isinstance(error, ConnectionPoolTimeoutError):
        pool._tally.timed_out(error.reason)
    pool._call(pool.hooks.timed_out, error)


def again(error: BaseException) -> BaseException:
    """An error for one more caller: a traceback belongs to one thread only."""
    try:
        copy = type(error)(*error.args)
    except Exception:  # a constructor of its own kind
        return error
    copy.__cause__ = error
    if isinstance(error, ConnectionPoolTimeoutError) and isinstance(copy, ConnectionPoolTimeoutError):
        copy.reason = error.reason
    return copy
