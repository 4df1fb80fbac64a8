"""The world of addresses: its faults, and its course."""

from __future__ import annotations

import random
from unittest.mock import patch

from poolmgr import settings
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.member.core import directory
from tests.simulation.clock import Clock
from tests.simulation.places.checks import SETTLED, Checks, Violation
from tests.simulation.places.process import Process, Server
from tests.simulation.places.supervisor import Clerk

FORGET_AFTER = 0.01, 0.01, 0.3
"""Seconds after which a member says goodbye to what it does not use: short, so that goodbyes are frequent here; or
longer than a server takes to part and to be united again."""


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
        self.resting = False
        self.moved = -100.0
        self._supervisors = self._tags = 0
        self._turns: dict[str, int] = {}
        self.checks = Checks(self)
        self.faults = 0

    # ---- used by all parts -----------------------------------------------------------------------

    def delay(self, scale: float) -> float:
        if self.slow and self.rng.random() < self.slow:
            return scale * 20 * self.rng.random()
        return scale * 2 * self.rng.random()

    def repeats(self) -> bool:
        return False

    def note(self, text: str) -> None:
        pass

    def lives(self, identity: Identity) -> bool:
        return identity.tag in self.processes

    def leads_to(self, key: str) -> Server:
        return self.rng.choice(self.addresses[key])

    def asks(self, key: str) -> Server:
        """Likewise, for who asks it who it is: that not all answers are the same by chance is taken for granted."""
        servers, turn = self.addresses[key], self._turns.get(key, 0)
        self._turns[key] = turn + 1
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
        self.checks.outstanding.clear()
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
        with patch.object(directory, "FORGET_AFTER", self.forget_after):
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
        self.checks.partition()
        self.checks.whole()

    def until(self, when: float) -> None:
        self.clock.until(when, self.checks.step)

    @property
    def steps(self) -> int:
        return self.clock.steps


def failure(seed: int) -> str:
    """How that seed's world fails; empty if it does not."""
    try:
        World(seed).run()
    except (Violation, AssertionError) as error:
        return str(error) or type(error).__name__
    return ""
