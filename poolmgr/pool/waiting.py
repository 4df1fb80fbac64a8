"""A caller without an idle connection queues, and waits for its fate: served, granted, failed, or too late.

The steps are here. How a caller sleeps and is woken, and what opens a connection, is the flavour's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from poolmgr.member.core.bounds import ANSWER, CONNECTING, OTHERS, SUPERVISOR, Cause, Wait
from poolmgr.member.ports import SERVES_HERE, Shortage
from poolmgr.native import monotonic
from poolmgr.pool.host import Host
from poolmgr.pool.queue import Failed, Granted, Served, Waiter
from poolmgr.pool.refusal import again, refused, too_late, why

SLICE = 0.25
"""Seconds after which a waiter looks for itself."""

SOON = 0.05
"""The same while it waits for something other than a connection in use: no wake-up comes when that changes."""

AT_ONCE = 0.005
"""The same while it waits for the supervisor's answer, which takes a millisecond."""


class Caller:
    """One caller that has found no idle connection.

    :meth:`join`; then sleep for :meth:`pause` and say :meth:`slept`, until there is no pause any more; then
    :meth:`outcome`. If an exception strikes before that: :meth:`give_up`.

    Args:
        wake: wakes it; any thread may call it.

    Raises:
        ConnectionPoolTimeoutError: it may not wait.
    """

    def __init__(self, pool: Host, started: float, timeout: float | None, wake: Callable[[], None]) -> None:
        if pool.max_waiting and pool._core.waiting >= pool.max_waiting:
            raise too_late(pool, Shortage("queue", f"{pool.max_waiting} callers wait already (max_waiting)"), 0.0)
        if any(permits.serves_here for permits in pool._origin.known):
            raise too_late(pool, Shortage("supervisor", SERVES_HERE), 0.0)
        self._pool = pool
        self._started = started
        self._wait = Wait(timeout, started)
        self._cause: Cause = OTHERS
        self._waiter = Waiter(started, wake)
        self._waited = False

    def join(self) -> None:
        """Queue."""
        self._pool._core.join(self._waiter)
        self._pool._advance()

    def pause(self) -> float | None:
        """Seconds for which to sleep, unless woken; None: its fate is decided."""
        core, waiter = self._pool._core, self._waiter
        if waiter.fate is not None:
            return None
        now, (self._cause, in_vain) = monotonic(), self._held_up_by()
        left = self._wait.left(self._cause, now, lent=core.lent > 0)
        if left <= 0 or in_vain:
            core.leave(waiter)
            return None
        cause = self._cause
        pause = min(left, SLICE if cause == OTHERS else SOON if cause != ANSWER else AT_ONCE)
        if core.is_head(waiter):
            pause = min(pause, self._pool._due(now))
        self._waited = True
        return max(0.0, pause)

    def slept(self, *, woken: bool) -> None:
        """Look again, by itself unless it was woken."""
        pool = self._pool
        if not woken:
            pool._core.starved = False
            pool._core.audit()
        if self._waiter.fate is None:
            down = pool._origin.down()
            if down is not None:
                self._waiter.settle(Failed(down))
            pool._advance()

    def outcome(self) -> Served | Granted:
        """A used connection, or the right to open one until :meth:`deadline`.

        Raises:
            ConnectionPoolTimeoutError: too late.
            BaseException: why no connection can be opened.
        """
        pool: Any = self._pool
        fate = self._waiter.fate
        seconds = monotonic() - self._started
        pool._remind()
        if self._waited:
            pool._tally.waited(seconds)
            pool._tell_waited(seconds)
        if isinstance(fate, (Served, Granted)):
            return fate
        if pool._queue:
            pool._advance()  # the next one's turn, with what this one leaves
        if isinstance(fate, Failed):
            error = again(fate.error)
            refused(pool, error)
            raise error
        raise too_late(pool, why(pool, self._cause), seconds)

    def deadline(self) -> float:
        """When no further attempt to connect may begin (monotonic seconds)."""
        now = monotonic()
        return now + self._wait.left(CONNECTING, now)

    def give_up(self) -> None:
        """It leaves because of an exception: what it was given goes to the next one."""
        pool = self._pool
        fate = pool._core.leave(self._waiter)
        if isinstance(fate, Served):
            pool._idle.append(fate.connection)
        elif isinstance(fate, Granted):
            pool._core.drop(fate.ticket)
        if pool._queue:
            pool._advance(may_open=False)
            pool._remind()

    def _held_up_by(self) -> tuple[Cause, bool]:
        """What it waits for now, and so which bound holds; and whether waiting is in vain."""
        pool = self._pool
        cause = pool._core.held_up_by(self._waiter)
        if cause != "permit":
            return cause, False
        permits = pool._origin.attach()
        if permits is None:
            return OTHERS, False
        if permits.pending != SUPERVISOR or not permits.obstacle:
            return permits.pending, False
        if pool._core.lent:
            return OTHERS, False  # none can be opened, but lent ones come back
        return SUPERVISOR, True
