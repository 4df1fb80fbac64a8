"""A caller that waits for a permit itself: for a reconnect, which no pool's queue waits for.

The steps are here; how the caller sleeps is its flavour's.
"""

from __future__ import annotations

from typing import Protocol

from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member.core.bounds import OTHERS, SUPERVISOR, Cause, Wait
from poolmgr.member.ports import SERVES_HERE, Bell, Outage, Permit, Shortage
from poolmgr.native import monotonic
from poolmgr.wire import Endpoint

LOOK_AGAIN = 1.0
"""Seconds after which a waiting caller looks for itself, in case a wake-up was lost."""

LOOK_SOON = 0.05
"""The same while it waits for something other than a connection in use: no wake-up comes when that changes."""


class Queue(Protocol):
    """The part of :class:`poolmgr.member.permits.ServerPermits` that a claimant needs."""

    endpoint: Endpoint
    outage: Outage | None
    pending: Cause

    @property
    def serves_here(self) -> bool: ...
    @property
    def over(self) -> bool: ...
    @property
    def obstacle(self) -> str: ...
    def queue(self, bell: Bell) -> int: ...
    def unqueue(self, waiter: int) -> None: ...
    def take(self, waiter: object = None) -> Permit | None: ...
    def explain(self) -> Shortage: ...


class Claimant:
    """See :class:`poolmgr.member.ports.Claimant`."""

    def __init__(self, permits: Queue, timeout: float | None, bell: Bell) -> None:
        if permits.serves_here:
            raise ConnectionPoolTimeoutError(f"no permit to reconnect: {SERVES_HERE}", reason="supervisor")
        self._permits = permits
        self._began = monotonic()
        self._wait = Wait(timeout, self._began)
        self._waiter = permits.queue(bell)

    def look(self) -> Permit | float | None:
        permits = self._permits
        outage = permits.outage
        if outage is not None:
            raise ServerDownError(f"{permits.endpoint} is down: {outage.error}")
        permit = permits.take(self._waiter)
        if permit is not None or permits.over:
            return permit
        now, cause = monotonic(), permits.pending
        left = self._wait.left(cause, now)
        if left <= 0 or (cause == SUPERVISOR and permits.obstacle):
            shortage = permits.explain()
            raise ConnectionPoolTimeoutError(
                f"no permit to reconnect within {now - self._began:.3g} s: {shortage}", reason=shortage.reason
            )
        return min(left, LOOK_AGAIN if cause == OTHERS else LOOK_SOON)

    def leave(self) -> None:
        self._permits.unqueue(self._waiter)
