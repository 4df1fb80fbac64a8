"""Frames against the supervisor: the real one, with its ledger and its snapshot, in this process. Links are fed by
hand, and servers are never reached. Nothing breaks it, and it grants no more than the budget."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from poolmgr import own_tag, settings as settings_of, wire
from poolmgr.kernel import peer
from poolmgr.supervisor import supervisor as server_of
from poolmgr.supervisor.clients import link
from poolmgr.supervisor.disk.singleton import Singleton
from poolmgr.supervisor.upstreams.probe import Probe
from tests import invariant

BUDGET = 12
ENDPOINT = wire.Endpoint(key="tcp://127.0.0.1:1", host="127.0.0.1", port=1)
LINKS = 4
FROM_MEMBER = msgspec.msgpack.Decoder(wire.FromMember)


class Wire(asyncio.Transport):
    """The other end of a link: hears what is said, and is told nothing by itself.

    Attributes:
        told: for each server the limits that it may still act by, with their sequences: what it has not acknowledged
            yet does not lower what it holds (rule M2).
    """

    def __init__(self) -> None:
        super().__init__()
        self.decoder = wire.Decoder(wire.FromSupervisor)
        self.told: dict[str, list[tuple[int, int]]] = {}
        self.link: link.Link | None = None

    def write(self, data: Any) -> None:
        for message in self.decoder.feed(bytes(data)):
            if isinstance(message, wire.Limit):
                self.told.setdefault(message.server, []).append((message.seq, message.limit))

    def said(self, body: bytes) -> None:
        """What is sent to the supervisor, if that takes it: an acknowledgement ends the limits before it."""
        with contextlib.suppress(msgspec.MsgspecError, ValueError, RecursionError):
            message = FROM_MEMBER.decode(body)
            if self.link is not None and isinstance(message, wire.Report) and message.server in self.told:
                told = self.told[message.server]
                if message.acked <= told[-1][0]:
                    self.told[message.server] = [one for one in told if one[0] >= message.acked]

    def held(self) -> int:
        """How many connections it may have open."""
        return sum(max(limit for _, limit in told) for told in self.told.values())

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        link, self.link = self.link, None
        self.told.clear()
        if link is not None:
            asyncio.get_running_loop().call_soon(link.connection_lost, None)

    abort = close


class Target:
    """The supervisor and a server that it believes to know."""

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="pmf")
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        path = str(Path(self._directory) / "s")
        os.environ.update(POOLMGR_SOCKET=path, REDIS_CONNECTION_BUDGET=str(BUDGET))
        Probe.start = lambda self: None  # type: ignore[method-assign]
        self.loop.run_until_complete(self._build(path))

    def close(self) -> None:
        shutil.rmtree(self._directory)

    async def _build(self, path: str) -> None:
        singleton = Singleton(path)
        self.supervisor = server_of.Supervisor(settings_of.load(), singleton, singleton.listen())
        self.upstream = self.supervisor.registry.upstream_for(ENDPOINT)
        assert self.upstream is not None
        self.upstream.resolved, self.upstream.run_id = True, "1" * 40  # else a new process has it resolved again
        self.supervisor.ledger.set_budget(self.upstream.id, BUDGET, 0.0)
        self.supervisor.ledger.hold_raises(self.upstream.id, False)
        self.process = own_tag.make(path).rpartition(".")[0]
        self.born = 0
        self.most = 0
        """Permits that have been granted at one time, at most: a target that grants none finds nothing."""

    def play(self, data: bytes) -> None:
        self.loop.run_until_complete(self._play(data))

    async def _play(self, data: bytes) -> None:
        """Pieces: a byte for the link, one for the length, a body; the topmost bit of the first: it registers."""
        registrar = self.supervisor.registrar
        wires = [Wire() for _ in range(LINKS)]
        stated, budget = False, BUDGET
        while len(data) > 1:
            number, body, data = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
            one = wires[number % LINKS]
            if one.link is None:
                one.link = link.Link(peer.Peer(os.getpid(), os.getuid(), os.getgid()), registrar, 0.0)
                one.link.connection_made(one)
            if number & 0x80:
                self.born += 1
                greeting = wire.Hello(f"{self.process}.{self.born:06x}", len(body), endpoints=(ENDPOINT,))
                body = wire.encode(greeting)[4:]
            stated = stated or b"stated" in body
            one.link.data_received(len(body).to_bytes(4, "big") + body)
            await asyncio.sleep(0)
            invariant.check(self.supervisor.ledger)
            one.said(body)
            told = sum(one.held() for one in wires)
            self.most = max(self.most, told)
            budget = max(budget, *(server.budget for server in self.supervisor.ledger.servers.values()))
            told += sum(server.own + server.quarantined for server in self.supervisor.ledger.servers.values())
            assert stated or told <= budget, f"{told} permits are out, of {budget}"
        for one in wires:
            one.close()
        await asyncio.sleep(0)
        for tag in [*self.supervisor.roster.known]:
            registrar.gone(tag)
        for entry in self.supervisor.ledger.quarantined():
            self.supervisor.ledger.proven(entry.server, entry.tag, self.supervisor.committer.clock())
        self.supervisor.registry.set_budget(ENDPOINT.key, "reset")
        self.supervisor.committer.run()
