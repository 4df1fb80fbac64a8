"""A running supervisor, and clients that send whatever they like, in any order, on several links each.

It never ends, never hands out more than the budget, drops only the offender and forgets nobody's
descriptor; and when they are gone, a decent member gets everything.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from poolmgr import own_tag, wire
from tests.fake_member import FakeMember, endpoint_of
from tests.fuzz.messages import HEADER, NASTY, frames, messages
from tests.helpers import RedisServer, wait_for
from tests.member_process import MemberProcess, Members
from tests.supervisor_process import Pair, SupervisorProcess

BUDGET = 12
LINKS = 4
TAG = "pm1.00000000.000000.7.7.00000"
"""What a client says, to be replaced by its own before it is sent."""

EXAMPLES = int(os.environ.get("POOLMGR_FUZZ_EXAMPLES", "40"))

Sent = list[tuple[int, bytes]]


class Client:
    """A process with several links: it sends, hears what it is told, and ends."""

    def __init__(self, path: str, server: str) -> None:
        self.path, self.server = path, server
        self.links: dict[int, socket.socket] = {}
        self.heard: dict[int, wire.Decoder] = {}
        self.limits: dict[int, int] = {}
        """What each link's member was last told for the only server there is."""

    def run(self, sent: Sent, wanted: int = 0) -> int:
        """The most it was allowed at one time. ``wanted``: wait a while for that many."""
        most = 0
        for number, data in sent:
            self.send(number, data)
            self.hear(0.001)
            most = max(most, sum(self.limits.values()))
        heard, enough = 0, time.monotonic() + 5
        while heard < 3 or (most < wanted and time.monotonic() < enough):
            self.hear(0.01)
            heard += 1
            most = max(most, sum(self.limits.values()))
        return most

    def send(self, number: int, data: bytes) -> None:
        if number not in self.links:
            sock = self.links[number] = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(5)
            sock.connect(self.path)
            self.heard[number] = wire.Decoder(wire.FromSupervisor)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.links[number].sendall(data)

    def hear(self, timeout: float = 0.0) -> None:
        while ready := select.select(list(self.links.values()), [], [], timeout)[0]:
            for number in [number for number, sock in self.links.items() if sock in ready]:
                self._receive(number)

    def _receive(self, number: int) -> None:
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self.links[number].recv(1 << 20)
        if not data:
            self.links.pop(number).close()
            self.limits.pop(number, None)
            return
        for message in self.heard[number].feed(data):
            if isinstance(message, wire.Limit) and message.server == self.server:
                self.limits[number] = message.limit


def in_a_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns in a forked process, which is gone then with everything it had."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reader)
            try:
                said = msgspec.msgpack.encode([True, work()])
            except BaseException as problem:
                said = msgspec.msgpack.encode([False, f"{type(problem).__name__}: {problem}"])
            os.write(writer, said)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    fine, value = msgspec.msgpack.decode(data)
    assert fine, value
    return value


@pytest.fixture
def stage(pair: Pair, members: Members) -> Iterator[tuple[SupervisorProcess, RedisServer, MemberProcess]]:
    """A supervisor, the only server, and a decent member that holds one connection all the time."""
    running, server = pair(BUDGET, POOLMGR_LINGER="60")
    yield running, server, members(server, 1).has(1, 20)
    assert server.rejected() == 0


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_no_client_can_end_it_overspend_the_budget_or_hold_up_another(
    stage: tuple[SupervisorProcess, RedisServer, MemberProcess],
) -> None:
    running, server, decent = stage
    endpoint = endpoint_of(server.path)
    lingering = FakeMember(running.path).connect()
    valid = messages((TAG,), (endpoint,))
    sent = st.lists(st.tuples(st.integers(0, LINKS - 1), frames(valid)), max_size=25)
    before = descriptors(running.pid)
    report = wire.Report(endpoint.key, 0, waiting=20, peak=20)
    hello = wire.Hello(TAG, 1, endpoints=(endpoint,))
    # Alone: of several that acknowledge nothing, what is recalled from one for another never comes back.
    hungry: Sent = [(0, wire.encode(said)) for said in (hello, report)]
    greedy: Sent = [(link, wire.encode(said)) for said in (hello, report, report) for link in range(LINKS)]
    allowed: list[int] = []

    @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
    @given(sent)
    @example(hungry)
    @example(greedy)
    @example([(link % LINKS, HEADER.pack(len(body)) + body) for link, body in enumerate(NASTY)])
    def examples(sent: Sent) -> None:
        def work() -> int:
            made = [own_tag.make(running.path) for _ in range(LINKS)]
            mine = [(number, _own(data, made[number])) for number, data in sent]
            return Client(running.path, endpoint.key).run(mine, wanted=BUDGET - 3 if sent == hungry else 0)

        most = in_a_child(work)
        allowed.append(most)
        assert running.running, "it has ended"
        assert most <= BUDGET - 1, f"{most} permits for one client, beside the decent member's"
        assert lingering.ask(wire.Query("status")).ok, "it answers others"

    examples()
    assert max(allowed) >= BUDGET - 3, "whoever asks gets what there is"
    assert lingering.ask(wire.SetBudget(endpoint.key, "reset")).ok
    # All is as if they had never been.
    decent.tell("11")
    decent.until(lambda state: state["open"] == BUDGET - 1, 20)
    wait_for(lambda: descriptors(running.pid) <= before + 8, 10, what="their descriptors are closed")
    text = running.log.read_text()
    assert "Traceback" not in text
    assert '"exception"' not in text
    lingering.close()


def _own(data: bytes, tag: str) -> bytes:
    """Register by a tag that is one's own, of the same process but never the same twice."""
    message = TAG.encode()
    if message not in data:
        return data
    try:
        (found,) = wire.Decoder(wire.FromMember).feed(data)
    except (wire.WireError, ValueError):
        return data
    assert isinstance(found, wire.Hello)
    return wire.encode(msgspec.structs.replace(found, tag=tag))
