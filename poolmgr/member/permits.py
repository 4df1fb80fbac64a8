"""Permits as a pool sees them: the implementation of :mod:`poolmgr.member.ports`.

Thin: what a permit means is the core's, and every call here ends at the process's
:class:`~poolmgr.member.member.Member`. What the garbage collector may call (``Permit.close``, ``gone``, the
finalizer) appends to a deque and pokes the agent, and does nothing else: the collector may have
interrupted a thread that holds any lock of ours.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from typing import TYPE_CHECKING

from poolmgr import tags, wire
from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member import closer
from poolmgr.member.core.bounds import OTHERS, SUPERVISOR, Wait
from poolmgr.member.core.dispatcher import Attachment
from poolmgr.member.ports import SERVES_HERE, Permit, PoolPort, Shortage
from poolmgr.native import monotonic

if TYPE_CHECKING:
    import socket

    from poolmgr.member.member import Member

LOOK_AGAIN = 1.0
"""Seconds after which a waiting caller looks for itself, should a wake-up have been lost."""

LOOK_SOON = 0.05
"""The same while it waits for something that is no connection of others: nobody wakes it when that changes."""


class SocketPermit:
    """The right to hold one socket; see :class:`poolmgr.member.ports.Permit`.

    One that is collected without having been given back gives back what it holds. Where it holds no socket though one
    may have been opened with it, it counts until the supervisor has proven that no such connection exists.
    """

    __slots__ = ("__weakref__", "_held", "_member", "_used", "permits", "serial")

    def __init__(self, member: Member, serial: int, permits: ServerPermits) -> None:
        self.serial = serial
        self.permits = permits
        self._member = member
        self._held = True
        self._used = False

    @property
    def name(self) -> str:
        return tags.name(self._member.tag, self.serial, self._member.core.scope)

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        self._member.sockets[self.serial] = sock, closer.below(below) if below >= 0 else None

    def gone(self) -> None:
        if self._held:
            self._member.sockets.pop(self.serial, None)
            self._member.returned(self.serial, None)
            self._held = False

    def close(self, sock: socket.socket) -> None:
        if self._held:  # else it is a repetition, and the socket is being closed
            self._member.returned(self.serial, sock)
            self._held = False

    def handed_out(self) -> None:
        """From now on a socket may have been opened with it."""
        self._used = True

    def __del__(self) -> None:
        if getattr(self, "_held", False):
            if self._used:
                self._member.dropped(self.serial)
            else:
                self._member.returned(self.serial, None)

    def __repr__(self) -> str:
        return f"<SocketPermit {self.serial}{'' if self._held else ' given back'}>"


class Parker:
    """Wakes one waiting caller. A bare lock, and not a :class:`threading.Event`: an exception of a signal
    handler inside an Event's methods can leave it locked, and then whoever sets it hangs."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Does not block."""
        with contextlib.suppress(RuntimeError):  # rung already
            self._lock.release()

    def wait(self, timeout: float) -> None:
        """Until it is rung, or for ``timeout`` seconds."""
        self._lock.acquire(timeout=timeout)


class ServerPermits(Attachment):
    """All permits of this process at one endpoint, for one pool; see :class:`poolmgr.member.ports.Permits`."""

    def __init__(self, member: Member, endpoint: wire.Endpoint, pool: PoolPort | None) -> None:
        super().__init__(endpoint, pooled=pool is not None)
        self._member = member
        self.pool: weakref.ref[PoolPort] | None = None
        if pool is not None:
            ending = sys.is_finalizing  # at the end of the interpreter modules are emptied before objects go
            self.pool = weakref.ref(pool, lambda _: None if ending() else member.pool_vanished(self))

    def take(self) -> Permit | None:
        return self._member.take(self)

    @property
    def obstacle(self) -> str:
        return self._member.obstacle

    @property
    def serves_here(self) -> bool:
        return self._member.serves_here

    @property
    def over(self) -> bool:
        return self._member.over

    def attend(self, seconds: float) -> bool:
        return self._member.attend(seconds)

    def wait(self, timeout: float | None) -> Permit | None:
        permit = self._member.take(self)
        if permit is not None:
            return permit
        if self.serves_here:
            raise ConnectionPoolTimeoutError(f"no permit to reconnect: {SERVES_HERE}", reason="supervisor")
        bell = Parker()
        began = monotonic()
        wait = Wait(timeout, began)
        waiter = self._member.queue(self, bell)
        try:
            while True:
                outage = self.outage
                if outage is not None:
                    raise ServerDownError(f"{self.endpoint} is down: {outage.error}")
                permit = self._member.take(self, waiter)
                if permit is not None or self.over:
                    return permit
                now, cause = monotonic(), self.pending
                left = wait.left(cause, now)
                if left <= 0 or (cause == SUPERVISOR and self.obstacle):
                    shortage = self.explain()
                    raise ConnectionPoolTimeoutError(
                        f"no permit to reconnect after {now - began:.3g} s: {shortage.text}", reason=shortage.reason
                    )
                pause = min(left, LOOK_AGAIN if cause == OTHERS else LOOK_SOON)
                if not self.attend(pause):
                    bell.wait(pause)
        finally:
            self._member.unqueue(waiter)

    @property
    def unreached(self) -> bool:
        return self.outage is not None and not self.dispatcher.account.server

    def leave(self) -> None:
        self._member.leave_address(self)

    def prefer(self) -> None:
        self._member.prefer(self)

    def give_up(self) -> bool:
        return self._member.give_up(self)

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None:
        self._member.trouble(self, kind, detail, began)

    def renew(self, endpoint: wire.Endpoint) -> None:
        self._member.renew(self, endpoint)

    def reached(self) -> None:
        if self.outage is not None or self.dispatcher.trying:
            self._member.reached(self)

    def explain(self) -> Shortage:
        return self._member.explain(self)
