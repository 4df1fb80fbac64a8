"""The core of a process behind its lock: the one way into it, for callers and for the thread that serves it.

There is one lock, and it guards the core. Under it there is no I/O, no logging and no user's code, only the core's
arithmetic. Two things can still interrupt: the garbage collector (a release from a finalizer) and a signal handler
may run in the very thread that holds the lock. So the owner is noted, and code that finds itself to be the owner does
without. Methods for finalizers append to a deque and take no lock.
"""

from __future__ import annotations

import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import ParamSpec, Protocol, TypeVar

from poolmgr import wire
from poolmgr.kernel import processes
from poolmgr.member.closer import Below, close_copy
from poolmgr.member.core.dispatcher import Attachment
from poolmgr.member.core.process import MemberCore
from poolmgr.member.link import Link
from poolmgr.member.ports import Bell
from poolmgr.member.waker import Waker
from poolmgr.settings import Settings
from poolmgr.taking import taken

P = ParamSpec("P")
R = TypeVar("R")


class Interrupted(Exception):
    """This thread is inside the core already, below a finalizer or a signal handler."""


class SessionPort(Protocol):
    """The part of :class:`poolmgr.member.session.Session` that callers need."""

    link: Link | None

    @property
    def trouble(self) -> str: ...
    @property
    def obstacle(self) -> str: ...
    def post(self, message: wire.Message) -> None: ...
    def flush(self) -> None: ...


class LoopPort(Protocol):
    """The part of :class:`poolmgr.member.loop.Loop` that callers need."""

    waker: Waker
    cut_off: bool
    serves_in: int

    @property
    def over(self) -> bool: ...
    @property
    def session(self) -> SessionPort: ...
    def notice(self) -> bool: ...
    def attend(self, seconds: float) -> bool: ...
    def prefer(self, permits: Attachment) -> None: ...


class LockedCore:
    """See the module's docstring.

    Args:
        settings: where the supervisor is, and whether it may be started.
        again: this process was a member before.
    """

    def __init__(self, settings: Settings, core: MemberCore, *, tag: str, again: bool) -> None:
        self.settings = settings
        self.again = again
        self.tag = tag
        self.core = core
        self.core.mark = processes.mark()
        self.forked = False
        """In a forked child: this object is the parent's."""
        self.closes: deque[tuple[int, socket.socket]] = deque()
        """Permits given back with the socket to be closed. Appended to by finalizers, hence no lock."""
        self.returns: deque[tuple[int, bool]] = deque()
        """Permits given back without a socket, and whether one was lost. Likewise."""
        self.sockets: dict[int, tuple[socket.socket, Below | None]] = {}
        """By permit: every socket that may be connected, until it is closed; and ``Permit.hold``'s ``below``."""
        self.held: dict[int, weakref.ref[object]] = {}
        """Permits by serial, for the audit of those whose finalizer was interrupted."""
        self.waiters: weakref.WeakValueDictionary[int, Bell] = weakref.WeakValueDictionary()
        """Callers that wait without a pool. Weak: a caller that an exception has torn away is dropped."""
        self.vanished: deque[Attachment] = deque()
        """Attachments whose pool has been collected."""
        self._lock = threading.Lock()
        """Guards ``core``, and the order of messages put on the link."""
        self._owner = 0
        self._stirred = False
        """Whether the core had something to decide when the lock was last left."""
        self.loop: LoopPort | None = None
        """The loop that serves it, once something was attached."""

    @property
    def session(self) -> SessionPort | None:
        return self.loop.session if self.loop is not None else None

    # ---- the one way in --------------------------------------------------------------------------

    def locked(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call into the core under its lock, and put its messages on the link, in order.

        Raises:
            Interrupted: this very thread is already inside.
        """
        me = get_ident()
        if self._owner == me and self._lock.locked():
            raise Interrupted
        for _ in taken(self._lock):
            try:
                self._owner = me
                try:
                    return work(*args, **kwargs)
                finally:
                    self._put_out()
                    self._stirred = self.core.dirty
                    self._owner = 0
            finally:
                self._lock.release()
        raise AssertionError("the block has run")

    def _put_out(self) -> None:
        """Under the lock. A method, since from Python 3.12 on a ``try`` does not see an exception from a signal handler
        that strikes where a loop directly in it begins again."""
        out, loop = self.core.out, self.loop
        while out and loop is not None:
            loop.session.post(out[0])
            out.popleft()  # last, so that an exception in between repeats a message and loses none

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
        """Under the lock: permits without a holder that were not given back, because a signal handler's
        exception struck in a finalizer. Permits suspected now and before are given back here.

        Returns the new suspects.
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

    def after(self) -> None:
        """After the lock: send the messages in line from this thread, and wake the loop if needed."""
        loop = self.loop
        if loop is not None:
            loop.session.flush()
            if self._stirred:
                loop.waker.poke()

    def poke(self) -> None:
        loop = self.loop
        if loop is not None:
            loop.waker.poke()

    # ---- for finalizers: no lock -----------------------------------------------------------------

    def returned(self, serial: int, sock: socket.socket | None) -> None:
        """A permit comes back, with the socket to be closed or without one."""
        if self.loop is not None and self.loop.cut_off:
            return
        if self.forked:
            if sock is not None:
                close_copy(sock)
            return
        if sock is not None:
            self.closes.append((serial, sock))
        else:
            self.returns.append((serial, False))
        self.poke()

    def dropped(self, serial: int) -> None:
        """A permit was collected without having been given back."""
        if not self.forked:
            self._recover(serial)
            self.poke()

    def _recover(self, serial: int) -> None:
        """Nothing refers to this permit any more: close its socket, or count it as lost."""
        kept = self.sockets.get(serial)
        if kept is not None:
            self.closes.append((serial, kept[0]))
        else:
            self.returns.append((serial, True))

    def pool_vanished(self, permits: Attachment) -> None:
        if not self.forked:
            self.vanished.append(permits)
            self.poke()

    # ---- its state, for callers --------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether this membership has ended, with all that was open: for a new one call :func:`get_member`."""
        loop = self.loop
        if loop is not None and not loop.cut_off and not self.forked and loop.notice():
            self._disown()
        return loop is not None and loop.over

    def attend(self, seconds: float) -> bool:
        """See :meth:`poolmgr.member.ports.Permits.attend`."""
        loop = self.loop
        return loop is not None and loop.attend(seconds)

    @property
    def obstacle(self) -> str:
        """Why there can be no supervisor, while that is known; empty: it is not."""
        loop = self.loop
        return loop.session.obstacle if loop is not None else ""

    @property
    def serves_here(self) -> bool:
        """Whether this is the very thread that serves, below a hook or a finalizer: it must not wait for itself."""
        loop = self.loop
        return loop is not None and loop.serves_in == threading.get_ident()

    def _disown(self) -> None:
        """All our descriptors have been closed below us. Users of their objects get an error, and the files that have
        their numbers now stay open."""
        loop = self.loop
        link = loop.session.link if loop is not None else None
        for sock in [*(sock for sock, _ in list(self.sockets.values())), *([link.sock] if link is not None else ())]:
            sock.detach()
        self.sockets.clear()
        self.closes.clear()
