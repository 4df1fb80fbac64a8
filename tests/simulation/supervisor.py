"""A supervisor process: the real :class:`poolmgr.budget.ledger.Ledger` with a shell around it.

It keeps the shell's promises and no more: a turn's snapshot is on disk before anything of the turn is
done, and it may be killed between any two effects.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from poolmgr import wire
from poolmgr.budget import recovery
from poolmgr.budget.accounts import TO_REGISTER
from poolmgr.budget.ledger import Identity, Ledger, Turn
from tests.simulation.inspection import GRACE, Inspection
from tests.simulation.link import Link

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.world import World

LINGER = 0.02
"""Seconds without a client after which it looks whether it may exit. Short: exits are to be frequent here."""


TICK = 0.05
"""Seconds between two looks at processes that have no link."""


class Killed(Exception):
    """The supervisor dies here."""


def _exits_last(event: tuple[str, Any, Any]) -> bool:
    """What a process has said is read before its end is acted upon."""
    return event[0] == "exit"


class Supervisor:
    """See the module's docstring."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.tag = f"pm1.0000000a.00000b.{number}.{number}.0000aa"
        self.alive = True
        self.stopped = False
        self.stopping = False
        """Nobody has been there for a while: nothing is kept to look with."""
        self.doom: int | None = None
        """How many more effects it does before it is killed; None: no end in sight."""
        self.links: dict[str, Link] = {}
        self.unread: list[Link] = []
        """Accepted, and nothing has come yet."""
        self.inbox: list[tuple[str, Any, Any]] = []
        self.lost: dict[str, set[str]] = {server: set() for server in world.servers}
        """Names of sockets that members have reported lost, by server."""
        self._turn_at = math.inf
        self._turns = 0
        self._serial = 0
        saved = world.read_snapshot()
        owner = Identity(self.tag, number)
        if saved is None:
            self.ledger = Ledger(owner=owner, rng=world.rng)
        else:
            self.ledger = recovery.restored(saved, world.clock.now, alive=world.lives, owner=owner, rng=world.rng)
        if saved is None and not world.clean:
            self.ledger.mark_partial()
        if self.ledger.partial:
            self.after(GRACE, self._whole)
        self.unheard: set[str] = set()
        """Living processes that a census found and that have not registered."""
        self.inspections: dict[str, Inspection] = {}
        for id, server in world.servers.items():
            known = self.ledger.server(id, aliases=(f"tcp://{id}",))
            self.inspections[id] = Inspection(self, server, census=not known.run_id)
            if known.run_id:
                self.ledger.hold_raises(id, False)
            elif not known.budget:
                self.ledger.set_budget(id, server.budget, world.clock.now)
        for entry in self.ledger.quarantined():
            if not entry.exited:  # found by a census: it may have ended since
                self.unheard.add(entry.tag)
                self.after(TO_REGISTER + 0.001, self.wake, 0.0)
        for tag in [*self.ledger.members, *sorted(self.unheard)]:
            if not world.lives_tag(tag):
                self.event("exit", tag)
        self.after(TICK, self._tick)
        world.note(f"supervisor {number} starts from {saved}" if world.tracing else "")
        if not world.mute:
            self.event("start")

    # ---- being a process -------------------------------------------------------------------------

    def after(self, seconds: float, call: Any, *args: Any) -> None:
        self.world.clock.after(seconds, self._run, call, *args)

    def _run(self, call: Any, *args: Any) -> None:
        if not self.alive:
            return
        if self.stopped:
            self.world.clock.after(0.001, self._run, call, *args)
            return
        call(*args)

    def die(self, *, lossy: bool | None = None) -> None:
        """SIGKILL."""
        if not self.alive:
            return
        world = self.world
        world.note(f"supervisor {self.ledger.owner.pid} dies")
        self.alive = False
        for inspection in self.inspections.values():
            inspection.die()
        for link in [*self.links.values(), *self.unread]:
            link.close_supervisor(lossy=world.rng.random() < 0.3 if lossy is None else lossy)

    def _whole(self) -> None:
        """Members of the supervisor before, whom nobody knows of, have had time to register."""
        self.ledger.whole()
        self.wake(0.00001)

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    # ---- events ----------------------------------------------------------------------------------

    def accepted(self, link: Link) -> None:
        self.unread.append(link)
        if self.stopping:
            self.stopping = False
            for inspection in self.inspections.values():
                inspection.keep()

    def arrived(self, link: Link, message: wire.Message | None) -> None:
        self.event("link", link, message)

    def event(self, kind: str, what: Any = None, more: Any = None) -> None:
        self.inbox.append((kind, what, more))
        self.wake(self.world.delay(0.0001))

    def wake(self, seconds: float) -> None:
        when = self.world.clock.now + seconds
        if when < self._turn_at - 1e-9:
            self._turn_at = when
            self._turns += 1
            self.world.clock.at(when, self._run, self._turn, self._turns)

    def _handle(self, kind: str, what: Any, more: Any) -> None:
        ledger, now = self.ledger, self.world.clock.now
        if kind == "link":
            self.hear(what, more)
        elif kind == "exit":
            self._drain(what)
            ledger.exited(what, now)
            self.unheard.discard(what)
            self.links.pop(what, None)
        elif kind == "budget":
            self.world.note(f"budget of {what} becomes {more}")
            server = self.world.servers[what]
            if ledger.servers[what].run_id:
                server.budget = max(server.budget, more)
                ledger.set_budget(what, more, now)
                self.inspections[what].keep()
        elif kind == "do":
            what()

    def _drain(self, tag: str) -> None:
        """What the process had said before it ended is read first: it may have said goodbye."""
        link = self.links.get(tag)
        if link is not None:
            link.drain()

    def hear(self, link: Link, message: wire.Message | None) -> None:
        ledger, now = self.ledger, self.world.clock.now
        tag = link.member.tag
        self._watch(link.member)
        match message:
            case None:
                if link in self.unread:
                    self.unread.remove(link)
                if self.links.get(tag) is link:
                    del self.links[tag]
                link.close_supervisor()
                ledger.unlink(tag, link.number, now)
                self._look_at(tag)
            case wire.Hello():
                if link in self.unread:
                    self.unread.remove(link)
                holds = {hold.server: hold.stated for hold in message.holds}
                if self.world.tracing:
                    self.world.note(f"supervisor hears {tag} on link {message.link}: {holds}")
                for before in message.replaces:
                    if not ledger.is_departed(before):
                        self._replaced(before)
                        ledger.persist()
                opened = {hold.server: hold.open for hold in message.holds}
                if not ledger.register(Identity(tag, link.member.pid), message.link, holds, now, opened=opened):
                    link.close_supervisor()
                    return
                self.unheard.discard(tag)
                older = self.links.get(tag)
                if older is not None:
                    self._supersede(older)
                self.links[tag] = link
                for endpoint in message.endpoints:
                    id = endpoint.key.removeprefix("tcp://")
                    link.to_member(wire.Resolved(endpoint.key, id))
                    ledger.attach(tag, id, now)
                if not link.member.alive:
                    self.event("exit", tag)
            case wire.Report():
                ledger.report(tag, link.number, message, now)
            case wire.Lost(server=id, serials=serials):
                self.lost[id].update(f"{tag}-{serial}" for serial in serials)
            case wire.Bye():
                ledger.leave(tag, link.number, now)

    def _supersede(self, older: Link) -> None:
        """Rule S4: links older than a member's newest are dropped."""
        older.close_supervisor()

    def _replaced(self, tag: str) -> None:
        """The process says that it was that member before."""
        self._handle("exit", tag, None)

    def _look_at(self, tag: str) -> None:
        """``exec`` closes a link, and tells nobody else."""
        if tag in self.world.other_programs and tag in self.ledger.members:
            self.event("exit", tag)

    def _tick(self) -> None:
        for tag in [tag for tag, member in self.ledger.members.items() if not member.linked]:
            self._look_at(tag)
        self.after(TICK, self._tick)

    def _watch(self, member: Process) -> None:
        """Its pidfd, were it not that the world tells of every exit anyway."""

    # ---- the turn --------------------------------------------------------------------------------

    def _turn(self, number: int) -> None:
        if number != self._turns:
            return
        self._turn_at = math.inf
        inbox, self.inbox = self.inbox, []
        try:
            for event in sorted(inbox, key=_exits_last):
                self._handle(*event)
            turn = self.commit()
        except Killed:
            self.die()
            return
        for inspection in self.inspections.values():
            inspection.look()
            inspection.release_held_raises()
        if turn.wake is not None:
            self.wake(max(0.00005, turn.wake - self.world.clock.now))
        if self.inbox:
            self.wake(0.0)
        if not self.links and not self.unread:
            self.after(LINGER, self._exit_if_idle)

    def commit(self) -> Turn:
        """Settle, save, tell: at the end of each turn, and at once when something is proven gone."""
        turn = self.ledger.settle(self.world.clock.now)
        self.world.ledger_changed = True
        self.world.turns += 1
        self._act(turn)
        return turn

    def _act(self, turn: Turn) -> None:
        """Rule S1's obligation: on disk first, then the rest."""
        if turn.persist and not self._persist():
            self.ledger.abandon(turn, self.world.clock.now)
            self._send_all(turn.rest())
            self.wake(0.01)
            return
        self._send_all(turn.tells)
        for server in turn.own:
            self._effect()
            self.inspections[server].granted()

    def _persist(self) -> bool:
        self._effect()
        if self.world.disk_full:
            self.world.note("snapshot cannot be written")
            return False
        self.world.write_snapshot(recovery.save(self.ledger, self.world.clock.now))
        return True

    def _send_all(self, tells: Any) -> None:
        for tell in tells:
            self._effect()
            link = self.links.get(tell.tag)
            if link is not None and link.number == tell.link:
                if self.world.tracing and isinstance(tell.message, wire.Limit):
                    m = tell.message
                    self.world.note(f"supervisor tells {tell.tag} limit {m.limit} (seq {m.seq}, link {tell.link})")
                link.to_member(tell.message)

    def _effect(self) -> None:
        """Before anything is done that others see: it may be the end."""
        if self.doom is not None:
            self.doom -= 1
            if self.doom < 0:
                raise Killed

    def _exit_if_idle(self) -> None:
        if self.links or self.unread:
            return
        if not self.stopping:
            self.stopping = True
            self.wake(0.00001)
        if self.inbox or not self.ledger.idle:
            return
        if any(not inspection.may_exit for inspection in self.inspections.values()):
            return
        self.world.note("supervisor exits: nothing is charged")
        self.world.remove_snapshot()
        self.die(lossy=False)
