"""The member: each process has one, to share one budget with all others.

:func:`get_member` is the process's :class:`Member`. Nothing exists before the first attach: no thread, no
descriptor, no lock worth the name; and a forked child starts over (rule M5). :mod:`poolmgr.member.loop` is the
thread that carries its messages; :mod:`poolmgr.member.core.process` decides.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from pathlib import Path

from poolmgr import own_tag, settings, threads, wire
from poolmgr.member.closer import close_copy
from poolmgr.member.core.process import MemberCore
from poolmgr.member.locked import LockedCore
from poolmgr.member.loop import Loop, ending
from poolmgr.member.permits import ServerPermits
from poolmgr.member.ports import PoolPort
from poolmgr.settings import Settings
from poolmgr.taking import NO_LOCK, taken

GOODBYE = 0.3
"""Seconds that an orderly end of the process may take to close idle connections."""


class Member(LockedCore):
    """One process's permits: the locked core, and the thread that serves it.

    It lasts until its goodbye. A process that needs a connection afterwards joins again: with another member, under
    another tag.

    Args:
        settings: where the supervisor is, and whether it may be started.
        core: for tests.
        before: this process's member until now, which has said goodbye or has been cut off.
    """

    def __init__(self, settings: Settings, core: MemberCore | None = None, *, before: Member | None = None) -> None:
        tag = own_tag.make(settings.socket)
        core = core or MemberCore(tag, title=_title(), budget=str(settings.budget))
        super().__init__(settings, core, tag=tag, again=before is not None)
        if before is not None and before._loop is not None and before._loop.holds_nothing:
            self.core.replaces = before.core.replaced_by_next()
        self._unpooled: dict[str, ServerPermits] = {}
        self._loop: Loop | None = None
        """:attr:`loop`, as its owner has it."""

    # ---- for pools -------------------------------------------------------------------------------

    def attach(self, endpoint: wire.Endpoint, pool: PoolPort) -> ServerPermits:
        """A pool wants connections to this endpoint. The member refers to it weakly."""
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
            loop = self.loop = self._loop = Loop(self)
        if pool is not None:
            loop.pools.adopt(permits, pool)
        self.core.attach(permits)
        return loop

    # ---- beginning and end ------------------------------------------------------------------------

    def leave(self, timeout: float = GOODBYE) -> None:
        """Close idle connections and say goodbye, within ``timeout`` seconds. Nothing depends on it."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.leave(timeout)

    def rest(self, timeout: float = GOODBYE) -> None:
        """The same for a process that may go on: if something is still in use then, its membership does too."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.leave(timeout, for_good=False)

    def take_all_back(self) -> None:
        """Close what callers still have, too: they are about to end, but the process is not."""
        for serial, (sock, _) in list(self.sockets.items()):
            self.returned(serial, sock)

    def stop(self) -> None:
        """End the thread and the link at once. Open connections stay open, and the supervisor counts them."""
        loop = self._loop
        if loop is not None and not self.forked:
            loop.stop()
            self.loop = self._loop = None

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
    """This process's member, made at the first call and at the first one after its goodbye."""
    global _member
    member = _member
    if member is None or member.over:
        making = NO_LOCK if ending() else _making
        for _ in taken(making):
            try:
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
            finally:
                making.release()
    assert member is not None
    return member


FAMILIES = "multiprocessing", "billiard"
"""Their children end with ``os._exit`` and run finalizers of their own instead of ``atexit``'s functions. The second
one is Celery's."""

LAST = -1000
"""The priority of the last finalizer: a user's finalizers may use the pool."""


def _leave_with_finalizers() -> None:
    """Have the goodbye said in their children too."""
    for name in FAMILIES:
        util, process = sys.modules.get(f"{name}.util"), sys.modules.get(f"{name}.process")
        with contextlib.suppress(Exception):  # another module of that name
            if util is not None and process is not None and process.current_process()._parent_pid is not None:
                util.Finalize(None, _leave_at_exit, exitpriority=LAST)


def _leave_at_exit() -> None:
    """The goodbye of a process that ends anyway: another request to end it, such as gunicorn's delayed answer to
    SIGINT in a gevent worker, neither cuts the goodbye short nor is reported as an error of it.

    With a subinterpreter no process ends, and what it leaves stays open: Python 3.11 then forgets objects in cycles,
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
    """Rule M5. Threads that do not exist here may hold the parent's locks: nothing waits for those."""
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
