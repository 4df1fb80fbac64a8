"""A member in a world of addresses: the real core, its sockets and its link; and the servers that it opens them to."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from poolmgr import wire
from poolmgr.member.core.process import Attachment, Grow, Left, MemberCore, Shed
from poolmgr.member.ports import Usage
from tests.simulation.link import Link

if TYPE_CHECKING:
    from tests.simulation.places.world import World


class Server:
    """A server. ``run``: how often it was restarted."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.run = 0
        self.since = now - 100
        self.count = 0
        self.hangs = False

    @property
    def run_id(self) -> str:
        return f"{self.name}.{self.run}"


class Socket:
    def __init__(self, serial: int, attachment: Attachment, server: Server) -> None:
        self.serial, self.attachment, self.server = serial, attachment, server
        self.open = True


class Process:
    """A member: the real core, and what uses it."""

    def __init__(self, world: World, tag: str) -> None:
        self.world, self.tag = world, tag
        self.core = MemberCore(tag, rng=world.rng)
        self.link: Link | None = None
        self.attachments: dict[str, Attachment] = {}
        self.leaving: list[Attachment] = []
        self.sockets: list[Socket] = []
        self.wants: dict[str, int] = {}
        self.alive = True
        self.away = 0.0
        """Seconds until it makes another link in place of the next one that it loses."""
        self._wake_at = math.inf
        self._turns = 0

    def run(self, call: Any, *args: Any) -> None:
        if self.alive:
            self.world.checks.touched.add(self)
            call(*args)
            self.poke()

    def poke(self) -> None:
        if self.core.dirty:
            self.wake_at(self.world.clock.now + self.world.delay(0.0001))

    def wake_at(self, when: float) -> None:
        if when < self._wake_at - 1e-9:
            self._wake_at = when
            self._turns += 1
            self.world.clock.at(when, self.run, self._turn, self._turns)

    def _turn(self, number: int) -> None:
        if number != self._turns:
            return
        self._wake_at = math.inf
        now = self.world.clock.now
        for attachment in self.core.looks(now):
            key = attachment.endpoint.key
            mine = sum(s.open and s.attachment is attachment for s in self.sockets)
            wanted = self.wants.get(key, 0) if self.attachments.get(key) is attachment else 0
            self.core.observe(attachment, Usage(mine, 0, max(0, wanted - mine), 0, 0.0, 1000, 5.0), now)
        settled = self.core.settle(now)
        self.flush()
        for effect in settled.effects:
            if isinstance(effect, Shed):
                self.close_some(effect.attachment, effect.count)
            elif isinstance(effect, Grow):
                self.grow(effect.attachment)
            elif isinstance(effect, Left):
                self.core.detach(effect.attachment)
                self.leaving = [a for a in self.leaving if a is not effect.attachment]
        if settled.wake < math.inf:
            self.wake_at(max(settled.wake, now + 0.0001))

    def flush(self) -> None:
        messages = self.core.outgoing()
        if self.link is not None:
            for message in messages:
                self.link.to_supervisor(message)

    # ---- work ------------------------------------------------------------------------------------

    def come(self, key: str) -> None:
        if key not in self.attachments:
            if len(self.world.addresses[key]) > 1:  # one answer does not tell that: the next one does
                self.world.moved = self.world.clock.now
            self.attachments[key] = Attachment(wire.Endpoint(key, host="h", address=key, port=1))
            self.core.attach(self.attachments[key])
            self.flush()

    def go(self, key: str) -> None:
        attachment = self.attachments.pop(key, None)
        if attachment is not None:
            self.wants.pop(key, None)
            self.leaving.append(attachment)
            self.core.leave(attachment)

    def live(self) -> None:
        """Now and then somebody wants more or less, by some address; what has been recalled is closed."""
        rng = self.world.rng
        for attachment in [*self.attachments.values(), *self.leaving]:
            while attachment.surplus > 0 and self.core.give_up(attachment, self.world.clock.now):
                if not self.close_some(attachment, 1):
                    break
        for attachment in self.leaving:
            self.close_some(attachment, 1)
        if self.attachments and not self.world.resting:
            key = rng.choice(list(self.attachments))
            self.wants[key] = rng.choice((0, 0, 1, 1, 2, 3, 10))
        if rng.random() < self.world.churn and not self.world.resting:
            key = rng.choice(list(self.world.addresses))
            self.go(key) if key in self.attachments else self.come(key)
        for key, attachment in self.attachments.items():
            mine = sum(s.open and s.attachment is attachment for s in self.sockets)
            if mine > self.wants.get(key, 0):
                self.close_some(attachment, mine - self.wants.get(key, 0))
            else:
                self.grow(attachment)
        pause = 0.02 if self.world.resting else 0.006
        self.world.clock.after(pause + self.world.delay(pause), self.run, self.live)

    def grow(self, attachment: Attachment) -> None:
        key = attachment.endpoint.key
        if self.attachments.get(key) is not attachment:
            return
        while sum(s.open and s.attachment is attachment for s in self.sockets) < self.wants.get(key, 0):
            serial = self.core.take(attachment, self.world.clock.now)
            if serial is None:
                self.flush()
                return
            self.world.checks.known(attachment)
            server = self.world.leads_to(key)
            if server.hangs:
                self.core.gone(serial)
                return
            server.count += 1
            self.sockets.append(Socket(serial, attachment, server))

    def close_some(self, attachment: Attachment, count: int) -> int:
        mine = [s for s in self.sockets if s.open and s.attachment is attachment][:count]
        for sock in mine:
            sock.open = False
            self.core.closing(sock.serial)
            self.world.clock.after(self.world.delay(0.0005), self.closed, sock)
        return len(mine)

    def closed(self, sock: Socket) -> None:
        if sock in self.sockets:
            self.sockets.remove(sock)
            sock.server.count -= 1
            if self.alive:
                self.run(self.core.gone, sock.serial)

    def die(self) -> None:
        self.alive = False
        if self.link is not None:
            self.link.close_member()
        for sock in list(self.sockets):
            self.world.clock.after(self.world.delay(0.002), self.closed, sock)
        self.world.clock.after(self.world.delay(0.001), self.world.exited, self)

    # ---- the link --------------------------------------------------------------------------------

    def connect(self) -> None:
        if self.link is not None or self.world.clerk is None:
            return
        hello = self.core.register(self.world.clock.now)
        self.link = Link(self.world, self, self.world.clerk, hello.link)  # type: ignore[arg-type]
        self.link.lag_down = self.world.lag_down
        self.world.clerk.accepted.append(self.link)
        self.link.to_supervisor(hello)
        self.flush()

    def drop_link(self) -> None:
        if self.link is not None:
            self.link.close_member()
            self.unlinked(self.link)

    def unlinked(self, link: Link) -> None:
        if link is self.link:
            self.link = None
            self.core.unlinked()
            self.world.clock.after(self.away + self.world.delay(0.003), self.run, self.connect)
            self.away = 0.0

    def heard(self, link: Link, message: wire.Message) -> None:
        self.core.received(link.number, message, self.world.clock.now)
