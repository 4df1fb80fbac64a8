"""A member process: the real :class:`poolmgr.member.core.Core` with a shell, pools and callers around it.

The shell does what :mod:`poolmgr.member.agent` does, with delays in between; the pools are simple ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from poolmgr import wire
from poolmgr.member.core import Attachment, Core, Grow, Shed
from poolmgr.member.ports import Usage
from tests.simulation.link import Link
from tests.simulation.server import Connection, Server

if TYPE_CHECKING:
    from tests.simulation.world import World

CONFIRM = 1.0
"""Seconds for which the server's end-of-file is waited for (rule M3)."""


class Load:
    """What one caller thread does all day: thinks, checks out, uses, releases.

    Attributes:
        threads: how many there are.
        think, service: mean seconds without and with a connection.
        on, off: seconds of work and of rest in turn; 0 off: no rest.
        phase: seconds by which that is shifted.
    """

    __slots__ = ("off", "on", "phase", "service", "think", "threads")

    def __init__(
        self, threads: int, service: float, think: float, on: float = 1.0, off: float = 0.0, phase: float = 0.0
    ) -> None:
        self.threads = threads
        self.service = service
        self.think = think
        self.on = on
        self.off = off
        self.phase = phase

    def rests_for(self, now: float) -> float:
        """Seconds until there is work again; 0: now."""
        if not self.off:
            return 0.0
        at = (now + self.phase) % (self.on + self.off)
        return 0.0 if at < self.on else self.on + self.off - at


class Caller:
    """One thread of the application."""

    __slots__ = ("busy", "since", "turns", "waited", "waiting")

    def __init__(self) -> None:
        self.waiting = False
        self.busy = False
        self.since = 0.0
        self.turns = 0
        self.waited = 0.0
        """The longest wait so far."""


class SimPool:
    """A pool that is as simple as can be: first in, first out, no ageing."""

    def __init__(self, process: Process, server: Server, load: Load, ceiling: int) -> None:
        self.process = process
        self.server = server
        self.load = load
        self.ceiling = ceiling
        self.attachment = Attachment(wire.Endpoint(f"tcp://{server.id}"))
        self.idle: deque[tuple[int, Connection]] = deque()
        self.lent: dict[int, Connection] = {}
        self.connecting: dict[int, Connection] = {}
        self.queue: deque[Caller] = deque()
        self.callers = [Caller() for _ in range(load.threads)]
        self.low = 0
        self.touched = 0.0
        self.created = 0

    # ---- callers ---------------------------------------------------------------------------------

    def start(self) -> None:
        for caller in self.callers:
            self._think(caller)

    def _think(self, caller: Caller) -> None:
        world = self.process.world
        rest = self.load.rests_for(world.clock.now)
        self.process.later(rest + self.load.think * 2 * world.rng.random(), self._checkout, caller)

    def _checkout(self, caller: Caller) -> None:
        world = self.process.world
        if not world.working or self.process.leaving:
            return
        if self.load.rests_for(world.clock.now):
            self._think(caller)
            return
        self.touched = world.clock.now
        caller.since = world.clock.now
        if self.idle:
            serial, conn = self.idle.popleft()
            self.low = min(self.low, len(self.idle))
            self._lend(caller, serial, conn)
        else:
            caller.waiting = True
            self.queue.append(caller)
            self.grow()

    def _lend(self, caller: Caller, serial: int, conn: Connection) -> None:
        now = self.process.world.clock.now
        caller.waiting = False
        caller.waited = max(caller.waited, now - caller.since)
        caller.turns += 1
        self.lent[serial] = conn
        service = self.load.service * (0.5 + self.process.world.rng.random())
        self.process.later(service, self._release, caller, serial, conn)

    def _release(self, caller: Caller, serial: int, conn: Connection) -> None:
        self.touched = self.process.world.clock.now
        del self.lent[serial]
        self._think(caller)
        attachment = self.attachment
        if conn.ended:
            self.process.end(serial)
            self.grow()
        elif attachment.surplus > 0 and self.process.core.give_up(attachment, self.touched):
            self.process.later(self.process.world.delay(0.0001), self.process.close, serial, conn, self.server)
        else:
            self._keep(serial, conn)

    def _keep(self, serial: int, conn: Connection) -> None:
        if self.queue:
            self._lend(self.queue.popleft(), serial, conn)
        else:
            self.idle.append((serial, conn))

    # ---- connections -----------------------------------------------------------------------------

    def grow(self) -> None:
        process = self.process
        while len(self.connecting) < len(self.queue):
            if len(self.lent) + len(self.idle) + len(self.connecting) >= self.ceiling:
                return
            serial = process.core.take(self.attachment, process.world.clock.now)
            process.touch()
            if serial is None:
                process.flush()
                return
            self.created += 1
            self._connect(serial)

    def _connect(self, serial: int) -> None:
        process = self.process
        box: list[Connection] = []
        conn = self.server.connect(
            f"{process.tag}-{serial}",
            lambda: process.run(self._ready, serial, box[0]),
            lambda: process.run(self._ended, serial, box[0]),
        )
        box.append(conn)
        process.sockets[serial] = conn, self.server
        self.connecting[serial] = conn

    def _ready(self, serial: int, conn: Connection) -> None:
        if self.connecting.pop(serial, None) is not None:
            self._keep(serial, conn)

    def _ended(self, serial: int, conn: Connection) -> None:
        """End-of-file: confirmed, if it is being closed; the server's doing, if not."""
        if serial in self.lent:
            return  # the caller finds out
        if self.connecting.pop(serial, None) is None and (serial, conn) in self.idle:
            self.idle.remove((serial, conn))
            self.low = min(self.low, len(self.idle))
        self.process.end(serial)
        self.grow()

    def usage(self) -> Usage:
        low, self.low = min(self.low, len(self.idle)), len(self.idle)
        now = self.process.world.clock.now
        return Usage(
            len(self.lent),
            len(self.idle),
            len(self.queue),
            low,
            now - self.touched,
            self.ceiling,
            self.process.patience,
        )

    def shed(self, count: int) -> None:
        for _ in range(min(count, len(self.idle))):
            serial, conn = self.idle.popleft()
            self.process.close(serial, conn, self.server)
        self.low = min(self.low, len(self.idle))


class Process:
    """See the module's docstring."""

    def __init__(self, world: World, tag: str, pid: int, core: Core | None = None) -> None:
        self.world = world
        self.tag = tag
        self.pid = pid
        self.core = core or Core(tag, rng=world.rng)
        self.pools: list[SimPool] = []
        self.sockets: dict[int, tuple[Connection, Server]] = {}
        """Every socket that is open here, closing ones included."""
        self.link: Link | None = None
        self.alive = True
        self.stopped = False
        self.patience = 5.0
        self.leaving = False
        self._deferred: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self._turn_at = math.inf
        self._turns = 0

    # ---- being a process -------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[..., Any], *args: Any) -> None:
        self.world.clock.after(seconds, self.run, call, *args)

    def run(self, call: Callable[..., Any], *args: Any) -> None:
        """Do it now if the process runs, when it is continued if it is stopped, never if it is dead."""
        if not self.alive:
            return
        if self.stopped:
            self._deferred.append((call, args))
            return
        self.touch()
        call(*args)
        self._poke()

    def touch(self) -> None:
        self.world.touched[self.tag] = self

    def stop(self) -> None:
        self.stopped = True

    def cont(self) -> None:
        self.stopped = False
        deferred, self._deferred = self._deferred, []
        rng = self.world.rng
        links = [d for d in deferred if getattr(d[0], "__self__", None).__class__ is Link]
        others = [d for d in deferred if getattr(d[0], "__self__", None).__class__ is not Link]
        while links or others:  # threads run in any order; what came on a link keeps its own
            first = self.world.scenario.lost_snapshot or rng.random() < 0.5
            source = links if links and (not others or first) else others
            call, args = source.pop(0)
            self.later(rng.random() * 0.0001, call, *args) if source is others else self.run(call, *args)

    def start(self) -> None:
        self.world.note(f"{self.tag} starts")
        for pool in self.pools:
            self.core.attach(pool.attachment)
            pool.start()
        self.later(self.world.delay(0.0005), self.connect)

    def attach(self, server: Server, load: Load, ceiling: int) -> SimPool:
        pool = SimPool(self, server, load, ceiling)
        self.pools.append(pool)
        return pool

    def die(self) -> None:
        """SIGKILL: the kernel closes everything."""
        if not self.alive:
            return
        self.world.note(f"{self.tag} dies")
        self.alive = False
        for conn, server in self.sockets.values():
            server.die(conn)
        if self.link is not None:
            self.link.close_member()
        self.world.exited(self)

    def leave(self) -> None:
        """SIGTERM: no new work, close what is idle, say goodbye when nothing is open, exit."""
        if not self.leaving:
            self.leaving = True
            self.world.note(f"{self.tag} is leaving")
            self.run(self._leave)

    def _leave(self) -> None:
        for pool in self.pools:
            pool.shed(len(pool.idle))
        if self.core.open or self.waiting or any(pool.connecting for pool in self.pools):
            self.later(0.001, self._leave)
            return
        if self.link is not None:
            self.link.to_supervisor(wire.Bye())
        self.later(0.0, self.die)

    # ---- the link --------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.link is not None:
            return
        supervisor = self.world.supervisor_for(self)
        if supervisor is None:
            self.later(0.001 + self.world.delay(0.01), self.connect)
            return
        hello = self.core.register(self.world.clock.now)
        self.link = Link(self.world, self, supervisor, hello.link)
        supervisor.accepted(self.link)
        self.link.to_supervisor(hello)
        self.flush()

    def drop_link(self) -> None:
        """The member's side gives the link up and makes a new one."""
        if self.link is None:
            return
        self.world.note(f"{self.tag} drops link {self.link.number}")
        self.link.close_member()
        self.unlinked(self.link)

    def unlinked(self, link: Link) -> None:
        if link is not self.link:
            return
        self.link = None
        self.core.unlinked()
        self.later(self.world.delay(0.002), self.connect)

    def heard(self, link: Link, message: wire.Message) -> None:
        if self.world.tracing and isinstance(message, wire.Limit):
            self.world.note(f"{self.tag} hears limit {message.limit} (seq {message.seq}, link {link.number})")
        self.core.received(link.number, message, self.world.clock.now)

    def flush(self) -> None:
        """Send what the core has to say, in order, by whichever thread."""
        messages = self.core.outgoing()
        if self.link is not None:
            for message in messages:
                self.link.to_supervisor(message)

    # ---- sockets ---------------------------------------------------------------------------------

    def close(self, serial: int, conn: Connection, server: Server) -> None:
        """Rule M3: shut the write side, wait for the end-of-file."""
        self.core.closing(serial)
        if conn.ended:
            self.end(serial)
            return
        if self.world.half_open > 0 and conn.ready:
            self.world.half_open -= 1
            conn.half = True
            self.world.note(f"{conn.tag} is half-open")
        server.shut(conn)
        self.later(CONFIRM, self._unconfirmed, serial, conn)

    def _unconfirmed(self, serial: int, conn: Connection) -> None:
        if serial in self.sockets:
            conn.alive = False
            del self.sockets[serial]
            self.core.lost(serial)

    def end(self, serial: int) -> None:
        self.sockets.pop(serial, None)
        self.core.gone(serial)

    # ---- the agent's turn ------------------------------------------------------------------------

    def _poke(self) -> None:
        """Something happened: the background thread looks soon, if there is something to do."""
        if self.core.dirty:
            self._wake_at(self.world.clock.now + self.world.delay(0.0001))

    def _wake_at(self, when: float) -> None:
        if when < self._turn_at - 1e-9:
            self._turn_at = when
            self._turns += 1
            self.world.clock.at(when, self.run, self._turn, self._turns)

    def _turn(self, number: int) -> None:
        if number != self._turns:
            return
        self._turn_at = math.inf
        now = self.world.clock.now
        core = self.core
        pools = {id(pool.attachment): pool for pool in self.pools}
        for attachment in core.looks(now):
            core.observe(attachment, pools[id(attachment)].usage(), now)
        settled = core.settle(now)
        self.flush()
        for effect in settled.effects:
            if isinstance(effect, Shed):
                pools[id(effect.attachment)].shed(effect.count)
            elif isinstance(effect, Grow):
                pools[id(effect.attachment)].grow()
        if settled.wake < math.inf:
            self._wake_at(max(settled.wake, now + 0.0001))

    # ---- looking at it ---------------------------------------------------------------------------

    @property
    def waiting(self) -> list[Caller]:
        return [caller for pool in self.pools for caller in pool.callers if caller.waiting]
