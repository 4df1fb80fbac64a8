"""Permits as a pool sees them: the implementation of :mod:`poolmgr.member.ports`.

Thin: the core defines what a permit means, and every call here ends at the process's
:class:`~poolmgr.member.locked.LockedCore`. Methods that the garbage collector may call (``Permit.close``, ``gone``, the
finalizer) append to a deque and poke the member's thread, and do nothing else: the collector may have
interrupted a thread that holds any lock of ours.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from poolmgr import tags, wire
from poolmgr.member import closer
from poolmgr.member.core.dispatcher import Attachment
from poolmgr.member.link import Link
from poolmgr.member.locked import Interrupted, LockedCore
from poolmgr.member.ports import Bell, Permit, PoolPort, Shortage
from poolmgr.member.waiting import Claimant
from poolmgr.member.waker import Parker
from poolmgr.native import monotonic

if TYPE_CHECKING:
    import socket


class SocketPermit:
    """The right to hold one socket; see :class:`poolmgr.member.ports.Permit`.

    A permit that is collected without having been given back gives back what it holds. If it holds no socket although
    one may have been opened with it, it counts until the supervisor has proven that no such connection exists.
    """

    __slots__ = ("__weakref__", "_gate", "_held", "_locked", "_used", "permits", "serial")

    def __init__(self, locked: LockedCore, serial: int, permits: ServerPermits) -> None:
        self.serial = serial
        self.permits = permits
        self._locked = locked
        self._held = True
        self._used = False
        self._gate: wire.Gate | Literal[False] | None = False
        """False: not looked at yet."""

    @property
    def gate(self) -> wire.Gate | None:
        gate = self._gate
        if gate is False:
            account = self.permits.dispatcher.account
            gate = self._gate = account.gate
            if gate is not None:
                account.named(self.serial, gate.lease)
        return gate

    @property
    def name(self) -> str:
        gate = self.gate
        return tags.name(self._locked.tag, self.serial, self._locked.core.scope, "" if gate is None else gate.lease)

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        self._locked.sockets[self.serial] = sock, closer.below(below) if below >= 0 else None

    def gone(self) -> None:
        if self._held:
            self._locked.sockets.pop(self.serial, None)
            self._locked.returned(self.serial, None)
            self._held = False

    def void(self) -> None:
        """It was refused: nothing was charged, so there is nothing to give back."""
        self._held = False
        self._locked.held.pop(self.serial, None)

    def close(self, sock: socket.socket) -> None:
        if self._held:  # else it is a repeated call, and the socket is already being closed
            self._locked.returned(self.serial, sock)
            self._held = False

    def handed_out(self) -> None:
        """From now on a socket may have been opened with it."""
        self._used = True

    def __del__(self) -> None:
        if getattr(self, "_held", False):
            if self._used:
                self._locked.dropped(self.serial)
            else:
                self._locked.returned(self.serial, None)

    def __repr__(self) -> str:
        return f"<SocketPermit {self.serial}{'' if self._held else ' given back'}>"


class ServerPermits(Attachment):
    """All permits of this process at one endpoint, for one pool; see :class:`poolmgr.member.ports.Permits`."""

    def __init__(self, locked: LockedCore, endpoint: wire.Endpoint, pool: PoolPort | None) -> None:
        super().__init__(endpoint, pooled=pool is not None)
        self._locked = locked
        self.pool: weakref.ref[PoolPort] | None = None
        if pool is not None:
            ending = sys.is_finalizing  # at the end of the interpreter modules are emptied before objects go
            self.pool = weakref.ref(pool, lambda _: None if ending() else locked.pool_vanished(self))

    def take(self, waiter: object = None) -> Permit | None:
        """Rule M1. Does not block; a refusal reports to the supervisor before it returns."""
        locked = self._locked
        if locked.forked:
            return None
        permit = SocketPermit(locked, locked.core.serial(), self)
        locked.held[permit.serial] = weakref.ref(permit)
        try:
            self._notice_a_cut()
            taken = locked.locked(self._take, permit.serial, waiter)
        except Interrupted:
            return None
        locked.after()
        if not taken:
            permit.void()
            return None
        permit.handed_out()
        return permit

    def _take(self, serial: int, waiter: object) -> bool:
        self._locked.absorb()
        return self._locked.core.take(self, monotonic(), waiter, serial) is not None

    def _notice_a_cut(self) -> None:
        """Rule M4: without a link nothing is opened. A process that was stopped for long might open something before
        its thread runs again, and a supervisor that has lost its snapshot does not wait forever."""
        session = self._locked.session
        link = session.link if session is not None else None
        if link is not None and link.is_cut():
            self._locked.locked(self._cut, link)

    def _cut(self, link: Link) -> None:
        """Under the lock: that link has ended. By now there may be another one, which this must not touch."""
        session = self._locked.session
        if session is not None and session.link is link:
            self._locked.core.unlinked()

    def queue(self, bell: Bell) -> int:
        """``bell`` rings when a permit may be free; the number is for :meth:`take` and :meth:`unqueue`."""
        waiter = self._locked.core.serial()
        self._locked.waiters[waiter] = bell
        with contextlib.suppress(Interrupted):
            self._locked.locked(self._locked.core.queue, self, waiter)
        return waiter

    def unqueue(self, waiter: int) -> None:
        with contextlib.suppress(Interrupted):
            self._locked.locked(self._locked.core.unqueue, waiter)
        self._locked.after()

    @property
    def obstacle(self) -> str:
        return self._locked.obstacle

    @property
    def serves_here(self) -> bool:
        return self._locked.serves_here

    @property
    def over(self) -> bool:
        return self._locked.over

    def attend(self, seconds: float) -> bool:
        return self._locked.attend(seconds)

    def claimant(self, timeout: float | None, bell: Bell) -> Claimant:
        return Claimant(self, timeout, bell)

    def wait(self, timeout: float | None) -> Permit | None:
        permit = self.take()
        if permit is not None:
            return permit
        parker = Parker()
        claimant = self.claimant(timeout, parker)
        try:
            while isinstance(found := claimant.look(), float):
                if not self.attend(found):
                    parker.wait(found)
            return found
        finally:
            claimant.leave()

    @property
    def unreached(self) -> bool:
        return self.outage is not None and not self.dispatcher.account.server

    def leave(self) -> None:
        if self._locked.loop is not None:
            self._call(self._locked.core.leave, self)
            self._locked.poke()

    def prefer(self) -> None:
        loop = self._locked.loop
        if loop is not None:
            with contextlib.suppress(Interrupted):
                self._locked.locked(loop.prefer, self)

    def give_up(self) -> bool:
        """Rule M2 on the release path. In doubt, no: then the connection becomes idle, and is shed."""
        if self._locked.forked:
            return False
        try:
            return self._locked.locked(self._locked.core.give_up, self, monotonic())
        except Interrupted:
            self._locked.poke()
            return False

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None:
        self._call(self._locked.core.trouble, self, kind, detail, monotonic(), began)

    def let_in(self, gate: wire.Gate, until: float) -> None:
        self._call(self._locked.core.let_in, self, gate, until)

    def shut_out(self, gate: wire.Gate, why: str) -> None:
        self._call(self._locked.core.shut_out, self, gate, why, monotonic())

    def renew(self, endpoint: wire.Endpoint) -> None:
        self._call(self._locked.core.renew, self, endpoint)

    def reached(self) -> None:
        if self.outage is not None or self.dispatcher.health.trying:
            self._call(self._locked.core.reached, self, monotonic())

    def _call(self, work: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(Interrupted):
            self._locked.locked(work, *arguments)
        self._locked.after()

    def explain(self) -> Shortage:
        try:
            found = self._locked.locked(self._locked.core.explain, self)
        except Interrupted:
            return Shortage("budget", "no permit is free")
        session = self._locked.session
        trouble = session.trouble if session is not None and found.reason == "supervisor" else ""
        return Shortage(found.reason, f"{found.text}: {trouble}") if trouble else found
