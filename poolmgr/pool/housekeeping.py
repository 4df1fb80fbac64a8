"""What happens to a pool between checkouts: its member's questions, and what falls due with time.

The methods of :class:`poolmgr.member.ports.PoolPort` are called from the member's thread and must not
block. Of the rest, ``close``, ``drain`` and ``resize`` are the user's.
"""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from poolmgr import threads
from poolmgr.exceptions import PoolClosedError
from poolmgr.logs.journal import Log
from poolmgr.member.ports import PINNED_AFTER, Usage
from poolmgr.native import monotonic
from poolmgr.pool.host import State
from poolmgr.pool.stats import Tally
from poolmgr.wire import Counters

log = Log("poolmgr.pool")

RESTLESS = 1.0
"""Seconds between two ticks of a pool that has something due soon."""


class Housekeeping(State):
    """Part of :class:`poolmgr.ConnectionPool`."""

    def _begin_upkeep(self) -> None:
        self._shrink_at = 0.0

    def _restart_counting(self) -> None:
        """A child counts its own."""
        self._tally = Tally()
        self._checkouts = 0
        self._low = self._low_for_member = self._low_for_shrink = 0
        self._shrink_at = 0.0

    # ---- what the member asks --------------------------------------------------------------------

    def usage(self, *, reset: bool) -> Usage:
        """How busy the pool is; with ``reset`` the low-water mark starts anew."""
        core = self._core
        self._fold_low()
        low = self._low_for_member
        if reset:
            self._low_for_member = len(self._idle)
        return Usage(
            lent=core.lent,
            idle=len(self._idle),
            waiting=core.waiting,
            low=low,
            quiet=self._quiet(),
            ceiling=core.ceiling,
            timeout=float("inf") if self.timeout is None else self.timeout,
            pinned=self._pinned(),
            replied=max([connection._rested for connection in list(self._idle)], default=0.0),
        )

    def replied(self, permits: Any) -> float:
        """When a reply was last had by a connection that draws on these permits; 0: not known."""
        return max([c._rested for c in list(self._idle) if c._draws is permits], default=0.0)

    def _pinned(self) -> int:
        """Connections that have been out for long."""
        since = monotonic() - PINNED_AFTER
        return sum(1 for connection in self._connections() for at in connection._loan[:1] if at <= since)

    def grow(self) -> None:
        """A permit may be free now: open for whoever waits."""
        self._core.starved = False
        self._advance()

    def attempt(self) -> None:
        """Open a connection in the background although the server is believed to be down, if that is possible. One that
        has ended makes room for it."""
        connection = self._core.take_idle()
        if connection is not None:
            reason = "" if connection._eager else connection._look()
            if reason:
                self._dispose(connection, reason)
            else:
                self._idle.append(connection)
        self._core.attempt = True
        self._core.starved = False
        self._advance()

    def tell_login(self, key: str) -> None:
        """Find out what the credentials are by now, and tell the member, in a thread that lives no longer than that."""
        threads.started(threads.make(self._tell_login, f"{self.name}-login", key))  # if not, it is asked for again

    def _tell_login(self, key: str) -> None:
        try:
            self._origin.renew(key)
        except Exception as error:  # of somebody else's provider
            log.warning("pool.login_unknown", extra={"pool": self.name, "error": type(error).__name__})

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections, oldest first; how many were closed."""
        closed = 0
        while closed < count:
            try:
                connection = self._idle.popleft()
            except IndexError:
                break
            self._dispose(connection, "recalled")
            closed += 1
        self._low = min(self._low, len(self._idle))
        return closed

    def counters(self) -> Counters:
        """Counters since the pool was made, for metrics."""
        return self._tally.counters(self._checkouts)

    def tick(self, now: float) -> float:
        """Do what is due by now; seconds until next time."""
        now = monotonic()
        self._core.audit()
        self._retire_expired(now)
        self._shrink(now)
        if self._core.min_idle and self._core.closed is None:
            self._core.starved = False
            self._advance()
        if self.leak_after:
            self._find_leaks(now)
        due = [self._shrink_at - now] if self._shrink_at else []
        due += [c._expires - now for c in self._connections() if c._expires > now]
        if self.leak_after:
            due.append(self.leak_after / 4)
        if self._core.min_idle:
            due.append(RESTLESS)
        return max(0.01, min(due, default=60.0))

    # ---- what falls due --------------------------------------------------------------------------

    def _fold_low(self) -> None:
        """Carry the low-water mark of the warm path to its two readers."""
        low, self._low = self._low, len(self._idle)
        low = min(low, len(self._idle))
        self._low_for_member = min(self._low_for_member, low)
        self._low_for_shrink = min(self._low_for_shrink, low)

    def _quiet(self) -> float:
        last = max((c._loan[-1] if c._loan else c._rested for c in self._connections()), default=0.0)
        return monotonic() - last if last else float("inf")

    def _shrink(self, now: float) -> None:
        """Close what nobody needed at any instant of the last ``idle_timeout``."""
        if not self.idle_timeout:
            return
        self._fold_low()
        if self._shrink_at and now >= self._shrink_at:
            unneeded = min(self._low_for_shrink, len(self._idle) - self._core.min_idle)
            for _ in range(max(0, unneeded)):
                try:
                    connection = self._idle.popleft()
                except IndexError:
                    break
                self._dispose(connection, "idle")
            self._shrink_at = 0.0
        if not self._shrink_at:
            self._shrink_at = now + self.idle_timeout
            self._low_for_shrink = len(self._idle)

    def _retire_expired(self, now: float) -> None:
        """Close idle connections older than ``max_lifetime``, and mark lent ones."""
        for connection in self._connections():
            if now < connection._expires:
                continue
            if connection._loan:
                connection._retired = "expired"
                connection._special = True
                continue
            self._remove_idle(connection, "expired")

    def _remove_idle(self, connection: Any, reason: str) -> bool:
        try:
            self._idle.remove(connection)
        except ValueError:  # somebody has just taken it
            return False
        self._dispose(connection, reason)
        return True

    # ---- holders ---------------------------------------------------------------------------------

    def _longest(self) -> tuple[float, str]:
        """Seconds for which the longest holder has its connection, and who that is if it is known."""
        now, held, by = monotonic(), 0.0, ""
        for connection in self._connections():
            try:
                seconds = now - connection._loan[-1]
            except IndexError:
                continue
            if seconds > held:
                held = seconds
                by = f" ({connection._trace[0]})" if connection._trace else ""
        return held, by

    def _note_checkout(self, connection: Any) -> None:
        """Only while leaks or checkouts are watched."""
        if self.leak_after:
            stack = traceback.extract_stack(limit=16)[:-3]
            connection._trace = (threading.current_thread().name, stack)
            connection._special = True  # its release clears the trace
        self._call(self.hooks.checked_out, connection)

    def _find_leaks(self, now: float) -> None:
        """Report each connection that is held too long, once, with the stack of its checkout."""
        for connection in self._connections():
            trace, loan = connection._trace, connection._loan
            if trace is None or len(trace) != 2 or not loan or now - loan[-1] < self.leak_after:
                continue
            name, stack = trace
            connection._trace = (name, stack, "reported")
            self._tally.leaks += 1
            log.warning(
                "pool.leak",
                extra={
                    "pool": self.name,
                    "seconds": round(now - loan[-1], 3),
                    "holder": name,
                    "stack": "".join(traceback.format_list(stack)),
                },
            )

    # ---- the user's ------------------------------------------------------------------------------

    def resize(self, *, max_connections: int | None = None, min_idle: int | None = None) -> None:
        """Change the pool while it is used. What is above a lower ceiling is closed: idle connections now,
        lent ones when they come back.

        Raises:
            ValueError: a number is not allowed.
        """
        core = self._core
        ceiling = core.ceiling if max_connections is None else max_connections
        warm = core.min_idle if min_idle is None else min_idle
        if not isinstance(ceiling, int) or ceiling < 1:
            raise ValueError(f'"max_connections" must be 1 or more, not {max_connections!r}')
        if not isinstance(warm, int) or not 0 <= warm <= ceiling:
            raise ValueError(f'"min_idle" must be from 0 to max_connections ({ceiling}), not {min_idle!r}')
        core.ceiling, core.min_idle = ceiling, warm
        while core.size > ceiling:
            try:
                connection = self._idle.popleft()
            except IndexError:
                break
            self._dispose(connection, "resized")
        if core.size > ceiling:
            for connection in sorted(self._lent(), key=lambda c: c._expires)[: core.size - ceiling]:
                connection._special = True
        if self.__dict__.get("_listeners") is not None and (self._queue or warm):
            self._origin.attach()
            self._advance()

    def drain(self) -> None:
        """Replace every connection: idle ones are closed now, lent ones when they come back. For a
        failover, or new credentials in ``connection_kwargs``."""
        self._retire("drained")
        self._empty("drained")

    def close(self, timeout: float | None = None) -> None:
        """Close the pool.

        Args:
            timeout: None, as redis-py's: all connections are closed at once, also those in use; the pool
                can be used again. A number: nobody gets a connection any more, holders may finish for so
                many seconds, and what is still out then is closed. The pool stays closed.
        """
        if timeout is None:
            self.disconnect()
            return
        core = self._core
        core.closed = PoolClosedError(f"the pool {self.name} was closed")
        self._watched = self._strict = True
        self._retire("pool")
        self._empty("pool")
        self._advance(may_open=False)
        deadline = monotonic() + timeout
        while core.lent and monotonic() < deadline:
            time.sleep(0.005)  # holders give back without waking anybody: the warm path tells no one
            self._empty("pool")
        self.disconnect()
