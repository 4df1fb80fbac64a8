"""Who may talk to the supervisor, and what a bad client can do: be dropped, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from poolmgr import own_tag, tags, wire
from poolmgr.kernel import processes
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import ROOT, Servers, wait_for
from tests.member_process import Members
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start, SupervisorProcess


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    found = supervisor(12, POOLMGR_LINGER="60")
    # It accepts before it has loaded itself; on a machine that is busy that can take long.
    first = found.member()
    first.send(wire.Ping(1))
    first.until(lambda m: m.last(wire.Pong), 30, "it answers")
    first.close()
    return found


def connect(running: SupervisorProcess) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(running.path)
    return sock


def ends(sock: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(65536):
            pass
    return True


def refusal(member: FakeMember) -> str:
    found = member.until(lambda m: m.last(wire.Refused), what="a refusal")
    member.until(lambda m: m.ended, what="the end")
    return str(found.reason)


def test_the_socket_is_its_owners_only(running: SupervisorProcess) -> None:
    for suffix in ("", ".lock"):
        assert os.stat(running.path + suffix).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x05hello",
        b"\xff\xff\xff\xff",
        b"\x00\x10\x00\x01",
        b"\x00\x00\x00\x01\xc1",
        wire.encode(wire.Welcome(1, 1)),
        b"\x00\x00\x00\x00",
    ],
)
def test_garbage_drops_that_client_and_nobody_else(
    running: SupervisorProcess, redis_server: Servers, garbage: bytes
) -> None:
    endpoint = endpoint_of(redis_server(maxclients=13).path)
    member = running.member().hello(endpoint)
    member.until(lambda m: m.limits)
    with connect(running) as sock:
        sock.sendall(garbage)
        assert ends(sock)
    assert member.ask(wire.Query("status")).ok
    assert running.events("client.malformed")


@pytest.mark.parametrize(
    "nonsense",
    [
        wire.Report("{name}", -1),
        wire.Report("{name}", 1, open=-5),
        wire.Report("{name}", 1, in_use=10**12),
        wire.Report("{name}", 1, waiting=-(2**40)),
        wire.Report("{name}", 1, timeout=float("nan")),
        wire.Report("x" * 5000, 1),
        wire.Lost("{name}", (-1,)),
        wire.Attach(wire.Endpoint("")),
        wire.Attach(wire.Endpoint("tcp://a:99999", host="a", port=99999)),
    ],
    ids=range(9),
)
def test_numbers_that_cannot_be_drop_their_client(
    running: SupervisorProcess, redis_server: Servers, nonsense: wire.Message
) -> None:
    endpoint = endpoint_of(redis_server(maxclients=13).path)
    member = running.member().hello(endpoint)
    member.until(lambda m: m.limits)
    name = member.resolved[endpoint.key]
    if getattr(nonsense, "server", "") == "{name}":
        nonsense = msgspec.structs.replace(nonsense, server=name)
    member.send(nonsense)
    member.until(lambda m: m.ended, what="it is dropped")
    again = running.member()
    again.tag = member.tag
    again.hello(endpoint, link=2)
    again.until(lambda m: m.limits)
    assert again.grow(name, 3) >= 3


def test_a_flood_of_garbage_does_not_flood_the_log(running: SupervisorProcess) -> None:
    rng = random.Random(5)
    for _ in range(200):
        with connect(running) as sock, contextlib.suppress(OSError):
            sock.sendall(b"\x00\x00\x00\x10" + rng.randbytes(200))
            ends(sock)
    assert running.status()["pid"] == running.pid
    assert 1 <= len(running.events("client.malformed")) <= 10


def test_a_process_cannot_register_for_another(running: SupervisorProcess) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            tag = tags.find(own_tag.make(running.path))
            assert tag is not None
            theirs = f"pm1.{tag.place}.{tag.boot}.{other.pid}.{processes.start_time(other.pid)}.{tag.salt}"
            member = FakeMember(running.path, tag=theirs).connect().hello()
            assert "the kernel says" in refusal(member)
        finally:
            other.kill()
    assert not running.events("member.joined")


@pytest.mark.parametrize("part", ["boot", "start"])
def test_a_tag_must_be_of_this_boot_and_process(running: SupervisorProcess, part: str) -> None:
    tag = tags.find(own_tag.make(running.path))
    assert tag is not None
    boot = "0" * 6 if part == "boot" else tag.boot
    start = tag.start + 1 if part == "start" else tag.start
    member = FakeMember(running.path, tag=f"pm1.{tag.place}.{boot}.{tag.pid}.{start}.{tag.salt}")
    assert "your tag" in refusal(member.connect().hello())


def test_a_tag_must_be_one(running: SupervisorProcess) -> None:
    assert refusal(FakeMember(running.path, tag="somebody").connect().hello())
    assert refusal(FakeMember(running.path, tag=own_tag.make(running.path) + "-7").connect().hello())


def test_versions_are_negotiated(running: SupervisorProcess) -> None:
    newer = running.member().hello(versions=(wire.VERSION, wire.VERSION + 5))
    assert newer.until(lambda m: m.last(wire.Welcome)).version == wire.VERSION
    much_newer = running.member().hello(versions=(wire.VERSION + 1, wire.VERSION + 5))
    assert "protocol versions" in refusal(much_newer)


def test_a_member_that_has_not_registered_may_not_report(running: SupervisorProcess) -> None:
    member = running.member()
    member.send(wire.Report("tcp://a:1", 1, open=3))
    assert "hello" in refusal(member)


def test_a_member_cannot_hold_more_than_it_was_told(running: SupervisorProcess, redis_server: Servers) -> None:
    """Claims in a report or acknowledgements of what was never told change no charge."""
    endpoint = endpoint_of(redis_server(maxclients=13).path)
    member = running.member().hello(endpoint)
    member.until(lambda m: m.limits)
    name = member.resolved[endpoint.key]
    charged = running.server()["charged"]
    member.report(name, open=500, in_use=0, acked=10_000)
    member.send(wire.Report("tcp://nowhere:1", 1, open=3))
    member.send(wire.Lost("tcp://nowhere:1", (1, 2)))
    member.send(wire.Trouble("tcp://nowhere:1", "refused"))
    assert member.ask(wire.Query("status")).ok
    assert running.server()["charged"] == charged


def test_a_member_of_another_budget_is_told_in_the_log(running: SupervisorProcess) -> None:
    member = running.member().hello(budget="77")
    assert member.until(lambda m: m.last(wire.Welcome)).budget == "12"
    wait_for(lambda: running.events("member.other_budget"))
    assert running.events("member.other_budget")[0]["theirs"] == "77"


def test_a_client_that_does_not_read_is_dropped(running: SupervisorProcess) -> None:
    with connect(running) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        questions = wire.encode(wire.Query("status")) * 1000
        sock.setblocking(False)
        left = questions

        def dropped() -> object:
            nonlocal left
            with contextlib.suppress(OSError):
                left = left[sock.send(left) :] or questions
            return running.events("client.unread")

        wait_for(dropped, 20, what="it is dropped")
    assert running.status()["pid"] == running.pid


def test_questions_are_answered_without_registering(running: SupervisorProcess) -> None:
    tool = running.member()
    assert tool.ask(wire.Query("limits")).ok
    assert not tool.ask(wire.Query("nonsense")).ok
    assert not tool.ask(wire.SetBudget("nowhere", "5")).ok
    tool.send(wire.Ping(9))
    assert tool.until(lambda m: m.last(wire.Pong)).nonce == 9


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to become somebody else")
def test_another_user_is_turned_away(running: SupervisorProcess) -> None:
    directory = Path(running.path).parent
    directory.chmod(0o711)
    Path(running.path).chmod(0o666)  # the file's mode alone would keep it out
    code = (
        "import os, socket, sys\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM); sock.connect(sys.argv[1])\n"
        "sys.stdout.buffer.write(sock.recv(4096)); sys.stdout.flush()\n"
        "assert sock.recv(10) == b''\n"
    )
    done = subprocess.run([sys.executable, "-c", code, running.path], capture_output=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    (message,) = wire.Decoder(wire.FromSupervisor).feed(done.stdout)
    assert isinstance(message, wire.Refused)
    assert "uid 65534" in message.reason
    assert running.events("client.refused")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a pid namespace")
def test_a_process_of_another_pid_namespace_is_turned_away_with_the_remedy(running: SupervisorProcess) -> None:
    """From inside, the supervisor's namespace is a parent: its pid can be seen. The other way round
    (a supervisor inside, a client outside) the client's pid reads 0."""
    inner = SupervisorProcess(running.path + "i")
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "poolmgr.supervisor"]
    with inner.log.open("ab") as log:
        try:
            inner.process = subprocess.Popen(
                command,
                env={**os.environ, "PYTHONPATH": str(ROOT), **inner.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        except FileNotFoundError:
            pytest.skip("unshare is not installed")
    try:
        try:
            wait_for(inner.accepts, 5)
        except AssertionError:
            pytest.skip(f"no pid namespaces here: {inner.log.read_text()[-200:]}")
        assert "pid namespace" in refusal(inner.member())
    finally:
        children = Path(f"/proc/{inner.pid}/task/{inner.pid}/children").read_text().split()
        for pid in children:
            os.kill(int(pid), 9)
        inner.process.wait(10)


def test_a_thousand_clients_at_once(running: SupervisorProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("too few descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    socks: list[socket.socket] = []
    try:
        for _ in range(1000):
            socks.append(connect(running))
        socks[-1].sendall(wire.encode(wire.Ping(1)))
        assert socks[-1].recv(100)
        assert running.status()["clients"] >= 1000
    finally:
        for sock in socks:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: running.status()["clients"] <= 2, what="they are gone")


def test_running_out_of_descriptors_turns_clients_away_and_nothing_else(short_dir: Path) -> None:
    path = str(short_dir / "few")
    found = SupervisorProcess(path, POOLMGR_LINGER="60")
    with found.log.open("ab") as log:
        found.process = subprocess.Popen(
            ["sh", "-c", f"ulimit -n 160 && exec {sys.executable} -m poolmgr.supervisor"],
            env={**os.environ, "PYTHONPATH": str(ROOT), **found.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    socks = []
    try:
        wait_for(found.accepts, 10)
        for _ in range(300):
            socks.append(connect(found))
        wait_for(lambda: found.events("client.refused"), what="some are refused")
        first = socks[0]
        first.sendall(wire.encode(wire.Ping(1)))
        assert first.recv(100)
        for sock in socks:
            sock.close()
        wait_for(lambda: found.status()["clients"] == 1)
    finally:
        for sock in socks:
            sock.close()
        found.stop()


def test_without_a_descriptor_to_accept_with_members_go_on_and_who_comes_waits(
    running: SupervisorProcess, redis_server: Servers, members: Members
) -> None:
    """The limit is taken away under it, so that accept(2) itself fails."""
    server = redis_server(maxclients=13)
    stays, dies = members(server, 1).has(1), members(server, 6).has(6)
    wait_for(lambda: running.server()["own"] == 1)
    soft, hard = resource.prlimit(running.pid, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{running.pid}/fd")}
    lowest = min(set(range(len(used) + 1)) - used)
    resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        late = running.member()
        late.send(wire.Ping(5))
        wait_for(lambda: running.events("door.exhausted"), what="it cannot accept")
        stays.take(4)
        dies.process.kill()
    finally:
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (soft, hard))
    assert late.until(lambda m: m.last(wire.Pong)).nonce == 5
    stays.take(11)
    assert running.server()["unproven"] == 0
    assert server.rejected() == 0
    assert len(running.events("door.exhausted")) <= 5
    assert "Traceback" not in running.log.read_text()


def test_a_hung_client_holds_up_nobody(running: SupervisorProcess, redis_server: Servers) -> None:
    endpoint = endpoint_of(redis_server(maxclients=13).path)
    half = connect(running)
    half.sendall(b"\x00\x00\x01")  # a header that never ends
    stuck = running.member().hello(endpoint)  # registers, and never reads
    stuck.until(lambda m: m.limits)
    member = running.member()
    member.tag = own_tag.make(running.path)
    watch = Stopwatch()
    member.hello(endpoint)
    member.until(lambda m: m.limits)
    assert watch.fair() < 1
    half.close()
