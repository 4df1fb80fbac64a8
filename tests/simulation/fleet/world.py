"""Who does what when, drawn from a seed, and what must hold after every step.

A world first meets every fault that its kind allows, in any order. Then all faults end, and it has to come to rest: all
demand is met as far as the budget goes, nothing is marked, no table learns.

More than 400 lines: what happens and what must hold of it are read together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec

from poolmgr.fleet import script
from poolmgr.fleet.lease import Terms
from tests.simulation.fleet import fencer
from tests.simulation.fleet.host import Host
from tests.simulation.fleet.server import Client, Server

LEASE = 10.0
EPOCH = 1_800_000_000_000


class Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What a world is made of, and how often each fault comes in so many steps."""

    hosts: int = 3
    budget: int = 6
    slack: int = 2
    steps: int = 400
    pauses: float = 0.01
    deaths: float = 0.003
    crashes: float = 0.005
    flushes: float = 0.003
    failovers: float = 0.0
    late: float = 0.03
    slow: float = 0.02
    clocks: float = 0.0


class Broken(AssertionError):
    """A rule's promise does not hold."""


class World:
    """See the module's docstring."""

    def __init__(
        self,
        seed: int,
        kind: Kind | None = None,
        edit: Callable[[str], str] = lambda text: text,
        later: Callable[[str], str] | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.kind = kind or draw(self.rng)
        self.edit, self.later = edit, later
        self.now = 0.0
        self.skew = 0
        self.runs = 0
        self.lives = 0
        self.server = self._server()
        self.elsewhere: list[Server] = []
        """Server processes that were left: old primaries that live on."""
        self.copy: dict[str, str] | None = None
        """What the replica has; None: what the primary has."""
        self.hosts = [self._host() for _ in range(self.kind.hosts)]
        self.rounds: list[tuple[Host, Iterator[str]]] = []
        self.log: list[str] = []
        self.faults = 0
        self.most = 0
        self.losses: list[float] = []
        """When the table was lost."""

    def _server(self) -> Server:
        self.runs += 1
        return Server(f"run{self.runs}", lambda: EPOCH + round(self.now * 1000) + self.skew, self.edit, self.later)

    def _host(self) -> Host:
        self.lives += 1
        return Host(lambda: self.now, self.server, self.lives, self.rng, Terms(lease=LEASE, host=f"h{self.lives}"))

    # ---- what happens -----------------------------------------------------------------------------

    def run(self) -> None:
        """All of it.

        Raises:
            Broken: a rule's promise does not hold.
        """
        for _ in range(self.kind.steps):
            self.now += self.rng.choice((0.001, 0.01, 0.05, 0.05, 0.3)) * self.rng.random()
            self.step()
            self.check()
        self.calm()

    def step(self) -> None:
        """One thing happens."""
        kind, rng = self.kind, self.rng
        draw = rng.random()
        for chance, fault in (
            (kind.pauses, self._pause),
            (kind.deaths, self._death),
            (kind.crashes, self._crash),
            (kind.flushes, self._flush),
            (kind.failovers, self._failover),
            (kind.clocks, self._clock),
            (kind.failovers * 3, self._lag),
            (0.03, self._brisk),
            (0.01, self._alone),
        ):
            if draw < chance:
                fault()
                self.faults += 1
                return
            draw -= chance
        if rng.random() < 0.4:
            self._serve()
        elif self.rounds and rng.random() < 0.25:
            self._fence()
        else:
            self._act(rng.choice(self.hosts))

    def _brisk(self) -> None:
        """For a while all who can do what they should, in good time."""
        step = self.rng.choice((0.05, 0.1, 0.2, 0.5))
        for _ in range(self.rng.choice((5, 10, 30, 60))):
            self.now += step * self.rng.random()
            self._turn(brisk=True)
            self.check()

    def _alone(self) -> None:
        """For a while one host is the only one that does anything."""
        host = self.rng.choice(self.hosts)
        for other in self.hosts:
            if other is not host and other.paused_until < self.now:
                other.paused_until = self.now + 1.0
        for _ in range(8):
            self.now += 0.1 * self.rng.random()
            self._turn(brisk=True)
            self.check()

    def say(self, words: str) -> None:
        self.log.append(f"{self.now:8.3f} {words}")

    def _act(self, host: Host) -> None:
        if not host.alive or self.now < host.paused_until:
            return
        kind, rng = self.kind, self.rng
        match rng.randrange(10):
            case 0 | 1:
                host.connect()
            case 2 | 3:
                host.handshake()
            case 4:
                if host.inbox:
                    self.say(f"h{host.life} reads {host.inbox[0]}")
                    host.read()
                if host.duty and len(self.rounds) < 3:
                    self.rounds.append((host, fencer.rounds(host.server, LEASE)))
                    host.duty = ""
            case 5:
                if host.send(kind.budget, kind.slack, self._lateness()):
                    self.say(f"h{host.life} sends {host.under_way[-1]}")
                    if rng.random() < 5 * kind.crashes:
                        self._crash(host)
                elif host.lease.under_way and rng.random() < kind.late * 5:
                    self.say(f"h{host.life} waits no longer")
                    host.lease.failed(self.now)
                    host.inbox.clear()
            case 6:
                host.hand_out()
            case 7:
                host.take_back()
                host.obey()
            case 9:
                host.save()
            case 8:
                if rng.random() < 0.3:
                    host.demand = rng.choice((0, 1, 2, kind.budget, kind.budget))
                    if rng.random() < 0.5:
                        host.lease.give_back(host.demand, self.now)
                elif rng.random() < 0.3 and host.clients:
                    host.close(rng.choice(host.clients))
                    host.lease.give_back(host.demand, self.now)

    def _serve(self) -> None:
        """The server, or the network, does something."""
        rng = self.rng
        choices: list[Callable[[], None]] = []
        for host in self.hosts:
            for request in host.arrived(self.now):
                choices.append(lambda host=host, request=request: self._execute(host, request))  # type: ignore[misc]
        for server in [self.server, *self.elsewhere]:
            for client in server.busy():
                choices.append(lambda server=server, client=client: server.advance(client))  # type: ignore[misc]
            for client in server.clients:
                if client.ended and client.stage != "air" and rng.random() < 0.2:
                    choices.append(lambda server=server, client=client: server.drop(client))  # type: ignore[misc]
        if choices:
            rng.choice(choices)()

    def _execute(self, host: Host, request: script.Renewal) -> None:
        host.under_way.remove(request)
        self._answer(host, request)

    def _answer(self, host: Host, request: script.Renewal) -> None:
        """The script runs, on the process that the connection led to, if it is there."""
        servers = [s for s in (self.server, *self.elsewhere) if s.run == request.run]
        if not servers:
            return
        answer = script.answer(servers[0].table.call(*request.arguments()))
        self.say(f"executed: h{host.life} {request.name} {request.seq} word {request.word} -> {answer}")
        if isinstance(answer, script.Refused) and answer.why == "fenced":
            self._over(host, request, answer.now)
        if host.alive and host.lease.under_way and not any(request is orphan for orphan in host.orphans):
            host.inbox.append((request.seq, answer))

    def _over(self, host: Host, request: script.Renewal, now: int) -> None:
        """A host that has connections is fenced only after its lease has ended. With copies, jumping clocks, or two
        losses at a time, two histories of leases can meet, of which not all fit."""
        if self.kind.failovers or self.kind.clocks or any(b - a < 3 * LEASE for a, b in pairwise(self.losses)):
            return
        held = any(c.stage == "open" and c.wish == request.name and not c.ended for c in host.clients)
        if held and now < request.until:
            raise Broken(f"h{host.life} has connections, and is fenced {request.until - now} ms before its end")

    def _fence(self) -> None:
        index = self.rng.randrange(len(self.rounds))
        host, steps = self.rounds[index]
        if not host.alive:
            del self.rounds[index]
        elif self.now >= host.paused_until:
            done = next(steps, None)
            if done is None:
                del self.rounds[index]
            else:
                self.say(f"h{host.life} has the duty: {done}")

    # ---- faults -----------------------------------------------------------------------------------

    def _pause(self) -> None:
        host = self.rng.choice(self.hosts)
        host.paused_until = self.now + self.rng.choice((0.5, 3.0, LEASE, LEASE * 1.2, 3 * LEASE))
        self.say(f"h{host.life} is paused until {host.paused_until:.3f}")
        if self.rng.random() < 0.5:  # all others go on, and much time passes
            self.now += self.rng.choice((0.0, LEASE * 0.5, LEASE * 1.15, LEASE * 1.3))

    def _death(self) -> None:
        index = self.rng.randrange(len(self.hosts))
        host = self.hosts[index]
        self.say(f"h{host.life} dies")
        host.die()
        new = self._host()
        new.under_way = host.under_way  # what it sent is still on its way
        new.demand = host.demand
        self.hosts[index] = new

    def _crash(self, host: Host | None = None) -> None:
        host = host or self.rng.choice(self.hosts)
        lost = self.rng.random() < 0.2
        self.say(f"the supervisor of h{host.life} crashes{', and its snapshot is lost' if lost else ''}")
        host.crash(lost=lost)
        if self.rng.random() < 0.5:
            host.demand = self.kind.budget

    def _flush(self) -> None:
        self.say("FLUSHALL")
        self.losses.append(self.now)
        self.server.table.hash.clear()

    def _lag(self) -> None:
        if self.copy is None:
            self.say("the replica falls behind")
            self.copy = dict(self.server.table.hash)
        else:
            self.copy = None

    def _failover(self) -> None:
        """Another process serves from now on, with what the replica has or with nothing; the old one may live on."""
        old, self.server = self.server, self._server()
        if self.rng.random() < 0.7:
            self.server.table.hash = dict(old.table.hash if self.copy is None else self.copy)
        self.copy = None
        self.say(f"failover to {self.server.run} with {self.server.table.hash}")
        if self.rng.random() < 0.5:
            self.elsewhere.append(old)
        else:
            old.clients.clear()
        if self.elsewhere and self.rng.random() < 0.3:  # back to one that never restarted
            back = self.elsewhere.pop(0)
            self.elsewhere.append(self.server)
            self.server = back
        self._move(everywhere=False)

    def _move(self, *, everywhere: bool) -> None:
        gone = {id(s) for s in (self.server, *self.elsewhere)}
        for host in self.hosts:
            if host.server is not self.server and (
                everywhere or id(host.server) not in gone or self.rng.random() < 0.5
            ):
                host.move(self.server)

    def _clock(self) -> None:
        self.skew += round(self.rng.choice((-900, 900, LEASE * 1000, LEASE * 3000)))
        self.say(f"the server's clock is set to {self.skew:+d}")

    # ---- what must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        room = self.kind.budget - self.kind.slack
        for server in (self.server, *self.elsewhere):
            held = server.held()
            self.most = max(self.most, held)
            if held > room:
                raise Broken(f"{held} connections past their gates at {server.run}, of {room} that may be granted")
        for host in self.hosts:
            if host.outstanding > host.lease.word and not host.lease.clearing:
                raise Broken(f"h{host.life} has handed out {host.outstanding}, and may hold {host.lease.word}")

    def calm(self) -> None:
        """No more faults: it comes to rest."""
        self._move(everywhere=True)
        for host in self.hosts:
            host.paused_until = 0.0
            host.demand = max(1, host.demand)
        room = self.kind.budget - self.kind.slack
        for _ in range(2000):
            self.now += 0.1
            self._turn(brisk=False)
            self.check()
            if self._rests(room):
                return
        raise Broken(f"it does not come to rest: {self.describe()}")

    def _turn(self, *, brisk: bool) -> None:
        """All do what they should. ``brisk``: but those that are paused, and packets that are late."""
        kind, rng = self.kind, self.rng
        for host in self.hosts:
            for request in host.arrived(self.now) if brisk else list(host.under_way):
                host.under_way.remove(request)
                self._answer(host, request)
            if brisk and self.now < host.paused_until:
                continue
            if brisk and rng.random() < 0.05:
                host.demand = rng.choice((0, 1, 2, kind.budget))
                if rng.random() < 0.5:
                    host.lease.give_back(host.demand, self.now)
            while host.inbox:
                self.say(f"h{host.life} reads {host.inbox[0]}")
                host.read()
            if host.lease.under_way and rng.random() < 0.5:
                host.lease.failed(self.now)
            if host.duty:
                self.say(f"h{host.life} has the duty: {host.duty}")
                steps = fencer.rounds(host.server, LEASE)
                for _ in steps:
                    if brisk and rng.random() < 0.03 and len(self.rounds) < 4:
                        self.rounds.append((host, steps))  # it goes on later
                        break
                host.duty = ""
            host.obey()
            host.handshake()
            host.hand_out()
            host.take_back()
            host.connect()
            host.save()
            if host.send(kind.budget, kind.slack, self._lateness() if brisk else 0.0):
                self.say(f"h{host.life} sends {host.under_way[-1]}")
                if brisk and rng.random() < kind.crashes:
                    self._crash(host)
        for server in (self.server, *self.elsewhere):
            for client in list(server.busy()):
                if not (brisk and self.now < client.slow):
                    server.advance(client)
                    self._delay(client)
            for client in list(server.clients):
                if client.ended and rng.random() < (0.01 if brisk else 0.05):
                    server.drop(client)

    def _lateness(self) -> float:
        """When a request arrives."""
        if self.rng.random() < self.kind.late:
            return self.now + self.rng.choice((0.3, 1.0, 3.0, LEASE, 2 * LEASE))
        return 0.0

    def _delay(self, client: Client) -> None:
        if self.rng.random() < self.kind.slow:
            client.slow = self.now + self.rng.choice((1.0, LEASE, 3 * LEASE))

    def _rests(self, room: int) -> bool:
        head = self.server.table.hash.get("!", "")
        wanted = sum(host.demand for host in self.hosts)
        marked = any(field.startswith("x") for field in self.server.table.hash)
        learning = not head or head.split()[2] == "1"
        return not learning and not marked and self.server.held() == min(wanted, room)

    def describe(self) -> str:
        hosts = "; ".join(
            f"h{h.life} {h.lease.name} word {h.lease.word} limit {h.lease.limit} handed {h.handed} stale {h.stale} "
            f"demand {h.demand} open {[c.stage for c in h.clients]}"
            for h in self.hosts
        )
        return f"{self.server.table.hash}; held {self.server.held()}; {hosts}"


def draw(rng: random.Random) -> Kind:
    """A kind of world: few faults, but often."""
    hosts = rng.choice((2, 2, 3, 4))
    slack = rng.choice((0, 0, 1, 2))
    faults = ("pauses", "deaths", "crashes", "flushes", "failovers", "late", "slow")
    some = {name for name in faults if rng.random() < 0.4}
    often = rng.choice((0.5, 1.0, 2.0))

    def rate(name: str, chance: float) -> float:
        return chance * often if name in some else 0.0

    return Kind(
        hosts=hosts,
        budget=slack + rng.choice((1, 2, 2, 3, 5, 8)),
        slack=slack,
        steps=rng.choice((200, 400, 800)),
        pauses=rate("pauses", 0.02),
        deaths=rate("deaths", 0.01),
        crashes=rate("crashes", 0.02),
        flushes=rate("flushes", 0.01),
        failovers=rate("failovers", 0.01),
        late=rate("late", 0.15),
        slow=rate("slow", 0.1),
        clocks=rng.choice((0.0, 0.0, 0.0, 0.005)),
    )
