"""The member of a process that does not enforce a budget: it grants every permit that a pool asks for.

``REDIS_CONNECTION_BUDGET=off`` chooses it, and so does a system other than Linux. Nothing is shared then: no
supervisor is started or asked, no thread runs, no descriptor is used, and connections do not bear a name of ours. Only
its own ``max_connections`` bounds a pool.

Nothing does the work of the member's thread: ``min_idle`` is not refilled, and a connection past its
``idle_timeout`` is closed when the pool next looks at it.
"""

from __future__ import annotations

import itertools
import os
import socket
from typing import TYPE_CHECKING

from poolmgr import settings
from poolmgr.logs.journal import Log
from poolmgr.member.closer import Below, below as second, close, close_copy
from poolmgr.member.core.bounds import OTHERS, Cause
from poolmgr.member.ports import PoolPort, Shortage
from poolmgr.native import at_fork

if TYPE_CHECKING:
    from poolmgr.member.ports import Outage
    from poolmgr.wire import Endpoint, Gate

log = Log("poolmgr.member")


class UnsharedPermit:
    """See :class:`poolmgr.member.ports.Permit`. It ends as soon as its socket is closed here."""

    __slots__ = ("__weakref__", "_member", "permits", "serial")

    name = ""
    gate = None

    def __init__(self, member: UnsharedMember, serial: int, permits: UnsharedPermits) -> None:
        self._member = member
        self.serial = serial
        self.permits = permits

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        self._member.sockets[self.serial] = sock, second(below) if below >= 0 else None

    def gone(self) -> None:
        self._member.sockets.pop(self.serial, None)

    def close(self, sock: socket.socket) -> None:
        close(sock)
        self.gone()

    def __del__(self) -> None:
        kept = self._member.sockets.pop(self.serial, None)
        if kept is None:
            return
        if self._member.pid == os.getpid():
            close(kept[0])
        else:  # a child's pool has let go of it before the member has heard of the fork
            close_copy(*kept)


class UnsharedPermits:
    """See :class:`poolmgr.member.ports.Permits`."""

    surplus = 0
    outage: Outage | None = None
    pending: Cause = OTHERS
    obstacle = ""
    serves_here = False
    over = False
    unreached = False

    def __init__(self, member: UnsharedMember, endpoint: Endpoint) -> None:
        self._member = member
        self.endpoint = endpoint

    def attend(self, seconds: float) -> bool:
        return False

    def take(self) -> UnsharedPermit:
        return UnsharedPermit(self._member, next(self._member.serials), self)

    def wait(self, timeout: float | None) -> UnsharedPermit:
        return self.take()

    def leave(self) -> None: ...

    def prefer(self) -> None: ...

    def give_up(self) -> bool:
        return False

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None: ...

    def let_in(self, gate: Gate, until: float) -> None: ...

    def shut_out(self, gate: Gate, why: str) -> None: ...

    def renew(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint

    def reached(self) -> None: ...

    def explain(self) -> Shortage:
        return Shortage("pool", "no budget is enforced in this process")


class UnsharedMember:
    """The process's own, in place of :class:`poolmgr.member.member.Member`.

    Attributes:
        sockets: by permit, every socket that may be connected, so that a forked child can close its copies.
        pid: whose they are.
    """

    def __init__(self) -> None:
        self.serials = itertools.count(1)
        self.pid = os.getpid()
        self.sockets: dict[int, tuple[socket.socket, Below | None]] = {}

    def attach(self, endpoint: Endpoint, pool: PoolPort) -> UnsharedPermits:
        return UnsharedPermits(self, endpoint)

    def permits(self, endpoint: Endpoint) -> UnsharedPermits:
        return UnsharedPermits(self, endpoint)

    def rest(self) -> None:
        """No one has to hear a goodbye."""

    def after_fork(self) -> None:
        """In the child: the parent's connections are not ours to use or to end."""
        for sock, under in list(self.sockets.values()):
            close_copy(sock, under)
        self.sockets.clear()
        self.pid = os.getpid()


_member: UnsharedMember | None = None


def get_member() -> UnsharedMember:
    """This process's member, made at the first call. A log line says that no budget is enforced."""
    global _member
    if _member is None:
        _member = UnsharedMember()
        log.warning(
            "budget.off",
            extra={
                "reason": settings.unenforced(),
                "remedy": "nothing bounds the connections of all processes together; for production set "
                "REDIS_CONNECTION_BUDGET to a number or auto, on Linux",
            },
        )
    return _member


def _in_child() -> None:
    if _member is not None:
        _member.after_fork()


at_fork(after_in_child=_in_child)
