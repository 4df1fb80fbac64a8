"""What a pool and its process's member know of each other.

A pool asks the member for permits and hands it sockets to close; the member asks a pool how busy it
is, and to open or close connections. Nothing else passes between them. The member's side is
:mod:`poolmgr.member.member`, the pool's is :mod:`poolmgr.pool.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from poolmgr.member.core.bounds import Cause
from poolmgr.wire import Counters, Endpoint, Gate

if TYPE_CHECKING:
    import socket

PINNED_AFTER = 0.25
"""Seconds after which a connection that is out with a caller counts as pinned, by a subscription or a blocking
command: its return has no predictable end."""

MAXCLIENTS = "raise maxclients there, or close connections of its other clients"
"""What helps where a server takes no more connections."""

SERVES_HERE = (
    "this is the thread that gets connections for all others, so it cannot wait for one: "
    "a hook, a finalizer or a connection class must not use the pool there"
)
"""Why a caller in the member's own thread is refused instead of waiting."""


class Usage(msgspec.Struct, frozen=True):
    """How busy a pool is.

    Attributes:
        lent: connections out with callers.
        idle: connections that could be lent now.
        waiting: callers in the pool's queue.
        low: the fewest idle connections since the last call that reset it: these stayed idle at every
            instant of that time.
        quiet: seconds since the last checkout or release.
        ceiling: the pool's own ``max_connections``.
        timeout: seconds its callers wait for a connection; infinity: forever.
        replied: when the last reply came, in monotonic seconds; 0: not known.
        pinned: connections of ``lent`` that have been out for longer than :data:`PINNED_AFTER`.
    """

    lent: int
    idle: int
    waiting: int
    low: int
    quiet: float
    ceiling: int
    timeout: float
    pinned: int = 0
    replied: float = 0.0


class PoolPort(Protocol):
    """A pool as its member sees it. The member's thread calls all methods, never with the
    member's lock held; they must not block."""

    name: str
    descriptors: int
    """How many each of its connections has in this process."""

    def usage(self, *, reset: bool) -> Usage:
        """How busy the pool is; ``reset`` restarts the low-water mark."""

    def replied(self, permits: Permits) -> float:
        """When the last reply came from the address that these permits are for; see :class:`Usage`."""

    def grow(self) -> None:
        """A permit may be free now: open a connection for the waiting callers."""

    def attempt(self) -> None:
        """Open a connection in the background although the server is believed to be down, if that is possible."""

    def tell_login(self, key: str) -> None:
        """Find out the present credentials for this endpoint, and pass them to :meth:`Permits.renew`. In a
        thread of its own: their provider may ask other services first."""

    def shed(self, count: int) -> int:
        """Close up to ``count`` idle connections, oldest first; how many were closed."""

    def tick(self, now: float) -> float:
        """Do what is due now (idle_timeout, max_lifetime, min_idle, leak_after); seconds until the next tick."""

    def counters(self) -> Counters: ...


class Permit(Protocol):
    """The right to hold one socket, from before ``connect()`` until the server confirmed its end."""

    serial: int

    @property
    def permits(self) -> Permits:
        """The permits that it was taken from."""

    @property
    def gate(self) -> Gate | None:
        """In a fleet: what the connection has to ask once it has its name. The same from the first look on."""

    @property
    def name(self) -> str:
        """``TAG-SERIAL``: goes into the client name (after the user's own) and into ``LIB-NAME``."""

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        """This socket is about to be connected with the permit. The member refers to it until it is closed: so the
        garbage collector, which ends the objects of a cycle in any order, cannot close it first, and a forked
        child finds its copy.

        Args:
            below: a second descriptor of the same connection, on which a TLS layer is being put; -1: none."""

    def gone(self) -> None:
        """No socket holds this permit: ``connect()`` failed, or its end is proven. Idempotent."""

    def close(self, sock: socket.socket) -> None:
        """Rule M3: hand the socket over to be closed. Never blocks and takes no lock; the garbage
        collector may call it. The permit is free again when the server has confirmed.

        Idempotent: two threads may hand over the same socket, and a signal handler's exception may cause
        a second hand-over. So only the member closes a socket once it was handed over."""


class Outage(msgspec.Struct, frozen=True):
    """The server is known to have been down since ``since`` (seconds of the epoch)."""

    since: float
    error: str


class Shortage(msgspec.Struct, frozen=True):
    """Why there is no permit now, for the error message."""

    reason: str
    """``budget``, ``descriptors``, ``server``, ``supervisor``: see ConnectionPoolTimeoutError.reason."""
    text: str
    """One sentence with numbers and, if known, the holders."""
    remedy: str = ""
    """What helps, as one sentence without its full stop, with the command last; empty if the text says so."""

    def __str__(self) -> str:
        return f"{self.text}. {self.remedy}" if self.remedy else self.text


class Bell(Protocol):
    """Wakes a waiting caller."""

    def ring(self) -> None:
        """Does not block; any thread may call it."""


class Claimant(Protocol):
    """A caller that waits for a permit without a pool's queue. It has a place among those that wait until it leaves.

    Raises:
        ConnectionPoolTimeoutError: it must not wait here.
    """

    def look(self) -> Permit | float | None:
        """A permit; or seconds to sleep, unless woken, before the next look; None: the permits are over.

        Raises:
            ConnectionPoolTimeoutError: no permit came in time.
            ServerDownError: the server is known to be down.
        """

    def leave(self) -> None:
        """It does not wait any more, whatever it has got."""


class Permits(Protocol):
    """All permits of this process at one address, as one pool sees them."""

    @property
    def endpoint(self) -> Endpoint: ...

    surplus: int
    """How many sockets the process holds above its limit. A plain attribute: a release path that
    reads more than 0 calls :meth:`give_up` and, if that says so, closes instead of keeping (M2)."""

    outage: Outage | None
    """Not None: the server is known to be down; callers that would have to connect fail at once."""

    pending: Cause
    """Why :meth:`take` refuses, if not because others hold the permits: ``supervisor``, ``server``, ``answer`` (see
    :mod:`poolmgr.member.core.bounds`). ``others``: they do. A plain attribute, true whenever a permit has been
    refused."""

    @property
    def obstacle(self) -> str:
        """Why there can be no supervisor, with the remedy, while that is known: waiting is in vain. Else empty."""

    @property
    def serves_here(self) -> bool:
        """Whether this is the member's own thread, below a hook or a finalizer. It would wait for itself."""

    @property
    def over(self) -> bool:
        """Whether the membership behind these has ended, with all that was open: for a new permit, attach again."""

    def attend(self, seconds: float) -> bool:
        """A waiting caller calls this instead of sleeping: if the member has no thread, this does its work
        for up to so long. False, at once: it has one."""

    def take(self) -> Permit | None:
        """Rule M1: a permit for a socket about to be opened, or None. Does not block. After None the member
        soon looks at the pool's ``waiting`` and asks the supervisor; ``grow`` follows."""

    def wait(self, timeout: float | None) -> Permit | None:
        """Like :meth:`take` but waits, for reconnects that redis-py makes inside a command. None: it is :attr:`over`.

        Args:
            timeout: seconds to wait for others; None: forever. :mod:`poolmgr.member.core.bounds` has further bounds.

        Raises:
            ConnectionPoolTimeoutError: no permit came in time.
            ServerDownError: the server is known to be down.
        """

    def claimant(self, timeout: float | None, bell: Bell) -> Claimant:
        """The steps of :meth:`wait`, for a caller that sleeps in a way of its own. ``timeout``: as there."""

    @property
    def unreached(self) -> bool:
        """Whether the address was never reached, so that its server is not known."""

    def leave(self) -> None:
        """The pool wants none of these any more: its name has other addresses."""

    def prefer(self) -> None:
        """The pool's next connections lead to this one of its addresses: waiting callers wait
        for this one's permits."""

    def give_up(self) -> bool:
        """Whether the caller must close its connection because of a recall. Counts it at once, so
        that two callers do not both close for one permit of surplus."""

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None:
        """Report a failed connect: ``refused`` (maxclients), ``unreachable``, ``auth``, ``way`` (see
        :class:`poolmgr.wire.Trouble`). ``began``: when the attempt did (monotonic seconds)."""

    def let_in(self, gate: Gate, until: float) -> None:
        """Report that a connection found this gate open: the lease stands until then (monotonic seconds)."""

    def shut_out(self, gate: Gate, why: str) -> None:
        """Report that a connection found this gate shut: no more permits before the supervisor has sent a limit."""

    def renew(self, endpoint: Endpoint) -> None:
        """Report credentials other than those that it was attached with."""

    def reached(self) -> None:
        """Report that a connection was opened although the server is believed to be down."""

    def explain(self) -> Shortage: ...
