"""Hosts of a fleet, played by a process: the real lease, the real script in a real server, and no supervisors.

Each host is a task with one connection, as a supervisor has it. :class:`poolmgr.fleet.lease.Lease` says when it asks
and what; the server's script answers; :mod:`poolmgr.supervisor.fleet.fencing` does what one host does for all.
A host also does the rest of what a supervisor does, as often: it meets the server on three connections and makes one
list, looks at its limits, and opens its connection again to see where the address leads
(:mod:`poolmgr.supervisor.upstreams.schedule`). Its workers are a number: what it was granted is handed out at once, and
comes back :data:`HANDOVER` seconds after the lease has asked for it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis

from poolmgr import tags
from poolmgr.fleet import gate, script, source
from poolmgr.fleet.lease import Lease, Terms
from poolmgr.fleet.script import Renewed
from poolmgr.supervisor.fleet import fencing
from poolmgr.supervisor.fleet.table import Table
from poolmgr.supervisor.upstreams import schedule
from poolmgr.supervisor.upstreams.admin import Admin
from poolmgr.supervisor.upstreams.proof import Row, parse
from poolmgr.supervisor.upstreams.resolution import MEETINGS
from poolmgr.wire import Endpoint

HANDOVER = 0.02
PORTS = 20_000
"""Connections from one address."""

LEASE = 10.0
TAG = "pm1.0a1b2c3d.0a1b2c.{pid}.1.abcdef"
SCOPE = "0123456789abcdef"
FACTS = (*(("INFO", part) for part in ("server", "clients", "stats", "replication")), ("PING",))

_pids = itertools.count(1000)


def packed(*commands: Sequence[object]) -> bytes:
    """Commands as the server reads them."""
    return b"".join(hiredis.pack_command(tuple(str(word) for word in command)) for command in commands)  # type: ignore[arg-type]


class Line:
    """A connection of a task's."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._sock: socket.socket | None = None

    async def open(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        self._sock = socket.socket()
        self._sock.setblocking(False)
        await loop.sock_connect(self._sock, ("127.0.0.1", port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def ask(self, *commands: Sequence[object]) -> list[Any]:
        """The replies to commands that are sent in one packet."""
        loop = asyncio.get_running_loop()
        assert self._sock is not None
        await loop.sock_sendall(self._sock, packed(*commands))
        replies = []
        for _ in commands:
            while (reply := self._reader.gets()) is False:
                data = await loop.sock_recv(self._sock, 1 << 20)
                if not data:
                    raise ConnectionError("the server closed the connection")
                self._reader.feed(data)
            replies.append(reply)
        return replies

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class Played:
    """One host.

    Attributes:
        demand: connections that it could use.
        told: what it has handed out to its workers.
        served: when its first worker had a connection whose gate was open; 0: not yet.
        renewals: how many were answered.
    """

    def __init__(self, fleet: Fleet, number: int, demand: int) -> None:
        self.fleet = fleet
        self.demand = demand
        self.told = 0
        self.served = 0.0
        self.renewals = 0
        self.tag = TAG.format(pid=next(_pids))
        self.lease = Lease(
            Terms(lease=LEASE, host=f"pod-{number}"),
            lambda: script.new_name(fleet.name),
            random.Random(number),
            now=time.monotonic(),
        )
        self.lease.on_disk(self.lease.saved())
        self.admin = Line()
        self.worker = Line()
        self._wake = asyncio.Event()
        self._met = False
        self._serial = itertools.count(1)
        self._look_at = self._ask_at = 0.0

    def want(self, demand: int) -> None:
        """It could use so many from now on."""
        self.demand = demand
        self._wake.set()

    def connection_name(self) -> str:
        return tags.name(self.tag, next(self._serial), SCOPE, self.lease.name)

    async def run(self) -> None:
        while True:
            await self.fleet.going.wait()
            now = time.monotonic()
            due = self.lease.due(self.demand)
            if now < due:
                self._wake.clear()
                try:
                    async with asyncio.timeout(due - now):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                continue
            if not self._met:
                await self._meet()
            elif now >= self._ask_at:
                self._ask_at = now + self.fleet.ask_every
                await self._connect()
            await self._renew()
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + self.fleet.look_every
                await self.admin.ask(*FACTS)

    async def _meet(self) -> None:
        """What a supervisor asks at a server that it does not know: where the address leads, and who is there."""
        await self._connect()
        await self.admin.ask(*FACTS)
        await self.admin.ask(("CLIENT", "LIST"))
        for _ in range(MEETINGS + 1):
            await self._connect()
        now, rng = time.monotonic(), self.fleet.rng
        self._ask_at = now + rng.random() * self.fleet.ask_every
        self._look_at = now + rng.random() * self.fleet.look_every
        self._met = True

    async def _connect(self) -> None:
        self.admin.close()
        self.admin = Line()
        await self.admin.open(self.fleet.port)
        name = self.connection_name()
        await self.admin.ask(
            ("CLIENT", "SETNAME", name), ("CLIENT", "SETINFO", "LIB-NAME", name), ("CLIENT", "ID"), ("INFO", "server")
        )

    async def _renew(self) -> None:
        lease, fleet = self.lease, self.fleet
        asked = lease.request(fleet.run_id, self.demand, fleet.budget, fleet.slack, time.monotonic())
        if asked is None:
            return
        (reply,) = await self.admin.ask(("EVALSHA", fleet.sha, 1, fleet.key, *asked.arguments()))
        fleet.renewals += 1
        self.renewals += 1
        joined = not lease.name
        lease.answered(asked.seq, script.answer(reply), time.monotonic())
        if joined and lease.name:
            name = self.connection_name()
            await self.admin.ask(("CLIENT", "SETNAME", name), ("CLIENT", "SETINFO", "LIB-NAME", name))
        if lease.answer is not None and lease.answer.duty:
            await fleet.does_duty(self)
        if lease.limit < self.told:
            await asyncio.sleep(HANDOVER)
        self.told = lease.limit
        lease.settle(self.told, time.monotonic())
        lease.on_disk(lease.saved())
        if not self.served and lease.limit >= 2 and not lease.blocked:
            await self._serve()

    async def _serve(self) -> None:
        """The first connection of a worker, past its gate."""
        assert self.lease.answer is not None
        await self.worker.open(self.fleet.port)
        name = ("CLIENT", "SETNAME", self.connection_name())
        _, records, clock = await self.worker.ask(name, *gate.commands(self.fleet.key, self.lease.name))
        if gate.shut(records, clock, self.lease.table):
            self.worker.close()
        else:
            self.served = time.monotonic()

    def close(self) -> None:
        self.admin.close()
        self.worker.close()


class Fleet:
    """Hosts that share a budget at one server. Use it as an asynchronous context manager, which ends them.

    Attributes:
        renewals: how many were answered.
        lists: seconds for each list that was made for all, as the host with the duty saw it.
    """

    def __init__(self, port: int, name: str, budget: int, demand: int = 2) -> None:
        self.port = port
        self.name = name
        self.key = script.key(name)
        self.budget = budget
        self.slack = max(2, budget // 50)
        self.demand = demand
        self.members: list[Played] = []
        self.rng = random.Random(7)
        self.renewals = 0
        self.lists: list[float] = []
        self.done: list[fencing.Done] = []
        self.going = asyncio.Event()
        """Not set: no host asks anything."""
        self.going.set()
        self._tasks: list[asyncio.Task[None]] = []
        with redis.Redis(port=port) as client:
            about: dict[str, Any] = client.info("server")
            self.run_id = str(about["run_id"])
            self.sha = str(client.script_load(source.text(int(about["redis_version"].partition(".")[0]))))

    @property
    def hosts(self) -> int:
        return len(self.members)

    @property
    def look_every(self) -> float:
        """Seconds between two looks of one host at the server's limits."""
        return max(schedule.LOOK_EVERY, self.hosts / schedule.LOOKS)

    @property
    def ask_every(self) -> float:
        """Seconds until a host opens its connection again, to see where the address leads."""
        return max(schedule.ASK_EVERY, self.hosts / schedule.ASKS)

    def start(self, count: int) -> list[Played]:
        """So many hosts start at once."""
        new = [Played(self, self.hosts + number, self.demand) for number in range(count)]
        self.members += new
        self._tasks += [asyncio.create_task(member.run()) for member in new]
        return new

    async def until(self, met: Callable[[], bool], seconds: float, what: str, every: float = 0.005) -> float:
        """Wait until something holds; how long it took.

        Raises:
            RuntimeError: it does not, or a host has failed.
        """
        began = time.monotonic()
        while not met():
            for task in self._tasks:
                if task.done():
                    task.result()
            if time.monotonic() > began + seconds:
                raise RuntimeError(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(every)
        return time.monotonic() - began

    async def does_duty(self, member: Played) -> None:
        self.done.append(await asyncio.to_thread(self._duty, member))

    def _duty(self, member: Played) -> fencing.Done:
        endpoint = Endpoint(key=f"tcp://127.0.0.1:{self.port}", host="127.0.0.1", port=self.port)
        kept = self._admin(endpoint, member)

        def fresh() -> Admin:
            nonlocal kept
            kept.close()
            kept = self._admin(endpoint, member)
            return kept

        def listed(_: Sequence[int]) -> list[Row]:
            reply = kept.call("CLIENT", "LIST")
            self.lists.append(kept.took)
            return parse(reply)

        try:
            return fencing.perform(Table(self.name), script.mark(self.name), kept, fresh, listed, LEASE, 10.0)
        finally:
            kept.close()

    def _admin(self, endpoint: Endpoint, member: Played) -> Admin:
        made = Admin(endpoint, f"{member.tag}-{next(member._serial)}", 5.0, 10.0, (), SCOPE, member.lease.name)
        made.open()
        return made

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for member in self.members:
            member.close()


def granted(member: Played) -> int:
    """What the table has granted it, as last heard."""
    answer = member.lease.answer
    return answer.grant if isinstance(answer, Renewed) else 0


def hold(port: int, names: Sequence[str]) -> list[socket.socket]:
    """A connection of each name. There are not enough ports for all of them at one address of this machine."""
    held: list[socket.socket] = []
    for start in range(0, len(names), 100):
        some = names[start : start + 100]
        for name in some:
            sock = socket.socket()
            sock.bind((f"127.0.0.{2 + len(held) // PORTS}", 0))
            sock.connect(("127.0.0.1", port))
            sock.sendall(packed(("CLIENT", "SETNAME", name)))
            held.append(sock)
        for sock in held[start:]:
            sock.recv(64)
    return held
