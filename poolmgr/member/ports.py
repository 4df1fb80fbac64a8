"""What a pool and its process's member know of each other.

A pool asks the member for permits and hands it sockets to close; the member asks a pool how busy it
is and to open or close connections. Nothing else passes between them. The member's side is
:mod:`poolmgr.member.agent`, the pool's is :mod:`poolmgr.pool.sync`.
"""

from __future__ import annotations

import socket
from typing import Protocol

import msgspec

from poolmgr.wire import Counters

PINNED_AFTER = 0.25
"""Seconds after which a connection that is out with a caller is called pinned: by a subscription or a blocking
command, and nobody knows when it comes back."""


class Usage(msgspec.Struct, frozen=True):
    """How busy a pool is.

    Attributes:
        lent: connections out with callers.
        idle: connections that could be lent now.
        waiting: callers in the pool's queue.
        low: the fewest idle connections since the last call that asked to reset it: what nobody
            needed at any instant of that time.
        quiet: seconds since the last checkout or release.
        ceiling: the pool's own ``max_connections``.
        timeout: seconds its callers wait for a connection; infinity if for ever.
        pinned: of ``lent``, those that have been out for longer than :data:`PINNED_AFTER`.
    """

    lent: int
    idle: int
    waiting: int
    low: int
    quiet: float
    ceiling: int
    timeout: float
    pinned: int = 0


class PoolPort(Protocol):
    """A pool as its member sees it. All methods are called from the member's thread, never with the
    member's lock held, and must not block."""

    name: str

    def usage(self, *, reset: bool) -> Usage:
        """How busy it is; with ``reset`` the low-water mark starts anew."""

    def grow(self) -> None:
        """A permit may be free now: open for whoever waits."""

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections, oldest first; how many were closed."""

    def tick(self, now: float) -> float:
        """Do what is due by now (idle_timeout, max_lifetime, min_idle, leak_after); seconds until next time."""

    def counters(self) -> Counters: ...


class Permit(Protocol):
    """The right to hold one socket, from before ``connect()`` until the server confirmed its end."""

    serial: int

    @property
    def name(self) -> str:
        """``TAG-SERIAL``: goes into the client name (after the user's own) and into ``LIB-NAME``."""

    def gone(self) -> None:
        """No socket holds this permit: ``connect()`` failed, or its end is proven. Idempotent."""

    def close(self, sock: socket.socket) -> None:
        """Rule M3: hand the socket over to be closed. Never blocks, takes no lock, may be called by
        the garbage collector. The permit is free again when the server has confirmed.

        Idempotent: two threads may hand over the same socket, and an exception of a signal handler may have
        it handed over again. So nobody but the member closes what was handed over once."""


class Outage(msgspec.Struct, frozen=True):
    """The server is known to be down since ``since`` (seconds of the epoch)."""

    since: float
    error: str


class Shortage(msgspec.Struct, frozen=True):
    """Why no permit can be had now, for the error message."""

    reason: str
    """``budget``, ``descriptors``, ``server``, ``supervisor``: see ConnectionPoolTimeoutError.reason."""
    text: str
    """One sentence with numbers and, where known, who holds what."""


class Permits(Protocol):
    """All permits of this process at one server, as one pool sees them."""

    surplus: int
    """How many sockets the process holds above its limit. A plain attribute: a release path that
    reads more than 0 calls :meth:`give_up` and, if that says so, closes instead of keeping (M2)."""

    outage: Outage | None
    """Not None: the server is known to be down; callers that would have to connect fail at once."""

    def take(self) -> Permit | None:
        """Rule M1: a permit for a socket about to be opened, or None. Does not block. After None the
        pool's ``waiting`` is looked at soon and the supervisor is asked; ``grow`` follows."""

    def wait(self, timeout: float) -> Permit:
        """Like :meth:`take` but waits, for reconnects that redis-py makes inside a command.

        Raises:
            ConnectionPoolTimeoutError: none came in ``timeout`` seconds.
            ServerDownError: the server is known to be down.
        """

    def give_up(self) -> bool:
        """Whether the caller is to close its connection because of a recall. Counts it at once, so
        that two callers do not both close for one permit of surplus."""

    def trouble(self, kind: str, detail: str) -> None:
        """Tell of a failed connect: ``refused`` (maxclients), ``unreachable``, ``auth``."""

    def explain(self) -> Shortage: ...
