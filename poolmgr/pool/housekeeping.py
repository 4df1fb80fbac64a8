"""What falls due in a pool between checkouts, and what its member asks: decided here, carried out by the flavour.

Functions over a :class:`~poolmgr.pool.host.Host`: none of them closes or opens a connection. They take connections
to close out of the idle ones, and return them. They do not block: the member's thread calls them.
"""

from __future__ import annotations

import threading
import traceback
from typing import Any

from poolmgr.logs.journal import Log
from poolmgr.member.ports import PINNED_AFTER, Usage
from poolmgr.native import monotonic
from poolmgr.pool.entry import lent_at
from poolmgr.pool.host import Host
from poolmgr.pool.stats import Tally

log = Log("poolmgr.pool")

RESTLESS = 1.0
"""Seconds between two ticks of a pool that has something due soon."""


def restart_counting(pool: Host) -> None:
    """A forked child counts from 0."""
    pool._tally = Tally()
    pool._checkouts = 0
    pool._low = pool._low_for_member = pool._low_for_shrink = 0
    pool._shrink_at = 0.0


# ---- what the member asks --------------------------------------------------------------------


def usage(pool: Host, *, reset: bool) -> Usage:
    """How busy the pool is; ``reset`` restarts the low-water mark."""
    core = pool._core
    fold_low(pool)
    low = pool._low_for_member
    if reset:
        pool._low_for_member = len(pool._idle)
    return Usage(
        lent=core.lent,
        idle=len(pool._idle),
        waiting=core.waiting,
        low=low,
        quiet=quiet(pool),
        ceiling=core.ceiling,
        timeout=float("inf") if pool.timeout is None else pool.timeout,
        pinned=pinned(pool),
        replied=max([connection._rested for connection in list(pool._idle)], default=0.0),
    )


def replied(pool: Host, permits: Any) -> float:
    """When a connection that draws on these permits last had a reply; 0: not known."""
    return max([c._rested for c in list(pool._idle) if c._draws is permits], default=0.0)


def pinned(pool: Host) -> int:
    """Connections out with callers for longer than :data:`PINNED_AFTER`."""
    since = monotonic() - PINNED_AFTER
    return sum(1 for c in pool._connections() if (at := lent_at(c)) is not None and at <= since)


def quiet(pool: Host) -> float:
    last = max((c._rested if (at := lent_at(c)) is None else at for c in pool._connections()), default=0.0)
    return monotonic() - last if last else float("inf")


def oldest_idle(pool: Host, count: int) -> list[Any]:
    """Take out up to ``count`` idle connections for closing, oldest first."""
    taken: list[Any] = []
    while len(taken) < count:
        try:
            taken.append(pool._idle.popleft())
        except IndexError:
            break
    pool._low = min(pool._low, len(pool._idle))
    return taken


# ---- what falls due --------------------------------------------------------------------------


def fold_low(pool: Host) -> None:
    """Carry the low-water mark of the warm path to its two readers."""
    low, pool._low = pool._low, len(pool._idle)
    low = min(low, len(pool._idle))
    pool._low_for_member = min(pool._low_for_member, low)
    pool._low_for_shrink = min(pool._low_for_shrink, low)


def unneeded(pool: Host, now: float) -> list[Any]:
    """Take out the connections that stayed idle for all of the last ``idle_timeout``, for closing."""
    if not pool.idle_timeout:
        return []
    taken: list[Any] = []
    fold_low(pool)
    if pool._shrink_at and now >= pool._shrink_at:
        taken = oldest_idle(pool, min(pool._low_for_shrink, len(pool._idle) - pool._core.min_idle))
        pool._shrink_at = 0.0
    if not pool._shrink_at:
        pool._shrink_at = now + pool.idle_timeout
        pool._low_for_shrink = len(pool._idle)
    return taken


def expired(pool: Host, now: float) -> list[Any]:
    """Take out idle connections older than ``max_lifetime``, for closing; mark lent ones."""
    taken: list[Any] = []
    for connection in pool._connections():
        if now < connection._expires:
            continue
        if connection._loan:
            connection._retired = "expired"
            connection._special = True
        elif take_out(pool, connection):
            taken.append(connection)
    return taken


def take_out(pool: Host, connection: Any) -> bool:
    """Take it out of the idle ones; whether it was there."""
    try:
        pool._idle.remove(connection)
    except ValueError:  # a caller has just taken it
        return False
    return True


def borrow(pool: Host, connection: Any) -> bool:
    """Take an idle connection, as if it were lent; whether it still was idle."""
    if not take_out(pool, connection):
        return False
    pool._low = min(pool._low, len(pool._idle))
    connection._loan.append(monotonic())
    return True


def pause(pool: Host, now: float) -> float:
    """Seconds until the next thing falls due."""
    due = [pool._shrink_at - now] if pool._shrink_at else []
    due += [c._expires - now for c in pool._connections() if c._expires > now]
    if pool.leak_after:
        due.append(pool.leak_after / 4)
    if pool._core.min_idle:
        due.append(RESTLESS)
    return max(0.01, min(due, default=60.0))


# ---- holders ---------------------------------------------------------------------------------


def longest(pool: Host) -> tuple[float, str]:
    """Seconds for which the longest holder has had its connection, and its name if known."""
    now, held, by = monotonic(), 0.0, ""
    for connection in pool._connections():
        at = lent_at(connection)
        if at is not None and now - at > held:
            held = now - at
            by = f" in {connection._trace[0]}" if connection._trace else ""
    return held, by


def note_checkout(pool: Host, connection: Any) -> None:
    """Only while leaks or checkouts are watched."""
    if pool.leak_after:
        stack = traceback.extract_stack(limit=16)[:-3]
        connection._trace = (threading.current_thread().name, stack)
        connection._special = True  # its release clears the trace
    pool._call(pool.hooks.checked_out, connection)


def find_leaks(pool: Host, now: float) -> None:
    """Report each connection held too long, once, with the stack of its checkout."""
    for connection in pool._connections():
        trace, at = connection._trace, lent_at(connection)
        if trace is None or len(trace) != 2 or at is None or now - at < pool.leak_after:
            continue
        name, stack = trace
        connection._trace = (name, stack, "reported")
        pool._tally.leaks += 1
        log.warning(
            "pool.leak",
            extra={
                "pool": pool.name,
                "seconds": round(now - at, 3),
                "holder": name,
                "stack": "".join(traceback.format_list(stack)),
            },
        )


# ---- its size --------------------------------------------------------------------------------


def resize(pool: Host, max_connections: int | None, min_idle: int | None) -> None:
    """Set both bounds, as far as given.

    Raises:
        ValueError: a number is not allowed.
    """
    core = pool._core
    core.ceiling, core.min_idle = bounds(core.ceiling, core.min_idle, max_connections, min_idle)


def bounds(ceiling: int, warm: int, max_connections: int | None, min_idle: int | None) -> tuple[int, int]:
    """The ceiling and the connections kept ready, from the present ones and those given.

    Raises:
        ValueError: a number is not allowed.
    """
    ceiling = ceiling if max_connections is None else max_connections
    warm = warm if min_idle is None else min_idle
    if not isinstance(ceiling, int) or ceiling < 1:
        raise ValueError(f'"max_connections" must be 1 or more, not {max_connections!r}')
    if not isinstance(warm, int) or not 0 <= warm <= ceiling:
        raise ValueError(f'"min_idle" must be from 0 to max_connections ({ceiling}), not {min_idle!r}')
    return ceiling, warm


def above_ceiling(pool: Host) -> list[Any]:
    """Take out idle connections above the ceiling, for closing; mark lent ones for the rest."""
    core = pool._core
    taken = oldest_idle(pool, core.size - core.ceiling)
    left = core.size - len(taken) - core.ceiling
    if left > 0:
        lent = [connection for connection in pool._connections() if connection._loan]
        for connection in sorted(lent, key=lambda c: c._expires)[:left]:
            connection._special = True
    return taken


def unready(pool: Host, reason: str) -> None:
    """Have those that are being opened closed, when they are ready or come back from the caller who opened them."""
    pool._core.emptied = monotonic(), reason


def retire(pool: Host, reason: str) -> None:
    """Have lent connections closed when they come back, and those that are being opened when they are ready."""
    unready(pool, reason)
    for connection in pool._connections():
        if connection._loan:
            connection._retired = reason
            connection._special = True
