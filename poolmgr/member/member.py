"""The member: what a process has once, to share one budget with all others.

:func:`get_member` is the process's :class:`Member`. Nothing exists before the first attach: no thread, no
descriptor, no lock worth the name; and a forked child begins anew (rule M5). The thread that carries its
messages is in :mod:`poolmgr.member.loop`; what is right is decided by :mod:`poolmgr.member.core.process`.

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
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import get_ident
from typing import ParamSpec, TypeVar

from poolmgr import settings, tags, threads, wire
from poolmgr.kernel import processes
from poolmgr.member.closer import Below, close_copy
from poolmgr.member.core.process import MemberCore
from poolmgr.member.link import Link
from poolmgr.member.loop import Loop, ending
from poolmgr.member.permits import Parker, ServerPermits, SocketPermit
from poolmgr.member.ports import PoolPort, Shortage
from poolmgr.native import monotonic
from poolmgr.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

GOODBYE = 0.3
"""Seconds that an orderly end of the process may take for closing idle connections."""


class _Interrupted(Exception):
    """This thread is inside the core already, below a finalizer or a signal handler."""


class Member:
    """One process's permits: the locked core, and the thread that serves it.

    It lasts until its goodbye. A process that needs a connection afterwards joins again: with another member, under
    another tag.

    Args:
        settings: where the supervisor is, and whether it may be started.
        core: for tests.
        before: this process's member until now, which has said goodbye or has been cut off.
    """

    def __init__(self, settings: Settings, core: MemberCore | None = None, *, before: Member | None = None) -> None:
        self.settings = settings
        self.again = before is not None
        self.tag = tags.make(settings.socket)
        self.core = core or MemberCore(self.tag, title=_title(), budget=str(settings.budget))
        self.core.mark = processes.mark()
        if before is not None and before._loop is not None and before._loop.holds_nothing:
            self.core.replaces = before.core.replaced_by_next()
        self.forked = False
        """In a child: this object is the parent's."""
        self.closes: deque[tuple[int, socket.socket]] = deque()
        """Permits given back with the socket to be closed. Appended to by finalizers, hence no lock."""
        self.returns: deque[tuple[int, bool]] = deque()
        """Permits given back without one, and whether it was lost. Likewise."""
        self.sockets: dict[int, tuple[socket.socket, Below | None]] = {}
        """By permit: every socket that may be connected, until it is closed; and ``Permit.hold``'s ``below``."""
        self.held: dict[int, weakref.ref[SocketPermit]] = {}
        """Permits by serial, for the audit of those whose finalizer was interrupted."""
        self.waiters: weakref.WeakValueDictionary[int, Parker] = weakref.WeakValueDictionary()
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
        loop.session.flush()
        loop.waker.poke()

    def _attach(self, permits: ServerPermits, pool: PoolPort | None) -> Loop:
        loop = self._loop
        if loop is None:
            loop = self._loop = Loop(self)
        if pool is not None:
            loop.pools.adopt(permits, pool)
        self.core.attach(permits)
        return loop

    def prefer(self, permits: ServerPermits) -> None:
        """Of its pool's addresses, those who wait wait for this one's permits."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(_Interrupted):
                self.locked(loop.pools.prefer, permits)

    def leave_address(self, permits: ServerPermits) -> None:
        """The pool behind these wants none of them any more."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(_Interrupted):
                self.locked(self.core.leave, permits)
            self._after()
            self._poke()

    def take(self, permits: ServerPermits, waiter: object = None) -> SocketPermit | None:
        """Rule M1. Does not block; a refusal has told the supervisor before it returns."""
        if self.forked:
            return None
        permit = SocketPermit(self, self.core.serial(), permits)
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
        link = loop.session.link if loop is not None else None
        if link is not None and link.is_cut():
            self.locked(self._cut, link)

    def _cut(self, link: Link) -> None:
        """Under the lock: that link is no more. By now there may be another one, which is none of its business."""
        loop = self._loop
        if loop is not None and loop.session.link is link:
            self.core.unlinked()

    def _take(self, permits: ServerPermits, serial: int, waiter: object) -> bool:
        self.absorb()
        return self.core.take(permits, monotonic(), waiter, serial) is not None

    def queue(self, permits: ServerPermits, bell: Parker) -> int:
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
            return self.locked(self.core.give_up, permits, monotonic())
        except _Interrupted:
            self._poke()
            return False

    def trouble(self, permits: ServerPermits, kind: str, detail: str, began: float) -> None:
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.trouble, permits, kind, detail, monotonic(), began)
        self._after()

    def renew(self, permits: ServerPermits, endpoint: wire.Endpoint) -> None:
        """Its pool has other credentials by now."""
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.renew, permits, endpoint)
        self._after()

    def reached(self, permits: ServerPermits) -> None:
        with contextlib.suppress(_Interrupted):
            self.locked(self.core.reached, permits, monotonic())
        self._after()

    def explain(self, permits: ServerPermits) -> Shortage:
        try:
            found = self.locked(self.core.explain, permits)
        except _Interrupted:
            return Shortage("budget", "the shared budget has no permit to spare")
        loop = self._loop
        trouble = loop.session.trouble if loop is not None and found.reason == "supervisor" else ""
        return Shortage(found.reason, f"{trouble}; {found.text}") if trouble else found

    @property
    def over(self) -> bool:
        """Whether this membership has ended, with all that was open: who needs a connection asks :func:`get_member`."""
        loop = self._loop
        if loop is not None and not loop.cut_off and not self.forked and loop.notice():
            self._disown()
        return loop is not None and loop.over

    def attend(self, seconds: float) -> bool:
        """See :meth:`poolmgr.member.ports.Permits.attend`."""
        loop = self._loop
        return loop is not None and loop.attend(seconds)

    @property
    def obstacle(self) -> str:
        """Why no supervisor can be had, while that is known; empty: it is not."""
        loop = self._loop
        return loop.session.obstacle if loop is not None else ""

    @property
    def serves_here(self) -> bool:
        """Whether this is the very thread that serves, below a hook or a finalizer: it must not wait for itself."""
        loop = self._loop
        return loop is not None and loop.serves_in == threading.get_ident()

    # ---- what finalizers call: no lock ----------------------------------------------------------

    def returned(self, serial: int, sock: socket.socket | None) -> None:
        """A permit comes back, with the socket to be closed or without one."""
        if self._loop is not None and self._loop.cut_off:
            return
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
        """A permit was collected that had not been given back."""
        if not self.forked:
            self._recover(serial)
            self._poke()

    def _recover(self, serial: int) -> None:
        """Nobody refers to this permit any more: its socket is closed, or it is lost."""
        kept = self.sockets.get(serial)
        if kept is not None:
            self.closes.append((serial, kept[0]))
        else:
            self.returns.append((serial, True))

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
                    loop.session.post(out[0])
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
        signal handler struck in a finalizer. What was suspected before and still is, is given back here.

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
            self._recover(serial)
        return orphans - suspects

    def _after(self) -> None:
        """After the lock: the thread that has something to say writes it, and wakes the loop if needed."""
        loop = self._loop
        if loop is not None:
            loop.session.flush()
            if self._stirred:
                loop.waker.poke()

    def _poke(self) -> None:
        loop = self._loop
        if loop is not None:
            loop.waker.poke()

    # ---- beginning and end ------------------------------------------------------------------------

    def _disown(self) -> None:
        """All our descriptors have been closed below us. Who has an object of one gets an error, and nobody closes what
        has its number now."""
        loop = self._loop
        link = loop.session.link if loop is not None else None
        for sock in [*(sock for sock, _ in list(self.sockets.values())), *([link.sock] if link is not None else ())]:
            sock.detach()
        self.sockets.clear()
        self.closes.clear()

    def leave(self, timeout: float = GOODBYE) -> None:
        """Close what is idle and say goodbye, for at most ``timeout`` seconds. Nothing depends on it."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.leave(timeout)

    def take_all_back(self) -> None:
        """Close what callers still have, too: they are about to end, and the process is not."""
        for serial, (sock, _) in list(self.sockets.items()):
            self.returned(serial, sock)

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
        for sock, under in list(self.sockets.values()):
            close_copy(sock, under)
        self.sockets.clear()
        self.closes.clear()
        self.returns.clear()


# ---- the process's own -----------------------------------------------------------------------------

_member: Member | None = None
_making = threading.RLock()
"""Guards the making of ``_member``."""


def get_member() -> Member:
    """This process's member, made at the first call, and at the first one after its goodbye."""
    global _member
    member = _member
    if member is None or member.over:
        with contextlib.nullcontext() if ending() else _making:  # at the end a thread that runs no more may hold it
            before = _member
            if before is None or before.over:
                made = Member(settings.load() if before is None else before.settings, before=before)
                if _member is before:  # a signal handler may have been here meanwhile
                    _member = made
                    if before is not None:
                        atexit.unregister(_leave_at_exit)
                    atexit.register(_leave_at_exit)
                    _leave_with_finalizers()
            member = _member
            assert member is not None
    return member


FAMILIES = "multiprocessing", "billiard"
"""Whose children end with ``os._exit``, and run no functions of ``atexit`` but finalizers of their own. The second
one is Celery's."""

LAST = -1000
"""The priority of the last finalizer: what a user has registered may use the pool."""


def _leave_with_finalizers() -> None:
    """Have the goodbye said in their children too."""
    for name in FAMILIES:
        util, process = sys.modules.get(f"{name}.util"), sys.modules.get(f"{name}.process")
        with contextlib.suppress(Exception):  # it is not what it is called
            if util is not None and process is not None and process.current_process()._parent_pid is not None:
                util.Finalize(None, _leave_at_exit, exitpriority=LAST)


def _leave_at_exit() -> None:
    """The goodbye of a process that ends anyway: another request to end it, such as gunicorn's delayed answer to
    SIGINT in a gevent worker, neither cuts the goodbye short nor is reported as an error of it.

    With a subinterpreter no process ends, and nobody closes what it leaves: Python 3.11 forgets objects in cycles then,
    with their descriptors.
    """
    member = _member
    for _ in range(2):
        with contextlib.suppress(SystemExit):
            if member is not None:
                if not threads.allowed():
                    member.take_all_back()
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
