"""``make fuzz SECONDS=60``: frames drawn by coverage (atheris), against the decoder and against the supervisor's
handling of frames, and what callers of the HTTP service may send, drawn by Hypothesis, against real servers. Each in a
process of its own for a third of the time.

The supervisor is the real one, with its ledger and its snapshot, in this process; links are fed by hand, and
servers are never reached. What crashes it is left in a file, and named.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["poolmgr.wire", "poolmgr.budget", "poolmgr.supervisor"]):
    from poolmgr import own_tag, settings as settings_of, wire
    from poolmgr.budget import views
    from poolmgr.kernel import peer
    from poolmgr.supervisor import supervisor as server_of
    from poolmgr.supervisor.clients import link
    from poolmgr.supervisor.disk.singleton import Singleton
    from poolmgr.supervisor.servers.probe import Probe

BUDGET = 12
WORLDS, PIPELINES_A_SECOND = 12, 20
"""Of the property test of the policy: how many, and about how quick."""
ENDPOINT = wire.Endpoint(key="tcp://127.0.0.1:1", host="127.0.0.1", port=1)
LINKS = 4


# ---- the decoder ---------------------------------------------------------------------------------------


def decode(data: bytes) -> None:
    """What is heard does not depend on how it was cut, and nothing but a WireError is raised."""
    kinds: Any = wire.FromMember if len(data) % 2 else wire.FromSupervisor
    cut = data[0] if data else 0
    assert _heard(kinds, [data]) == _heard(kinds, [data[:cut], data[cut:]])


def _heard(kinds: Any, parts: list[bytes]) -> tuple[str, bool]:
    decoder, found = wire.Decoder(kinds), []
    try:
        for part in parts:
            for message in decoder.feed(part):
                found.append(message)  # noqa: PERF402 (what came before the error counts)
    except wire.WireError:
        return repr(found), True
    return repr(found), False


# ---- the supervisor --------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """The other end of a link: hears what is said, and is told nothing by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = wire.Decoder(wire.FromSupervisor)
        self.limits: dict[str, int] = {}
        self.link: link.Link | None = None

    def write(self, data: Any) -> None:
        for message in self.decoder.feed(bytes(data)):
            if isinstance(message, wire.Limit):
                self.limits[message.server] = message.limit

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        link, self.link = self.link, None
        self.limits.clear()
        if link is not None:
            asyncio.get_running_loop().call_soon(link.connection_lost, None)

    abort = close


class Stage:
    """The supervisor and a server that it believes to know."""

    def __init__(self, directory: Path) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        os.environ.update(POOLMGR_SOCKET=str(directory / "s"), REDIS_CONNECTION_BUDGET=str(BUDGET))
        Probe.start = lambda self: None  # type: ignore[method-assign]
        self.loop.run_until_complete(self._build(str(directory / "s")))

    async def _build(self, path: str) -> None:
        singleton = Singleton(path)
        self.supervisor = server_of.Supervisor(settings_of.load(), singleton, singleton.listen())
        self.upstream = self.supervisor.registry.upstream_for(ENDPOINT)
        assert self.upstream is not None
        self.upstream.resolved = True
        self.supervisor.ledger.set_budget(self.upstream.id, BUDGET, 0.0)
        self.supervisor.ledger.hold_raises(self.upstream.id, False)
        self.process = own_tag.make(path).rpartition(".")[0]
        self.born = 0

    def play(self, data: bytes) -> None:
        self.loop.run_until_complete(self._play(data))

    async def _play(self, data: bytes) -> None:
        """Pieces: a byte for the link, one for the length, a body; the topmost bit of the first: it registers."""
        members = self.supervisor.members
        wires = [Wire() for _ in range(LINKS)]
        stated, budget = False, BUDGET
        while len(data) > 1:
            number, body, data = data[0], data[2 : 2 + data[1]], data[2 + data[1] :]
            one = wires[number % LINKS]
            if one.link is None:
                one.link = link.Link(peer.Peer(os.getpid(), os.getuid(), os.getgid()), members, 0.0)
                one.link.connection_made(one)
            if number & 0x80:
                self.born += 1
                greeting = wire.Hello(f"{self.process}.{self.born:06x}", len(body), endpoints=(ENDPOINT,))
                body = wire.encode(greeting)[4:]
            stated = stated or b"stated" in body
            one.link.data_received(len(body).to_bytes(4, "big") + body)
            await asyncio.sleep(0)
            views.check(self.supervisor.ledger)
            told = sum(limit for one in wires for limit in one.limits.values())
            budget = max(budget, *(server.budget for server in self.supervisor.ledger.servers.values()))
            assert stated or told <= budget, f"{told} permits of {budget}"
        for one in wires:
            one.close()
        await asyncio.sleep(0)
        for tag in [*self.supervisor.roster.known]:
            members.gone(tag)
        for entry in self.supervisor.ledger.quarantined():
            self.supervisor.ledger.proven(entry.server, entry.tag, self.supervisor.turns.clock())
        self.supervisor.registry.set_budget(ENDPOINT.key, "reset")
        self.supervisor.turns.run()


# ---- the command -------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--target", choices=["decoder", "supervisor"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.target:
        return fuzz(arguments.target, arguments.seconds)
    failed = 0
    for target in ("decoder", "supervisor"):
        command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--seconds", str(arguments.seconds / 3)]
        failed |= subprocess.run(command).returncode
    failed |= fuzz_policy(arguments.seconds / 3)
    print("FAILED" if failed else "passed")
    return 1 if failed else 0


def fuzz_policy(seconds: float) -> int:
    """The property tests of the policy, with as many draws as fit, and of what no output may show."""
    examples = max(10, int(seconds * PIPELINES_A_SECOND / WORLDS))
    print(f"policy: {WORLDS} worlds, {examples} pipelines each", flush=True)
    command = [sys.executable, "-m", "pytest", "-q", "tests/integration/test_http_properties.py"]
    command.append("tests/unit/test_redaction.py")
    return subprocess.run(command, env={**os.environ, "POOLMGR_FUZZ_EXAMPLES": str(examples)}).returncode


def fuzz(target: str, seconds: float) -> int:
    """Never returns: libFuzzer ends the process."""
    directory = Path(tempfile.mkdtemp(prefix="pmf"))
    try:
        corpus = directory / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds(target)):
            (corpus / str(number)).write_bytes(seed)
        work = decode if target == "decoder" else Stage(directory).play
        options = [f"-max_total_time={seconds:.0f}", "-max_len=2000", "-timeout=10", f"-artifact_prefix=fuzz-{target}-"]
        print(f"{target}: {seconds:.0f} s", flush=True)
        atheris.Setup([sys.argv[0], *options, "-print_final_stats=1", "-verbosity=0", str(corpus)], work)
        atheris.Fuzz()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return 0


def seeds(target: str) -> list[bytes]:
    """One of each message, and what has been trouble, in the shape that the target reads."""
    from tests.fuzz.messages import NASTY

    said = [
        wire.Hello("tag", 1, holds=(wire.Hold(ENDPOINT.key, (ENDPOINT.key,), 3, 2),), endpoints=(ENDPOINT,)),
        wire.Attach(ENDPOINT),
        wire.Report(ENDPOINT.key, 1, open=2, in_use=1, waiting=4, peak=5, spare=1, ceiling=9),
        wire.Lost(ENDPOINT.key, (1, 2)),
        wire.Trouble(ENDPOINT.key, "refused", "max number of clients reached"),
        wire.Stats(ENDPOINT.key, "pool", wire.Counters(checkouts=3, timeouts={"budget": 1}), idle=1),
        wire.Ping(7),
        wire.Bye(),
        wire.Query("status"),
        wire.SetBudget(ENDPOINT.key, "auto"),
    ]
    bodies = [wire.encode(message)[4:] for message in said] + list(NASTY)
    if target == "decoder":
        frames = [len(body).to_bytes(4, "big") + body for body in bodies]
    else:
        frames = [b"\x80\x01.\x00" + bytes([len(body)]) + body for body in bodies if len(body) < 256]
    return [*frames, b"".join(frames)]


if __name__ == "__main__":
    sys.exit(main())
