"""A world of addresses and servers: where an address leads changes, and members go by addresses.

The real :class:`poolmgr.supervisor.servers.registry.Registry`, :class:`poolmgr.supervisor.servers.sameness.Sameness`,
ledger and member core; around them, in virtual time, what asks addresses who they are, and members that open and close
connections. Addresses move, swap, lead to several servers in turn; servers are restarted, and hang; members come to
addresses and leave them, lose their links and are killed; supervisors are killed.

Checked after every step: no member has more open by the addresses of one upstream than it is charged with there, and
what is charged there has not grown beyond the budget. A second after the last move each *true* server counts no more
than its budget. In the end: addresses that lead to the same server are one upstream, and no others; whoever wants can
have the whole budget of each; nobody waits for a server that hangs.
"""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from poolmgr import settings, wire
from poolmgr.budget import recovery, views
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.budget.ledger import Ledger
from poolmgr.member.core import process as core
from poolmgr.member.core.process import Attachment, Grow, Left, MemberCore, Shed
from poolmgr.member.ports import Usage
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.servers.registry import Registry
from poolmgr.supervisor.servers.resolution import DOUBT
from poolmgr.supervisor.servers.sameness import Meetings
from poolmgr.supervisor.servers.upstream import Upstream
from tests.simulation.clock import Clock
from tests.simulation.link import Link

SETTLED = 1.0
"""Seconds after which what has moved is noticed, and taken back where it is too much."""

KNOWN = 2.0
"""Seconds after which no more is open than the budget: two questions, which it takes to know a balancer, and the time
in which what is too much is taken back."""

FORGET_AFTER = 0.01, 0.01, 0.3
"""Seconds after which a member says goodbye to what it does not use: short, so that goodbyes are frequent here; or
longer than a server takes to part and to be united again."""

ASKED = 0.5
"""Seconds between two questions to all addresses."""

ASKING = 0.1
"""Seconds within which those that are asked have answered, where nobody hangs."""


class Violation(Exception):
    """Something that must hold did not."""


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
        self._committer = 0

    def run(self, call: Any, *args: Any) -> None:
        if self.alive:
            self.world.touched.add(self)
            call(*args)
            self.poke()

    def poke(self) -> None:
        if self.core.dirty:
            self.wake_at(self.world.clock.now + self.world.delay(0.0001))

    def wake_at(self, when: float) -> None:
        if when < self._wake_at - 1e-9:
            self._wake_at = when
            self._committer += 1
            self.world.clock.at(when, self.run, self._turn, self._committer)

    def _turn(self, number: int) -> None:
        if number != self._committer:
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
            self.world.check_known(attachment)
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


class Looks:
    """What asks one upstream's addresses: in place of a probe."""

    still_runs = unwanted = busy = False

    def __init__(self, upstream: Upstream, clerk: Clerk) -> None:
        self.upstream, self.clerk, self.world = upstream, clerk, clerk.world
        self.outages = SimpleNamespace(gone=lambda tag: None, heard=lambda *_: None)
        self.allowance = SimpleNamespace(restored=lambda now: None)
        self._asking = False
        self._meetings = Meetings()

    def start(self) -> None:
        self.clerk.after(self.world.delay(0.0005), self.ask)

    def ask_again(self) -> None:
        self.clerk.after(self.world.delay(0.0005), self.ask)

    wake = hurry = try_again = ask_again

    def recalculate(self, *, at_once: bool = False) -> None:
        pass

    def registered(self, tag: str) -> None:
        pass

    @property
    def _over(self) -> bool:
        present: Any = self.clerk.registry.probes.get(self.upstream.id)
        return present is not self

    def ask(self) -> None:
        """By fresh connections, one address after the other."""
        if self._asking or self._over:
            return
        if self.upstream.resolved:
            self.clerk.registry.addresses.forget_unused(self.upstream)
        keys = sorted(self.upstream.ways)
        if keys:
            self._asking = True
            self._next(keys, {}, {}, self.world.clock.now)
        else:
            self.clerk.after(ASKED, self.ask)

    def _next(self, keys: list[str], said: dict[str, str], since: dict[str, float], began: float) -> None:
        if self._over:
            return
        if not keys:
            self._asking = False
            self._heard(said, since, began)
            return
        server = self.world.asks(keys[0])
        if not server.hangs:
            said[keys[0]], since[keys[0]] = server.run_id, server.since
        pause = 0.02 if server.hangs else self.world.delay(0.0005)
        self.clerk.after(pause, self._next, keys[1:], said, since, began)

    def _heard(self, said: dict[str, str], since: dict[str, float], began: float) -> None:
        upstream, registry, now = self.upstream, self.clerk.registry, self.world.clock.now
        if not said:
            upstream.asked_at = upstream.fresh_at = began if upstream.resolved else upstream.fresh_at
            self.clerk.after(ASKED, self.ask)
            return
        run_id = said[max(said)]
        if not upstream.resolved:
            met = self._meetings.met(run_id, now)
            others = registry.twins.doubtful(upstream, run_id, met, min(met, since[max(said)]))
            if others and now < met + DOUBT:
                for other in others:
                    registry.probes[other.id].ask_again()
                self.clerk.after(0.005, self.ask)
                return
        settled = upstream.sameness.asked(said, began, since)
        upstream.asked_at = upstream.fresh_at = began
        if not upstream.resolved:
            self._meetings.end()
            self.clerk.is_resolved(upstream, run_id)
        else:
            turned = upstream.sameness.turned(upstream.run_id, upstream.id)
            if turned:
                upstream.run_id, upstream.changed_at = turned, now
                self.clerk.ledger.server(upstream.id, run_id=turned)
            known = set(registry.upstreams)
            for group in upstream.sameness.apart(upstream.id):
                registry.part(upstream, group)
            self.world.jumps |= registry.upstreams.keys() - known
            twin = registry.twins.of(upstream)
            if twin is not None:
                self.clerk.unite(upstream, twin)
        self.clerk.after(ASKED if settled else 0.0, self.ask)


class _Registry(Registry):
    clerk: Clerk

    def _probe(self, upstream: Upstream) -> Any:
        return Looks(upstream, self.clerk)


class Clerk:
    """The supervisor."""

    def __init__(self, world: World, number: int) -> None:
        self.world = world
        self.alive = True
        owner = Identity(f"supervisor{number}", number)
        saved, now = world.disk, world.clock.now
        if saved is None:
            self.ledger = Ledger(owner=owner, rng=world.rng)
        else:
            self.ledger = recovery.restored(saved, now, alive=world.lives, owner=owner, rng=world.rng)
        committer: Any = SimpleNamespace(clock=lambda: world.clock.now, touch=lambda: self.wake(0.0001))
        nobody: Any = None
        self.links: dict[str, Link] = {}
        totals = SimpleNamespace(forget=lambda server: None)
        roster: Any = SimpleNamespace(send=self.send, known=self.links, totals=totals)
        self.registry = _Registry(
            Context(self.ledger, committer, world.settings, roster, nobody, nobody, nobody, itertools.count())
        )
        self.registry.clerk = self
        self.accepted: list[Link] = []
        """Links that have been made, some of which have said nothing yet."""
        self.known = self.links
        self._turn_at = math.inf
        self._committer = 0
        self.registry.restore()
        self.wake(0.0)
        self.after(0.05, self._tick)

    def after(self, seconds: float, call: Any, *args: Any) -> None:
        self.world.clock.after(seconds, self._run, call, *args)

    def _run(self, call: Any, *args: Any) -> None:
        if self.alive:
            self.world.ledger_changed = True
            call(*args)

    def _tick(self) -> None:
        self.registry.tick()
        self.after(0.05, self._tick)

    # ---- from members ----------------------------------------------------------------------------

    def arrived(self, link: Link, message: wire.Message | None) -> None:
        self.world.ledger_changed = True
        self.hear(link, message)
        self.wake(self.world.delay(0.0001))

    def hear(self, link: Link, message: wire.Message | None) -> None:
        tag, now, ledger, registry = link.member.tag, self.world.clock.now, self.ledger, self.registry
        match message:
            case None:
                if self.links.get(tag) is link:
                    del self.links[tag]
                link.close_supervisor()
                ledger.unlink(tag, link.number, now)
            case wire.Hello():
                holds: dict[str, int] = {}
                opened: dict[str, int] = {}
                for hold in message.holds:
                    for upstream, (stated, of_that) in registry.held(hold).items():
                        holds[upstream.id] = holds.get(upstream.id, 0) + stated
                        opened[upstream.id] = opened.get(upstream.id, 0) + of_that
                if not ledger.register(Identity(tag, 1), message.link, holds, now, opened=opened):
                    link.close_supervisor()
                    return
                older = self.links.get(tag)
                if older is not None and older is not link:
                    older.close_supervisor()
                self.links[tag] = link
                registry.addresses.asks_again(tag)
                link.to_member(wire.Welcome(1, 1, parts=True))
                for endpoint in message.endpoints:
                    self._attach(tag, endpoint)
            case _ if self.links.get(tag) is not link:
                pass
            case wire.Attach(endpoint=endpoint, number=number):
                registry.addresses.asked(tag, endpoint.key, number)
                self._attach(tag, endpoint)
            case wire.Detach(endpoint=key, server=server, seq=seq):
                if key:
                    registry.detached(tag, key)
                if server:
                    ledger.leave_one(tag, link.number, server, seq, now)
                    if registry.goes_to(tag, server):
                        ledger.attach(tag, server, now)
            case wire.Report():
                ledger.report(tag, link.number, message, now)

    def _attach(self, tag: str, endpoint: wire.Endpoint) -> None:
        upstream = self.registry.upstream_for(endpoint, tag)
        if upstream is None:
            self.world.violated("the books are full")
        elif upstream.resolved:
            self.registry.resolved(upstream, tag, endpoint.key)
        else:
            upstream.waiting.append((tag, endpoint.key))

    def send(self, tag: str, message: wire.Message) -> None:
        if tag in self.links:
            self.links[tag].to_member(message)

    # ---- what addresses say ----------------------------------------------------------------------

    def is_resolved(self, upstream: Upstream, run_id: str) -> None:
        keys = set(upstream.ways)
        target = self.registry.is_resolved(upstream, run_id)
        self.world.check_union(keys, set(target.ways) - keys, target)
        self.world.jumps.add(target.id)
        if target is not upstream:
            self.ledger.dissolve(upstream.id, target.id)
        else:
            self.ledger.set_budget(upstream.id, self.world.budget, self.world.clock.now)
            self.ledger.hold_raises(upstream.id, False)
            upstream.governor.budget = self.world.budget
        self.wake(0.0001)

    def unite(self, upstream: Upstream, twin: Upstream) -> None:
        self.world.jumps.add(twin.id)
        self.registry.unite(upstream, twin)
        self.ledger.dissolve(upstream.id, twin.id)
        self.wake(0.0001)

    # ---- turns -----------------------------------------------------------------------------------

    def wake(self, seconds: float) -> None:
        when = self.world.clock.now + seconds
        if when < self._turn_at - 1e-9:
            self._turn_at = when
            self._committer += 1
            self.world.clock.at(when, self._run, self._turn, self._committer)

    def _turn(self, number: int) -> None:
        if number != self._committer:
            return
        self._turn_at = math.inf
        now = self.world.clock.now
        turn = self.ledger.settle(now)
        views.check(self.ledger)
        if turn.persist:
            self.world.disk = recovery.save(self.ledger, now)
        for tell in turn.tells:
            link = self.links.get(tell.tag)
            if link is not None and link.number == tell.link:
                link.to_member(tell.message)
        if turn.wake is not None:
            self.wake(max(0.0001, turn.wake - now))

    def die(self) -> None:
        self.alive = False
        for link in self.accepted:
            link.close_supervisor(lossy=self.world.rng.random() < 0.3)


class World:
    """One seed's."""

    tracing = False

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.settings = settings.load({})
        self.budget = rng.randint(2, 12)
        self.servers = [Server(f"s{i}", 0.0) for i in range(rng.randint(1, 3))]
        self.addresses = {f"tcp://10.0.0.{i}:1": [rng.choice(self.servers)] for i in range(rng.randint(2, 5))}
        self.churn = rng.choice((0.0, 0.02, 0.2))
        """How often a member comes to an address or leaves it."""
        self.slow = rng.choice((0.0, 0.05, 0.2))
        self.forget_after = rng.choice(FORGET_AFTER)
        self.lag, self.lag_down = rng.choice((0.0, 0.0, 0.02)), rng.choice((0.0, 0.0, 0.02))
        self.disk: Saved | None = None
        self.clerk: Clerk | None = None
        self.processes: dict[str, Process] = {}
        self.jumps: set[str] = set()
        self.touched: set[Process] = set()
        self.ledger_changed = True
        self.resting = False
        self.moved = -100.0
        self._supervisors = self._tags = 0
        self._committer: dict[str, int] = {}
        self._outstanding: dict[str, int] = {}
        self.steps = self.faults = 0

    # ---- used by all parts -----------------------------------------------------------------------

    def delay(self, scale: float) -> float:
        if self.slow and self.rng.random() < self.slow:
            return scale * 20 * self.rng.random()
        return scale * 2 * self.rng.random()

    def repeats(self) -> bool:
        return False

    def note(self, text: str) -> None:
        pass

    def violated(self, text: str) -> None:
        raise Violation(f"{self.clock.now:.4f}: {text}")

    def lives(self, identity: Identity) -> bool:
        return identity.tag in self.processes

    def leads_to(self, key: str) -> Server:
        return self.rng.choice(self.addresses[key])

    def asks(self, key: str) -> Server:
        """Likewise, for who asks it who it is: that not all answers are the same by chance is taken for granted."""
        servers, turn = self.addresses[key], self._committer.get(key, 0)
        self._committer[key] = turn + 1
        return servers[turn % len(servers)]

    def exited(self, process: Process) -> None:
        del self.processes[process.tag]
        clerk = self.clerk
        if clerk is not None:
            link = clerk.links.pop(process.tag, None)
            if link is not None:
                link.drain()
            clerk.ledger.exited(process.tag, self.clock.now)
            clerk.registry.departed(process.tag)
            clerk.wake(0.0001)
        self.clock.after(0.05, self._proven, process.tag)

    def _proven(self, tag: str) -> None:
        """What it had has ended long since."""
        clerk = self.clerk
        if clerk is None:
            self.clock.after(0.05, self._proven, tag)
            return
        for id, server in clerk.ledger.servers.items():
            if tag in server.quarantine:
                clerk.ledger.proven(id, tag, self.clock.now)
        clerk.wake(0.0001)

    # ---- faults ----------------------------------------------------------------------------------

    def start_clerk(self) -> None:
        self._supervisors += 1
        if any(len(servers) > 1 for servers in self.addresses.values()):
            self.moved = self.clock.now  # it has to learn of balancers by itself
        self.clerk = Clerk(self, self._supervisors)
        self._outstanding.clear()
        for tag in {tag for known in self.clerk.ledger.servers.values() for tag in known.quarantine}:
            if tag not in self.processes:
                self.clock.after(0.05, self._proven, tag)
        for process in list(self.processes.values()):
            self.clock.after(self.delay(0.002), process.run, process.connect)

    def start_process(self) -> Process:
        self._tags += 1
        process = self.processes[f"m{self._tags}"] = Process(self, f"m{self._tags}")
        for key in self.addresses:
            if self.rng.random() < 0.7:
                process.come(key)
        process.run(process.live)
        process.run(process.connect)
        return process

    def fault(self) -> None:
        rng = self.rng
        self.faults += 1
        kind = rng.choice(
            ("move", "move", "swap", "several", "restart", "come", "come", "go", "go", "link", "link", "kill",
             "supervisor", "hang")
        )  # fmt: skip
        keys = list(self.addresses)
        process = rng.choice([process for process in self.processes.values() if process.alive] or [None])
        key = rng.choice(keys)
        if kind in ("move", "swap", "several"):
            self.moved = self.clock.now
            for member in self.processes.values():
                if member.alive and rng.random() < 0.2:
                    member.away = 0.3 * rng.random()
                    member.run(member.drop_link)
        if kind == "move":
            self.addresses[key] = [rng.choice(self.servers)]
        elif kind == "swap":
            other = rng.choice(keys)
            self.addresses[key], self.addresses[other] = self.addresses[other], self.addresses[key]
        elif kind == "several":
            self.addresses[key] = rng.sample(self.servers, min(2, len(self.servers)))
        elif kind == "restart":
            self._restart(rng.choice(self.servers))
        elif kind == "hang":
            self.moved = self.clock.now
            server = rng.choice(self.servers)
            server.hangs = True
            self.clock.after(0.3, self._heal, server)
        elif kind == "supervisor" and self.clerk is not None:
            self.clerk.die()
            self.clerk = None
            self.clock.after(0.001 + self.delay(0.005), self.start_clerk)
        elif process is not None:
            if kind == "come":
                process.run(process.come, key)
            elif kind == "go":
                process.run(process.go, key)
            elif kind == "link":
                process.run(process.drop_link)
            elif kind == "kill":
                process.die()
                self.start_process()

    def _heal(self, server: Server) -> None:
        server.hangs = False
        self.moved = self.clock.now

    def _restart(self, server: Server) -> None:
        server.run += 1
        server.since = self.clock.now
        for process in self.processes.values():
            for sock in [s for s in process.sockets if s.server is server]:
                if sock.open:
                    sock.open = False
                    process.core.closing(sock.serial)
                process.closed(sock)

    # ---- running ---------------------------------------------------------------------------------

    def run(self) -> World:
        """The whole.

        Raises:
            Violation: something that must hold did not.
        """
        with patch.object(core, "FORGET_AFTER", self.forget_after):
            self._run()
        return self

    def _run(self) -> None:
        self.start_clerk()
        for _ in range(self.rng.randint(1, 4)):
            self.start_process()
        for _ in range(self.rng.randint(2, 6)):
            self.until(self.clock.now + 0.05 + 0.3 * self.rng.random())
            for _ in range(self.rng.randint(1, 4)):
                self.until(self.clock.now + 0.02 * self.rng.random())
                self.fault()
            if self.rng.random() < 0.4:
                self.until(self.clock.now + SETTLED + 0.1)
        self.until(self.clock.now + SETTLED + 1.0)
        self.resting = True
        self.until(self.clock.now + 0.3)  # whoever came to an address last knows by now where it leads
        self._check_partition()
        self._check_whole()

    def until(self, when: float) -> None:
        while self.clock.step(when):
            self.steps += 1
            self.check()

    def check(self) -> None:
        clerk = self.clerk
        if self.clock.now > self.moved + KNOWN:
            for server in self.servers:
                if server.count > self.budget:
                    self.violated(f"{server.name} counts {server.count} of {self.budget}")
        if clerk is None:
            return
        if self.ledger_changed:
            self.ledger_changed = False
            self.touched.update(self.processes.values())
            self._check_sums(clerk)
        for process in self.touched:
            if process.alive:
                self._check_charges(clerk, process)
        self.touched.clear()

    def check_known(self, attachment: Attachment) -> None:
        """Nothing is opened at a server of which it is not known which one it is."""
        upstream = None if self.clerk is None else self.clerk.registry.addresses.by_key.get(attachment.endpoint.key)
        if upstream is not None and not upstream.resolved and attachment.dispatcher.account.server == upstream.id:
            self.violated(f"something is opened at {upstream.id} before it is known which server that is")

    def check_union(self, new: set[str], known: set[str], upstream: Upstream) -> None:
        """A server that is met is known already only if one of the known addresses leads to it still, or hangs, so that
        it cannot be asked."""
        hangs = any(server.hangs for key in known for server in self.addresses[key])
        if not known or hangs or upstream.sameness.several or self.clock.now < self.moved + ASKING:
            return
        if not {s for key in new for s in self.addresses[key]} & {s for key in known for s in self.addresses[key]}:
            self.violated(f"{sorted(new)} are united with {sorted(known)}, which lead elsewhere")

    def _check_charges(self, clerk: Clerk, process: Process) -> None:
        counts: dict[str, int] = {}
        for dispatcher in process.core.dispatchers():
            account = dispatcher.account
            for states in (account.live, account.closing, account.lost):
                for owner in states.values():
                    upstream = clerk.registry.addresses.by_key.get(owner.endpoint.key)
                    id = upstream.id if upstream is not None else owner.endpoint.key
                    counts[id] = counts.get(id, 0) + 1
        for id, count in counts.items():
            known = clerk.ledger.servers.get(id)
            charged = known.accounts.get(process.tag) if known is not None else None
            if charged is None or count > charged.charge:
                self.violated(f"{process.tag} has {count} open at {id}, charged {charged}")

    def _check_sums(self, clerk: Clerk) -> None:
        for id, known in clerk.ledger.servers.items():
            outstanding = known.outstanding
            before = self._outstanding.get(id, outstanding)
            if id not in self.jumps and outstanding > max(known.budget, before):
                self.violated(f"{id}: {outstanding} outstanding of {known.budget}, {before} before")
            self._outstanding[id] = outstanding
        self.jumps.clear()

    def _check_partition(self) -> None:
        """Addresses of one server are one upstream, and no others; a balancer is one with all that lead to its
        servers."""
        assert self.clerk is not None
        used = {key for process in self.processes.values() for key in process.attachments}
        for one, two in itertools.combinations(sorted(used), 2):
            a, b = self.clerk.registry.addresses.by_key.get(one), self.clerk.registry.addresses.by_key.get(two)
            if a is None or b is None:
                self.violated(f"{one} or {two} is not known")
            alike = self.addresses[one] == self.addresses[two] and len(self.addresses[one]) == 1
            if alike and a is not b:
                self.violated(f"{one} and {two} lead to one server, and are two")
            several = any(len(servers) > 1 for servers in self.addresses.values()) or self._had_several
            if not alike and not several and a is b:
                self.violated(f"{one} and {two} lead to two servers, and are one")

    @property
    def _had_several(self) -> bool:
        assert self.clerk is not None
        return any(upstream.sameness.several for upstream in self.clerk.registry.upstreams.values())

    def _check_whole(self) -> None:
        """Nobody else wants anything: one process gets the whole budget of each server."""
        for process in self.processes.values():
            process.wants.clear()
        hot = self.start_process()
        self.until(self.clock.now + 1.0)
        assert self.clerk is not None
        if self._had_several:
            return
        for key in sorted(hot.attachments):
            hot.wants[key] = self.budget
            self.until(self.clock.now + 1.0)
            mine = sum(s.open and s.attachment.endpoint.key == key for s in hot.sockets)
            if mine < self.budget:
                self.violated(f"{hot.tag} has {mine} of {self.budget} by {key}")
            hot.wants[key] = 0
            self.until(self.clock.now + 0.5)


def failure(seed: int) -> str:
    """How that seed's world fails; empty if it does not."""
    try:
        World(seed).run()
    except (Violation, AssertionError) as error:
        return str(error) or type(error).__name__
    return ""
