"""A pool of a process and the callers that use it: the real :class:`poolmgr.pool.queue.PoolCore` in virtual time.

The shell around it does what :mod:`poolmgr.pool.sync.pool` does, with delays where threads are woken or started:
a caller takes what is idle or joins the queue, looks for itself every slice, connects itself if it is told
to, and renews a connection whose server has ended it. No connection ages here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poolmgr import wire
from poolmgr.member.core.process import Attachment
from poolmgr.member.ports import PINNED_AFTER, Usage
from poolmgr.pool.queue import LEFT, Failed, Granted, Open, PoolCore, Served, Ticket, Waiter
from poolmgr.pool.waiting import SLICE
from tests.simulation.load import Load
from tests.simulation.server import Connection, Server

if TYPE_CHECKING:
    from tests.simulation.process import Process


class Caller:
    """One thread of the application."""

    __slots__ = ("dozes", "keeps", "since", "turns", "waited", "waiter", "waiting")

    def __init__(self, *, keeps: bool = False) -> None:
        self.keeps = keeps
        """It keeps what it gets for long."""
        self.waiting = False
        """From the checkout until it has a connection that works, or an error."""
        self.waiter: Waiter | None = None
        """Its place in the queue."""
        self.dozes = 0
        """How often it has gone to sleep; the alarms of earlier times are void."""
        self.since = 0.0
        self.turns = 0
        self.waited = 0.0
        """The longest wait so far."""


class Permit:
    """See :class:`poolmgr.member.ports.Permit`; here the pool closes sockets itself."""

    __slots__ = ("process", "serial")

    name = ""
    gate = None
    permits: Any = None

    def __init__(self, process: Process, serial: int) -> None:
        self.process = process
        self.serial = serial

    def gone(self) -> None:
        if self.process.alive:
            self.process.end(self.serial)

    def hold(self, sock: object, below: int = -1) -> None:
        raise AssertionError("no socket is held by a permit here")

    def close(self, sock: object) -> None:
        raise AssertionError("no socket is given to a permit here")


class Held:
    """A connection: its place in the pool, and the socket that it has now."""

    __slots__ = ("__weakref__", "conn", "ended", "idle_since", "lent_at", "serial", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.lent_at = self.idle_since = 0.0
        self.ticket = ticket
        self.serial = 0
        self.conn: Connection | None = None
        self.ended = False
        """The end-of-file has arrived."""


class Pool:
    """See the module's docstring.

    Args:
        patience: seconds that callers wait; None for ever.
    """

    def __init__(
        self, process: Process, server: Server, load: Load, ceiling: int, *, lifo: bool, patience: float | None
    ) -> None:
        self.process = process
        self.world = process.world
        self.server = server
        self.load = load
        self.patience = patience
        self.core = PoolCore(ceiling=ceiling, lifo=lifo)
        self.attachment = Attachment(wire.Endpoint(f"tcp://{server.id}"))
        self.lent: set[Held] = set()
        self.connecting: set[Held] = set()
        self.callers = [Caller(keeps=i < load.kept) for i in range(load.threads)]
        self.created = 0
        self._low = 0
        self._touched = 0.0

    # ---- callers ---------------------------------------------------------------------------------

    def start(self) -> None:
        for caller in self.callers:
            self._think(caller)

    def seize(self, callers: int) -> None:
        """So many callers come at once and keep what they get."""
        self.load = Load(callers, 3600.0, 0.0)
        self.callers = [Caller() for _ in range(callers)]
        self.core.max_opening = callers
        for caller in self.callers:
            self._checkout(caller)

    def _think(self, caller: Caller) -> None:
        rest = self.load.rests_for(self.world.clock.now)
        self.process.later(rest + self.load.think * 2 * self.world.rng.random(), self._work, caller)

    def _work(self, caller: Caller) -> None:
        if not self.world.working or self.process.leaving:
            return
        if self.load.rests_for(self.world.clock.now):
            self._think(caller)
            return
        self._checkout(caller)

    def _checkout(self, caller: Caller) -> None:
        self._touched = caller.since = self.world.clock.now
        core = self.core
        held = core.take_idle() if not core.queue else None
        if held is not None:
            self._low = min(self._low, len(core.idle))
            self._inspect(caller, held)
            return
        self._low = 0
        caller.waiting = True
        caller.waiter = waiter = Waiter(caller.since, lambda: self._wake(caller))
        core.join(waiter)
        self._advance()
        self._heed(caller, waiter)

    def _wake(self, caller: Caller) -> None:
        self.process.later(self.world.delay(0.00003), self._woken, caller, caller.waiter)

    def _woken(self, caller: Caller, waiter: Waiter) -> None:
        if caller.waiter is waiter:
            if waiter.fate is None:
                self._advance()
            self._heed(caller, waiter)

    def _heed(self, caller: Caller, waiter: Waiter) -> None:
        """Look at one's fate."""
        fate = waiter.fate
        now = self.world.clock.now
        deadline = caller.since + self.patience if self.patience is not None else float("inf")
        if fate is None and now >= deadline:
            fate = self.core.leave(waiter)
        if fate is None:
            pause = min(SLICE, deadline - now)
            if self.core.is_head(waiter):
                pause = min(pause, self.core.due(now))
            caller.dozes += 1
            self.process.later(max(0.0, pause), self._alarm, caller, waiter, caller.dozes)
            return
        caller.waiter = None
        if isinstance(fate, Served):
            self._inspect(caller, fate.connection)
        elif isinstance(fate, Granted):
            self._connect(Held(fate.ticket), caller)
        else:
            if fate is LEFT or isinstance(fate, Failed):
                self._fail(caller)
            if self.core.queue:
                self._advance()

    def _alarm(self, caller: Caller, waiter: Waiter, doze: int) -> None:
        if caller.waiter is waiter and caller.dozes == doze:
            self.core.starved = False
            if waiter.fate is None:
                self._advance()
            self._heed(caller, waiter)

    def _fail(self, caller: Caller) -> None:
        """The caller gets an error."""
        caller.waiting = False
        self._think(caller)

    def _inspect(self, caller: Caller, held: Held) -> None:
        """What was idle is lent, unless its server has ended it."""
        while held.ended:
            following = self.core.take_idle() if not self.core.queue else None
            if following is None:
                caller.waiting = True
                self._renew(caller, held)
                return
            self._dispose(held)
            held = following
        self._lend(caller, held)

    def _lend(self, caller: Caller, held: Held) -> None:
        caller.waiting = False
        caller.waited = max(caller.waited, self.world.clock.now - caller.since)
        caller.turns += 1
        self.lent.add(held)
        held.lent_at = self.world.clock.now
        service = self.load.keep if caller.keeps else self.load.service
        self.process.later(service * (0.5 + self.world.rng.random()), self._release, caller, held)

    def _release(self, caller: Caller, held: Held) -> None:
        self._touched = self.world.clock.now
        self.lent.discard(held)
        self._think(caller)
        if held.ended or (self.attachment.surplus > 0 and self.process.core.give_up(self.attachment, self._touched)):
            self._dispose(held)
            return
        held.idle_since = self._touched
        self.core.idle.append(held)
        if self.core.queue:
            self._advance(may_open=False)

    # ---- connections -----------------------------------------------------------------------------

    def _take(self) -> Permit | None:
        process = self.process
        process.notice_a_cut()
        serial = process.core.take(self.attachment, self.world.clock.now)
        process.touch()
        if serial is None:
            process.flush()
            return None
        return Permit(process, serial)

    def _advance(self, may_open: bool = True) -> None:
        behind: list[Ticket] = []
        for effect in self.core.advance(self.world.clock.now, self._take if may_open else None):
            if isinstance(effect, Open):
                behind.append(effect.ticket)
            else:
                effect.waiter.wake()
        while behind:
            self.process.later(self.world.delay(0.00005), self._connect, Held(behind.pop()), None)

    def _connect(self, held: Held, caller: Caller | None) -> None:
        """Open a new connection, for a caller or for the queue."""
        permit = held.ticket.claim()
        assert isinstance(permit, Permit)

        def ready() -> None:
            self.core.opened(held.ticket, self.world.clock.now - held.ticket.born)
            self._ready(held, caller)

        self._open(held, permit.serial, ready, caller)

    def _open(self, held: Held, serial: int, ready: Callable[[], None], caller: Caller | None) -> None:
        """Open a socket: :meth:`_failed` or ``ready`` follows."""
        process = self.process
        self.created += 1
        held.serial, held.ended = serial, False

        def answered() -> None:
            if held.conn is conn and held in self.connecting:  # threads of a process that is continued run in any order
                ready()

        held.conn = conn = self.server.connect(
            f"{process.tag}-{serial}",
            lambda: process.run(answered),
            lambda: process.run(self._ended, held, conn, caller),
        )
        process.sockets[serial] = conn, self.server
        self.connecting.add(held)

    def _ready(self, held: Held, caller: Caller | None) -> None:
        self.connecting.discard(held)
        if caller is not None:
            self._lend(caller, held)
        else:
            held.idle_since = self.world.clock.now
            self.core.arrived(held.ticket, held)
            self._advance()

    def _ended(self, held: Held, conn: Connection, caller: Caller | None) -> None:
        """End-of-file: the server has confirmed a close, refused a connect, or ended a connection by itself.
        The last is noticed when somebody wants to use it."""
        if held.conn is not conn:
            self.process.end(int(conn.tag.rpartition("-")[2]))
            return
        held.ended = True
        if held not in self.connecting:
            return
        self.connecting.discard(held)
        self.lent.discard(held)
        self.process.end(held.serial)
        held.conn = None
        self.core.failed(held.ticket, ConnectionError("refused"), self.world.clock.now, self._pause)
        if caller is not None:
            self._fail(caller)
        if self.core.queue:
            self._advance(may_open=False)

    def _pause(self, failures: int) -> float:
        return self.world.rng.uniform(0, min(1.0, 0.008 * 2**failures))

    def _dispose(self, held: Held) -> None:
        """Close a connection that nobody holds, and free its place."""
        self.core.drop(held.ticket)
        self._hand_over(held)
        if self.core.queue:
            self._advance(may_open=False)

    def _hand_over(self, held: Held) -> None:
        """The member's thread closes the socket."""
        conn, held.conn = held.conn, None
        assert conn is not None
        self.process.later(self.world.delay(0.0001), self.process.close, held.serial, conn, self.server)

    # ---- a new socket for an old connection --------------------------------------------------------

    def _renew(self, caller: Caller, held: Held) -> None:
        """Rule M1 where a connection reconnects: the new socket needs a permit of its own."""
        self._hand_over(held)
        self.lent.add(held)
        held.ticket.born = self.world.clock.now
        self._claim(caller, held, None)

    def _claim(self, caller: Caller, held: Held, waiter: int | None) -> None:
        """Take a permit, or wait for one without the pool's queue."""
        process = self.process
        core = process.core
        if waiter is not None and waiter not in process.waiters:
            return  # woken twice
        process.notice_a_cut()
        serial = core.take(self.attachment, self.world.clock.now, waiter)
        process.touch()
        if serial is None:
            if waiter is None:
                waiter = core.serial()
                core.queue(self.attachment, waiter)
                process.waiters[waiter] = lambda: self._claim(caller, held, waiter)
            process.flush()
            return
        if waiter is not None:
            core.unqueue(waiter)
            process.waiters.pop(waiter, None)

        def ready() -> None:
            self.core.reached()
            self._ready(held, caller)

        self._open(held, serial, ready, caller)

    # ---- what the member asks --------------------------------------------------------------------

    def grow(self) -> None:
        self.core.starved = False
        self._advance()

    def usage(self) -> Usage:
        core = self.core
        idle = len(core.idle)
        low, self._low = min(self._low, idle), idle
        return Usage(
            lent=core.lent,
            idle=idle,
            waiting=core.waiting,
            low=low,
            quiet=self.world.clock.now - self._touched,
            ceiling=core.ceiling,
            timeout=self.process.patience,
            pinned=sum(self.world.clock.now - held.lent_at >= PINNED_AFTER for held in self.lent),
        )

    def shed(self, count: int) -> None:
        for _ in range(min(count, len(self.core.idle))):
            self._dispose(self.core.idle.popleft())
        self._low = min(self._low, len(self.core.idle))

    # ---- looking at it ---------------------------------------------------------------------------

    def amiss(self) -> str:
        """What is wrong while nobody works; empty if nothing is."""
        core = self.core
        if core.queue or core.opening or self.connecting or core.lent != len(self.lent) or core.lent:
            return f"a pool of {self.process.tag} has {core!r}, and {len(self.lent)} are lent"
        return ""

    def __repr__(self) -> str:
        return f"<Pool {self.server.id} {self.core!r}>"
