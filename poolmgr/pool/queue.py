"""One pool's state machine, shared by every flavour: which callers wait, what is idle, which caller gets what.

Pure: no I/O, no clock, no threads; time is an argument. Events go in as method calls, effects come out
of :meth:`PoolCore.advance`, and a shell (:mod:`poolmgr.pool.sync.pool`) carries them out. It must never touch a
socket, sleep, log or call a user's code. More than 400 lines, so that every case of the queue is read in one file.

Theory of operation
-------------------

A *connection* is any object the shell likes. Its place in the pool is a :class:`Ticket`, which the
connection keeps alive and the core knows only weakly: a connection that vanishes, because an exception
struck between two instructions of its holder, takes its ticket along, and the garbage collector reports it
(:attr:`PoolCore.lost`). The size of the pool is the number of living tickets, so no place can be lost.

The warm path touches only two deques, without a lock: :attr:`PoolCore.idle` and
:attr:`PoolCore.queue`. A caller that finds the queue empty takes from ``idle``; a caller that does not
joins the queue (no barging). A connection that comes back is appended to ``idle``; then, if the queue is
not empty, the core is *advanced*. A waiter appends itself and then advances likewise: each makes its
own move visible before it looks at the other's, so at least one of them sees both (Dekker's rule).

One thread at a time must run :meth:`PoolCore.advance`; the shell ensures that without blocking.
One atomic operation (:meth:`Waiter.settle`) decides a waiter's fate once, and the first to call it wins:
the advance that serves it or the waiter that leaves. An exception between any two instructions
always leaves a state from which the next advance goes on.

The cases of an advance, for the head of the queue:

1. It has left or is served: it goes, and the next one is looked at.
2. A connection is idle: it is handed over.
3. The pool was closed: it fails.
4. The last attempt to connect failed and no connection can come back: all callers that waited when it
   began fail with it. A later caller has not been put to the test, and gets an attempt of its own;
   but if a second attempt, begun after the first had failed, fails too, the server is down: then
   all waiting callers fail at once, until an attempt succeeds.
5. Nothing is lent and nothing is being opened: it gets a ticket and connects itself, at once.
6. Otherwise it waits for a release, and a new connection is opened behind it: one at once, a further
   one only when the head has waited as long as a connect takes. So a burst of short commands, which
   released connections serve sooner than new ones could, opens one connection and not dozens, and
   a lasting need grows the pool as fast as ``max_opening`` allows.

Prior art: HikariCP's ConcurrentBag (drops additions that are not needed any more), psycopg_pool
(direct hand-over to the first in the queue), MongoDB's pool specification (``maxConnecting``).
"""

from __future__ import annotations

import itertools
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from poolmgr.member.ports import Permit

PATIENCE = 0.01
"""Seconds the head of the queue waits before a second connection is opened, until a connect was timed."""

FORGET = 10.0
"""Seconds after which a failed attempt to connect says nothing about the server any more: the next failure counts
as a first one, and idle connections are made in advance again."""

NEVER = float("inf")


class Ticket:
    """The place of one connection in its pool, from before it is opened until it is dropped.

    Attributes:
        serial: unique in the pool.
        permit: taken for the first socket, until the connection has claimed it.
        born: when the attempt to connect began, or the last renewal (monotonic seconds).
        background: whether it is being opened for the queue, and not by a caller for itself.
        connection: a weak reference to the connection, once there is one.
    """

    __slots__ = ("__weakref__", "background", "born", "connection", "permit", "serial")

    def __init__(self, serial: int, permit: Permit | None, born: float, *, background: bool) -> None:
        self.permit = permit  # first: from here on the finalizer gives it back
        self.serial = serial
        self.born = born
        self.background = background
        self.connection: weakref.ref[Any] | None = None

    def claim(self) -> Permit | None:
        """The permit, once."""
        permit, self.permit = self.permit, None
        return permit

    def __del__(self) -> None:
        permit = getattr(self, "permit", None)
        if permit is not None:
            permit.gone()  # no socket was ever made for it

    def __repr__(self) -> str:
        return f"<Ticket {self.serial}>"


class Served(msgspec.Struct, frozen=True):
    """The waiter has this connection."""

    connection: Any


class Granted(msgspec.Struct, frozen=True):
    """The waiter must connect itself, with this ticket."""

    ticket: Ticket


class Failed(msgspec.Struct, frozen=True):
    """The waiter gets this error."""

    error: BaseException


class Left(msgspec.Struct, frozen=True):
    """The waiter has gone: timeout, interrupt."""


LEFT = Left()
Fate = Served | Granted | Failed | Left


class Waiter:
    """A caller in the queue. ``wake`` makes it look at its fate; it must not block and may be called often."""

    __slots__ = ("_fate", "since", "wake")

    elsewhere = False
    """It stands for callers of another queue."""

    def __init__(self, since: float, wake: Callable[[], None]) -> None:
        self.since = since
        self.wake = wake
        self._fate: dict[int, Fate] = {}

    def settle(self, fate: Fate) -> bool:
        """Decide its fate, unless that is decided. Atomic (dict.setdefault is)."""
        return self._fate.setdefault(0, fate) is fate

    @property
    def fate(self) -> Fate | None:
        return self._fate.get(0)


class Wake(msgspec.Struct, frozen=True):
    """Wake this waiter: its fate is decided, or it must advance the pool itself."""

    waiter: Waiter


class Open(msgspec.Struct, frozen=True):
    """Open a connection in the background."""

    ticket: Ticket


Effect = Wake | Open
Take = Callable[[], Permit | None]


class PoolCore:
    """The state of one pool.

    Args:
        ceiling: the most connections that may exist.
        lifo: whether the connection used last is lent first.
        max_opening: the most connections opened at the same time.
    """

    def __init__(self, *, ceiling: int, lifo: bool = False, max_opening: int = 2) -> None:
        self.ceiling = ceiling
        self.lifo = lifo
        self.max_opening = max_opening
        self.min_idle = 0
        self.attempt = False
        """Open one connection, to see whether the server answers."""
        self.idle: deque[Any] = deque()
        self.queue: deque[Waiter] = deque()
        self.places: dict[int, weakref.ref[Ticket]] = {}
        self.opening: dict[int, bool] = {}
        """Serials of tickets whose connection is not ready; the value: whether it is for the queue."""
        self.lost: deque[int] = deque()
        """Serials whose ticket the garbage collector has found; written from its callbacks."""
        self.on_lost: Callable[[], None] = _nothing
        self.closed: BaseException | None = None
        self.emptied: tuple[float, str] = -NEVER, ""
        """When all connections were to be closed, and why. What was being opened then is one of them."""
        self.starved = False
        """The last request for a permit was refused, and the member knows that callers wait. The news that there may
        be a permit clears it, and so does the first caller of a new queue."""
        self.failure: BaseException | None = None
        """Why the last attempt to connect failed, until the callers that waited for it have failed."""
        self.failed_at = 0.0
        self.failed_for = 0.0
        """Callers that have waited since then or longer fail with it."""
        self.failures = 0
        self.last_error: BaseException | None = None
        self.retry_at = 0.0
        self.connect_time = PATIENCE
        self._serials = itertools.count(1)

    # ---- its state -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """All connections: lent, idle and being opened."""
        return len(self.places)

    @property
    def lent(self) -> int:
        """Connections out with callers."""
        return max(0, len(self.places) - len(self.idle) - len(self.opening))

    @property
    def waiting(self) -> int:
        """Callers in the queue whose fate is undecided."""
        return len([None for waiter in tuple(self.queue) if waiter.fate is None and not waiter.elsewhere])

    def tickets(self) -> list[Ticket]:
        """All living tickets."""
        living = (place() for place in tuple(self.places.values()))
        return [ticket for ticket in living if ticket is not None]

    def __repr__(self) -> str:
        pace = f" failures={self.failures}" if self.failures else ""
        flags = "".join(f" {word}" for word, on in (("starved", self.starved), ("closed", self.closed)) if on)
        return (
            f"<PoolCore lent={self.lent} idle={len(self.idle)} opening={len(self.opening)} waiting={self.waiting} "
            f"ceiling={self.ceiling}{pace}{flags}>"
        )

    # ---- events ----------------------------------------------------------------------------------

    def join(self, waiter: Waiter) -> None:
        """A caller queues; advance afterwards. The first caller of a new queue clears an earlier refusal: the callers
        that it concerned have left, and the member knows that."""
        if not self.queue:
            self.starved = False
        self.queue.append(waiter)

    def insert(self, waiter: Waiter) -> None:
        """One that stands for callers of another queue comes to the place that its age gives it; advance afterwards."""
        older = sum(1 for other in tuple(self.queue) if other.since <= waiter.since)
        self.queue.insert(older, waiter)

    def leave(self, waiter: Waiter) -> Fate:
        """A caller leaves. It must give back what it was given meanwhile, if anything."""
        waiter.settle(LEFT)
        self._forget(waiter)
        fate = waiter.fate
        assert fate is not None
        return fate

    def opened(self, ticket: Ticket, seconds: float) -> None:
        """A connection is ready after so many seconds. One opened for the queue has yet to arrive."""
        if not ticket.background:
            self.opening.pop(ticket.serial, None)
        self.connect_time += (seconds - self.connect_time) / 4
        self.reached()

    def reached(self) -> None:
        """The server has answered a new connection: earlier failures say nothing about it any more."""
        self.failures = 0
        self.retry_at = 0.0
        self.failure = self.last_error = None

    def arrived(self, ticket: Ticket, connection: Any) -> None:
        """A connection opened for the queue joins the idle ones; advance afterwards. It counts as being
        opened until it is there, so that no other one is opened in its stead."""
        self.idle.append(connection)
        self.opening.pop(ticket.serial, None)

    def failed(self, ticket: Ticket, error: BaseException, now: float, pause: Callable[[int], float]) -> None:
        """A connection could not be opened. ``pause`` gives the seconds to wait after so many failures."""
        self.drop(ticket)
        if now - self.failed_at > FORGET:
            self.failures = 0
        again = self.failures > 0 and ticket.born > self.failed_at
        self.failed_for = now if again else ticket.born
        self.failures += 1
        self.failed_at = now
        self.failure = self.last_error = error
        self.retry_at = now + pause(self.failures)

    def hand_over(self, ticket: Ticket) -> Waiter | None:
        """No thread can open a connection for the queue: its first waiter must do it itself. Returns that waiter, for
        waking; None, and the ticket is dropped, if no caller waits."""
        ticket.background = False
        self.opening[ticket.serial] = False
        for waiter in tuple(self.queue):
            if waiter.settle(Granted(ticket)):
                self._forget(waiter)
                return waiter
        self.drop(ticket)
        return None

    def drop(self, ticket: Ticket) -> bool:
        """A connection has ended; whether it was there. Frees its place, and a permit that it never used."""
        permit = ticket.claim()
        if permit is not None:
            permit.gone()
        self.opening.pop(ticket.serial, None)
        return self.places.pop(ticket.serial, None) is not None

    def take_idle(self) -> Any | None:
        """The next idle connection, for the caller that is entitled to it."""
        try:
            return self.idle.pop() if self.lifo else self.idle.popleft()
        except IndexError:
            return None

    # ---- decisions -------------------------------------------------------------------------------

    def advance(self, now: float, take: Take | None) -> Iterator[Effect]:
        """Do all that can be done for the queue; the cases are those of the module's docstring.

        Args:
            now: monotonic seconds.
            take: gives a permit or None without blocking. None instead of a function: nothing may be
                opened now (the garbage collector may be the caller); the head wakes to do it.
        """
        self._bury()
        queue = self.queue
        while queue:
            try:
                head = queue[0]
            except IndexError:  # it left just now
                break
            # 1. Left or served.
            fate = head.fate
            if fate is not None:
                if fate is not LEFT:
                    yield Wake(head)  # once more: an exception may have come between its fate and its waking
                self._forget(head)
                continue
            # 2. Hand over.
            connection = self.take_idle()
            if connection is not None:
                if head.settle(Served(connection)):
                    yield Wake(head)
                else:
                    self._put_back(connection)
                del connection
                self._forget(head)
                continue
            # 3. Closed.
            if self.closed is not None:
                head.settle(Failed(self.closed))
                continue
            hopeless = not self.opening and self.lent == 0
            # 4. No connection can come back, and the attempt failed.
            if self.failure is not None:
                error, self.failure = self.failure, None
                if hopeless:
                    for waiter in tuple(queue):
                        if waiter.since <= self.failed_for and waiter.settle(Failed(error)) and waiter is not head:
                            yield Wake(waiter)  # it may stand behind one that came later
                    heir = next((waiter for waiter in tuple(queue) if waiter.fate is None), None)
                    if heir is not None:
                        yield Wake(heir)  # it is the head soon, and must mind when the next attempt is due
                    continue
            if not self._may_open(now, head, hopeless=hopeless):
                break
            if take is None:
                yield Wake(head)
                break
            ticket = self._ticket(take, now, background=not hopeless)
            if ticket is None:
                break
            # 5. It connects itself.
            if hopeless:
                if head.settle(Granted(ticket)):
                    yield Wake(head)
                else:
                    self.drop(ticket)
                self._forget(head)
            # 6. Behind its back.
            else:
                yield Open(ticket)
            del ticket
        if take is not None:
            yield from self._warm(now, take)

    def is_head(self, waiter: Waiter) -> bool:
        """Whether a waiter is the next of this queue's own to be served."""
        try:
            first = self.queue[0]
        except IndexError:
            return False
        if first.elsewhere:
            return next((other for other in tuple(self.queue) if not other.elsewhere), None) is waiter
        return first is waiter

    def held_up_by(self, waiter: Waiter) -> Literal["others", "permit", "connecting"]:
        """What a waiter waits for, if it is not served now: a connection that others hold, a permit for one more, or
        a connection being opened for it."""
        if not self.opening and len(self.places) >= self.ceiling:
            return "others"
        ahead = 0
        for other in tuple(self.queue):
            if other is waiter:
                break
            ahead += other.fate is None
        missing = ahead + 1 - sum(tuple(self.opening.values()))
        if missing <= 0:
            return "connecting"
        if missing > self.ceiling - len(self.places):
            return "others"
        return "permit" if self.starved else "connecting"

    def due(self, now: float) -> float:
        """Seconds until a waiter should advance the pool again even if nothing happens."""
        if self.retry_at > now:
            return self.retry_at - now
        if self.queue and self.opening and len(self.opening) < self.max_opening and not self.starved:
            try:
                return max(0.001, self.queue[0].since + self.connect_time - now)
            except IndexError:
                pass
        return NEVER

    def _may_open(self, now: float, head: Waiter, *, hopeless: bool) -> bool:
        if self.starved or len(self.places) >= self.ceiling or now < self.retry_at:
            return False
        if hopeless:
            return True
        opening = len(self.opening)
        if opening >= self.max_opening or (self.failures and opening):
            return False
        behind = sum(self.opening.values())
        if behind >= self.waiting:
            return False
        return opening == 0 or behind == 0 or now - head.since >= self.connect_time

    def _warm(self, now: float, take: Take) -> Iterator[Effect]:
        """Open connections up to ``min_idle`` while no caller waits; and the one of :attr:`attempt`."""
        if self.attempt:
            self.attempt = False
            if self.closed is None and not self.opening and len(self.places) < self.ceiling:
                ticket = self._ticket(take, now, background=True)
                if ticket is not None:
                    yield Open(ticket)
                del ticket
        while (
            not self.queue
            and self.closed is None
            and (not self.failures or now >= self.failed_at + FORGET)
            and len(self.idle) + len(self.opening) < self.min_idle
            and len(self.opening) < self.max_opening
            and len(self.places) < self.ceiling
        ):
            ticket = self._ticket(take, now, background=True)
            if ticket is None:
                return
            yield Open(ticket)
            del ticket

    def _ticket(self, take: Take, now: float, *, background: bool) -> Ticket | None:
        self.starved = True  # first: news of a permit may come while the refusal is still on its way back to here
        try:
            permit = take()
        except BaseException:
            self.starved = False
            raise
        if permit is None:
            return None
        self.starved = False
        ticket = Ticket(next(self._serials), permit, now, background=background)
        self.places[ticket.serial] = weakref.ref(ticket, self._finder(ticket.serial))
        self.opening[ticket.serial] = background
        if len(self.places) > self.ceiling:
            # A turn taken for abandoned went on beside this one, and also made a ticket.
            self.drop(ticket)
            return None
        return ticket

    def _finder(self, serial: int) -> Callable[[object], None]:
        """The garbage collector calls this when a ticket vanishes. It must not know the core: no cycle."""
        lost, on_lost = self.lost, self.on_lost

        def gone(_: object) -> None:
            lost.append(serial)
            on_lost()

        return gone

    def _bury(self) -> None:
        """Free the places of tickets that vanished."""
        while self.lost:
            try:
                serial = self.lost.popleft()
            except IndexError:
                return
            self.opening.pop(serial, None)
            self.places.pop(serial, None)

    def audit(self) -> None:
        """Find the places of tickets that vanished unheard: a signal handler's exception may strike the finder, or the
        burial. The pool's tick calls it, and callers that wait for long."""
        for serial, place in tuple(self.places.items()):
            if place() is None:
                self.lost.append(serial)
        self._bury()

    def _put_back(self, connection: Any) -> None:
        if self.lifo:
            self.idle.append(connection)
        else:
            self.idle.appendleft(connection)

    def _forget(self, waiter: Waiter) -> None:
        try:
            self.queue.remove(waiter)
        except ValueError:
            pass


def _nothing() -> None:
    pass
