"""A member process: the real :class:`poolmgr.member.core.process.MemberCore` with a shell around it, and its pools.

The shell does what :mod:`poolmgr.member.member` and :mod:`poolmgr.member.loop` do, with delays in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from poolmgr import wire
from poolmgr.member.core.process import Grow, MemberCore, Shed, Wake
from tests.simulation.link import Link
from tests.simulation.load import Load
from tests.simulation.pool import Caller, Pool
from tests.simulation.server import Connection, Server

if TYPE_CHECKING:
    from tests.simulation.world import World

CONFIRM = 1.0
"""Seconds for which the server's end-of-file is waited for (rule M3)."""


class Process:
    """See the module's docstring."""

    def __init__(self, world: World, tag: str, pid: int, core: MemberCore | None = None) -> None:
        self.world = world
        self.tag = tag
        self.pid = pid
        self.core = core or MemberCore(tag, rng=world.rng)
        self.pools: list[Pool] = []
        self.sockets: dict[int, tuple[Connection, Server]] = {}
        """Every socket that is open here, closing ones included."""
        self.waiters: dict[int, Callable[[], None]] = {}
        """Callers that wait for a permit without a pool."""
        self.link: Link | None = None
        self.alive = True
        self.stopped = False
        self.patience = 5.0
        self.leaving = False
        self.before: tuple[str, ...] = ()
        """Tags under which this very program has been a member before."""
        self._then: Callable[[], object] | None = None
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
        self.world.touched[self.tag] = self
        call(*args)
        if self.core.dirty:
            self._poke()

    def touch(self) -> None:
        self.world.touched[self.tag] = self

    def stop(self) -> None:
        self.stopped = True

    def cont(self) -> None:
        """Its threads run in any order; what came on a link keeps its own. Where callers do not look at the link
        themselves it is read first (see :class:`tests.simulation.scenario.Scenario`)."""
        self.stopped = False
        deferred, self._deferred = self._deferred, []
        rng, scenario = self.world.rng, self.world.scenario
        read_first = scenario.lost_snapshot and not scenario.attentive
        read_at = 0.0
        for call, args in deferred:
            if getattr(call, "__self__", None).__class__ is not Link:
                self.later(rng.random() * 0.0002, call, *args)
            elif read_first:
                self.run(call, *args)
            else:
                read_at += rng.random() * 0.0001
                self.later(read_at, call, *args)

    def start(self) -> None:
        self.world.note(f"{self.tag} starts")
        for pool in self.pools:
            self.core.attach(pool.attachment)
            pool.start()
        self.later(self.world.delay(0.0005), self.connect)

    def attach(self, server: Server, load: Load, ceiling: int, *, lifo: bool, patience: float | None) -> None:
        self.pools.append(Pool(self, server, load, ceiling, lifo=lifo, patience=patience))

    def die(self, half: bool = False) -> None:
        """SIGKILL: the kernel closes everything.

        Args:
            half: no packet gets through to the server, of connections that it knows the name of. (Others it would keep
                for ever, and nobody could say whose they are.)
        """
        if not self.alive:
            return
        self.world.note(f"{self.tag} dies")
        self._end(half)
        self.world.exited(self)

    def _end(self, half: bool = False) -> None:
        self.alive = False
        for conn, server in self.sockets.values():
            conn.half = conn.half or (half and conn.named)
            server.die(conn)
        if self.link is not None:
            self.link.close_member()

    def become_another(self, half: bool = False) -> None:
        """``exec``: all is closed, and nobody is told that the program is no more."""
        if self.alive:
            self.world.note(f"{self.tag} becomes another program")
            self._end(half)
            self.world.became_another(self)

    def close_all(self) -> None:
        """All descriptors are closed, and the program lives on."""
        if self.alive:
            self.world.note(f"{self.tag} closes all its descriptors")
            self._end()
            self.world.lives_on(self)

    def leave(self, then: Callable[[], object] | None = None) -> None:
        """SIGTERM: no new work, close what is idle, say goodbye when nothing is open, exit.

        Args:
            then: what the program does instead of its end.
        """
        if not self.leaving:
            self.leaving, self._then = True, then
            self.world.note(f"{self.tag} is leaving")
            self.run(self._leave)

    def _leave(self) -> None:
        for pool in self.pools:
            pool.shed(len(pool.core.idle))
        if self.core.open or self.waiting or any(pool.connecting for pool in self.pools):
            self.later(0.001, self._leave)
            return
        if self.link is not None:
            self.link.to_supervisor(wire.Bye())
        self.later(0.0, self.die if self._then is None else self._live_on)

    def _live_on(self) -> None:
        self._end()
        self.world.lives_on(self)
        assert self._then is not None
        self._then()

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

    def notice_a_cut(self) -> None:
        """A caller looks at the link, whether or not the agent has come to read its end."""
        if self.world.scenario.attentive and self.link is not None and not self.link.supervisor_open:
            self.core.unlinked()

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
        """There is something to do: the background thread looks soon."""
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
            elif isinstance(effect, Wake) and (waiter := self.waiters.get(cast(int, effect.waiter))) is not None:
                self.later(self.world.delay(0.00003), waiter)
        if settled.wake < math.inf:
            self._wake_at(max(settled.wake, now + 0.0001))

    # ---- looking at it ---------------------------------------------------------------------------

    @property
    def about_to_connect(self) -> bool:
        """It has taken a permit, and has no socket for it yet."""
        return any(
            serial not in self.sockets for dispatcher in self.core.dispatchers() for serial in dispatcher.account.live
        )

    @property
    def waiting(self) -> list[Caller]:
        return [caller for pool in self.pools for caller in pool.callers if caller.waiting]
