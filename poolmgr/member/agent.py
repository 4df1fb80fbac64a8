"""The member: what a process has once, to share one budget with all others.

:func:`get_member` is the process's :class:`Member`. Nothing exists before the first attach: no thread, no
descriptor, no lock worth the name; and a forked child begins anew (rule M5). The thread that carries its
messages is in :mod:`poolmgr.member.loop`; what is right is decided by :mod:`poolmgr.member.core`.

Locks: there is one, ``Member._lock``, and it guards the core. Under it there is no I/O, no logging and
no user's code, only the core's arithmetic. Two things can still come in between: the garbage collector
(a release from a finalizer) and a signal handler may run in the very thread that holds it. So the
owner is noted, and whoever finds that it is itself does without.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import ParamSpec, TypeVar

from poolmgr import identity, settings, wire
from poolmgr.member.core import Core
from poolmgr.member.link import Link
from poolmgr.member.loop import Loop
from poolmgr.member.permits import Bell, ServerPermits, SocketPermit
from poolmgr.member.ports import PoolPort, Shortage
from poolmgr.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

GOODBYE = 0.3
"""Seconds that an orderly end of the process may take for closing idle connections."""


class _Interrupted(Exception):
    """This thread is inside the core already, below a finalizer or a signal handler."""


class Member:
    """One process's permits: the locked core, and the thread that serves it.

    Args:
        settings: where the supervisor is, and whether it may be started.
        core: for tests.
    """

    def __init__(self, settings: Settings, core: Core | None = None) -> None:
        self.settings = settings
        self.tag = identity.make(settings.socket)
        self.core = core or Core(self.tag, title=_title(), budget=str(settings.budget))
        self.forked = False
        """In a child: this object is the parent's."""
        self.closes: deque[tuple[int, socket.socket]] = deque()
        """Permits given back with the socket to be closed. Appended to by finalizers, hence no lock."""
        self.returns: deque[tuple[int, bool]] = deque()
        """Permits given back without one, and whether it was lost. Likewise."""
        self.held: dict[int, weakref.ref[SocketPermit]] = {}
        """Permits by serial, for the audit of those whose finalizer was interrupted."""
        self.waiters: weakref.WeakValueDictionary[int, Bell] = weakref.WeakValueDictionary()
        """Callers that wait without a pool. Weak: one that an exception has torn away is not waited for."""
        self.vanished: deque[ServerPermits] = deque()
        """Attachments whose pool has been collected."""
        self._lock = threading.Lock()
        """Guards ``core``, and the order of messages put on the link."""
        self._owner = 0
        self._stirred = False
        """Whether the core had something to decide when the lock was last left."""
        self._unpooled: dict[str, ServerPermits] = {}
        self._loop: Loop | None = None

    # ---- what pools call -------------------------------------------------------------------------

    def attach(self, endpoint: wire.Endpoint, pool: PoolPort) -> ServerPermits:
        """A pool wants connections to this endpoint. It is referred to weakly."""
        permits = ServerPermits(self, endpoint, pool)
        self._begin(permits, pool)
        return permits

    def permits(self, endpoint: wire.Endpoint) -> ServerPermits:
        """For a connection that belongs to no pool, or whose address is not its pool's."""
        permits = self._unpooled.get(endpoint.key)
        if permits is None:
            permits = self._unpooled.setdefault(endpoint.key, ServerPermits(self, endpoint, None))
            self._begin(permits, None)
        return permits

    def _begin(self, permits: ServerPermits, pool: PoolPort | None) -> None:
        loop = self.locked(self._attach, permits, pool)
        loop.start()
        loop.contact.flush()
        loop.waker.poke()

    def _attach(self, permits: ServerPermits, pool: PoolPort | None) -> Loop:
        loop = self._loop
        if loop is None:
            loop = self._loop = Loop(self)
        if pool is not None:
            loop.clients.adopt(permits, pool)
        self.core.attach(permits)
        return loop

    def take(self, permits: ServerPermits, waiter: object = None) -> SocketPermit | None:
        """Rule M1. Does not block; a refusal has told the supervisor before it returns."""
        if self.forked:
            return None
        permit = SocketPermit(self, self.core.serial())
        self.held[permit.serial] = weakref.ref(permit)
        try:
            self._notice_a_cut()
            taken = self.locked(self._take, permits, permit.serial, waiter)
        except _Interrupted:
            return None
        self._after()
        if not taken:
            permit.gone()
            return None
        permit.handed_out()
        return permit

    def _notice_a_cut(self) -> None:
        """Rule M4: without a link nothing is opened. A process that was stopped for long may open something before its
        agent has run again, and a supervisor that has lost its snapshot waits no longer than it can."""
        loop = self._loop
        link = loop.contact.link if loop is not None else None
        if link is not None and link.is_cut():
            self.locked(self._cut, link)

    def _cut(self, link: Link) -> None:
        """Under the lock: that link is no more. By now there may be another one, which is none of its business."""
        loop = self._loop
        if loop is not None and loop.contact.link is link:
            self.core.unlinked()

    def _take(self, permits: ServerPermits, serial: int, waiter: object) -> bool:
        self.absorb()
        return self.core.take(permits, time.monotonic(), waiter, serial) is not None

    def queue(self, permits: ServerPermits, bell: Bell) -> int:
        """``bell`` is rung when a permit may be had; the number is for :meth:`take` and :meth:`unqueue`."""
        waiter = self.core.serial()
        self.waiters[waiter] = bell
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.queue, permits, waiter)
        return waiter

    def unqueue(self, waiter: int) -> None:
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.unqueue, waiter)
        self._after()

    def give_up(self, permits: ServerPermits) -> bool:
        """Rule M2 on the release path. In doubt, no: then it becomes idle, and is shed."""
        if self.forked:
            return False
        try:
            return self.locked(self.core.give_up, permits, time.monotonic())
        except _Interrupted:
            self._poke()
            return False

    def trouble(self, permits: ServerPermits, kind: str, detail: str) -> None:
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.trouble, permits, kind, detail, time.monotonic())
        self._after()

    def explain(self, permits: ServerPermits) -> Shortage:
        try:
            found = self.locked(self.core.explain, permits)
        except _Interrupted:
            return Shortage("budget", "the shared budget has no permit to spare")
        loop = self._loop
        trouble = loop.contact.trouble if loop is not None and found.reason == "supervisor" else ""
        return Shortage(found.reason, f"{trouble}; {found.text}") if trouble else found

    # ---- what finalizers call: no lock ----------------------------------------------------------

    def returned(self, serial: int, sock: socket.socket | None) -> None:
        """A permit comes back, with the socket to be closed or without one."""
        if self.forked:
            if sock is not None:
                sock.close()
            return
        if sock is not None:
            self.closes.append((serial, sock))
        else:
            self.returns.append((serial, False))
        self._poke()

    def dropped(self, serial: int) -> None:
        """A permit was collected with its socket."""
        if not self.forked:
            self.returns.append((serial, True))
            self._poke()

    def pool_vanished(self, permits: ServerPermits) -> None:
        if not self.forked:
            self.vanished.append(permits)
            self._poke()

    # ---- around the core -------------------------------------------------------------------------

    def locked(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call into the core under its lock, and put what it wants to say on the link, in that order.

        Raises:
            _Interrupted: this very thread is inside already.
        """
        me = get_ident()
        if self._owner == me and self._lock.locked():
            raise _Interrupted
        with self._lock:
            self._owner = me
            try:
                return work(*args, **kwargs)
            finally:
                out, loop = self.core.out, self._loop
                while out and loop is not None:
                    loop.contact.post(out[0])
                    out.popleft()  # after it, so that an exception in between repeats and loses nothing
                self._stirred = self.core.dirty
                self._owner = 0

    def absorb(self) -> None:
        """Under the lock: take in the permits that came back without a socket."""
        returns = self.returns
        while returns:
            serial, lost = returns[0]
            if lost:
                self.core.lost(serial)
            else:
                self.core.gone(serial)
            returns.popleft()

    def audit(self, suspects: set[int]) -> set[int]:
        """Under the lock: permits that nobody holds and nobody has given back, because an exception of a
        signal handler struck in a finalizer. What was suspected before and still is, is lost.

        Returns the suspects of this time.
        """
        orphans, live = set(), set(self.core.live())
        for serial, permit in list(self.held.items()):
            if permit() is None:
                if serial in live:
                    orphans.add(serial)
                else:
                    del self.held[serial]
        for serial in orphans & suspects:
            self.core.lost(serial)
        return orphans - suspects

    def _after(self) -> None:
        """After the lock: the thread that has something to say writes it, and wakes the loop if needed."""
        loop = self._loop
        if loop is not None:
            loop.contact.flush()
            if self._stirred:
                loop.waker.poke()

    def _poke(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.waker.poke()

    # ---- beginning and end ------------------------------------------------------------------------

    def leave(self, timeout: float = GOODBYE) -> None:
        """Close what is idle and say goodbye, for at most ``timeout`` seconds. Nothing depends on it."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.leave(timeout)

    def stop(self) -> None:
        """End the thread and the link at once. What is open stays open, and counted by the supervisor."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.stop()
            self._loop = None

    def after_fork(self) -> None:
        """In the child (rule M5): this is the parent's. Its copies of sockets are closed, plainly."""
        self.forked = True
        loop = self._loop
        if loop is not None:
            loop.abandon()
        for _, sock in list(self.closes):
            with contextlib.suppress(OSError):
                sock.close()
        self.closes.clear()
        self.returns.clear()


# ---- the process's own -----------------------------------------------------------------------------

_member: Member | None = None
_making = threading.RLock()
"""Guards the making of ``_member``."""


def get_member() -> Member:
    """This process's member, made at the first call."""
    global _member
    member = _member
    if member is None:
        with _making:
            if _member is None:
                made = Member(settings.load())
                if _member is None:  # a signal handler may have been here meanwhile
                    _member = made
                    atexit.register(_leave_at_exit, made)
            member = _member
    return member


def _leave_at_exit(member: Member) -> None:
    """The goodbye of a process that ends anyway: another request to end it, such as gunicorn's delayed answer to
    SIGINT in a gevent worker, neither cuts the goodbye short nor is reported as an error of it."""
    for _ in range(2):
        with contextlib.suppress(SystemExit):
            member.leave()
            return


def _in_child() -> None:
    """Rule M5. The parent's locks may be held by threads that do not exist here: nothing waits for them."""
    global _member, _making
    member, _member = _member, None
    _making = threading.RLock()
    if member is not None:
        atexit.unregister(_leave_at_exit)
        member.after_fork()


os.register_at_fork(after_in_child=_in_child)


_named = ""


def set_title(text: str) -> None:
    """Say what this process is, for people (``gunicorn worker``). Before its first pool is used."""
    global _named
    _named = text


def _title() -> str:
    """What this process is, for people."""
    if _named:
        return _named
    path = Path(sys.argv[0] if sys.argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.name
    return "python" if name in ("", "-c", "-m") else name
