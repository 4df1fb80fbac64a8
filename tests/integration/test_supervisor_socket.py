"""The supervisor's socket file removed or replaced while it runs: it can be found again, or says why not."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolmgr import launch, settings, wire
from poolmgr.kernel.lockfile import holder
from poolmgr.kernel.peer import peer
from poolmgr.supervisor.supervisor import TICK
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import ROOT, RedisServer, Servers, alive, kill, wait_for
from tests.integration.test_supervisor_systemd import ACTIVATE
from tests.program import Programs
from tests.supervisor_process import SupervisorProcess


@pytest.fixture
def running(short_dir: Path) -> Iterator[SupervisorProcess]:
    found = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET="12")
    yield found.start()
    found.stop()


@pytest.fixture
def member(running: SupervisorProcess, redis_server: Servers) -> FakeMember:
    """A member that holds three permits and stays."""
    return joined(running, redis_server(maxclients=13), 3)


def joined(running: SupervisorProcess, server: RedisServer, wanted: int) -> FakeMember:
    endpoint = endpoint_of(server.path)
    member = running.member().hello(endpoint)
    member.until(lambda m: m.limits, what="a first limit")
    member.grow(member.resolved[endpoint.key], wanted)
    return member


def still_linked(member: FakeMember) -> bool:
    member.read(0.05)
    return not member.ended


def running_for(member: FakeMember) -> float:
    return float(member.status()["uptime"])


def test_a_socket_that_was_removed_is_made_anew_and_nobody_loses_a_link(
    running: SupervisorProcess, member: FakeMember
) -> None:
    os.unlink(running.path)
    wait_for(running.accepts, what="somebody new finds it")
    assert running.status()["pid"] == running.pid
    assert running.server()["charged"] >= 3
    assert os.stat(running.path).st_mode & 0o777 == 0o600
    assert still_linked(member)
    assert [event["reason"] for event in running.events("socket.restored")] == ["its file was removed"]


def test_a_socket_of_somebody_elses_in_its_place_is_replaced(running: SupervisorProcess, member: FakeMember) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        os.unlink(running.path)
        other.bind(running.path)
        other.listen()
        wait_for(lambda: running.events("socket.restored"))
        assert running.status()["pid"] == running.pid
    assert still_linked(member)


def test_whoever_looks_for_one_meanwhile_finds_this_one(running: SupervisorProcess, member: FakeMember) -> None:
    """It starts a second one, which finds the lock taken and ends."""
    os.unlink(running.path)
    with launch.connect(settings.load()) as sock:
        who = peer(sock)
        assert who is not None
        assert who.pid == running.pid
    assert still_linked(member)


def test_who_had_come_to_the_old_one_is_let_in(running: SupervisorProcess, member: FakeMember) -> None:
    os.kill(running.pid, signal.SIGSTOP)
    late = [running.member() for _ in range(600)]  # more than are let in at a time
    os.unlink(running.path)
    time.sleep(TICK)  # its next look is due before all of them are in
    os.kill(running.pid, signal.SIGCONT)
    wait_for(lambda: running.events("socket.restored"))
    assert late[-1].status()["clients"] >= 600
    for one in late:
        one.close()


def test_something_that_is_no_socket_is_left_alone_until_somebody_removes_it(
    running: SupervisorProcess, member: FakeMember
) -> None:
    path = Path(running.path)
    path.unlink()
    path.write_text("precious")
    (event,) = wait_for(lambda: running.events("socket.astray"))
    assert f"{path} is not a socket: remove it" in event["remedy"]
    wait_for(lambda: any("new processes cannot find" in note for note in member.status()["notes"]), what="a note of it")
    looked = running_for(member)
    wait_for(lambda: running_for(member) > looked + 2 * TICK, what="two more looks")
    assert path.read_text() == "precious"
    path.unlink()
    wait_for(running.accepts, what="somebody new finds it")
    assert running.status()["notes"] == []
    assert len(running.events("socket.astray")) == 1


def test_in_the_end_the_new_one_is_removed_too(running: SupervisorProcess, member: FakeMember) -> None:
    os.unlink(running.path)
    wait_for(running.accepts)
    member.send(wire.Bye())
    assert running.wait() == 0
    assert not [name for name in os.listdir(Path(running.path).parent) if name in ("s", "s.lock", "s.snapshot")]


def test_the_default_directory_goes_with_the_last_that_is_in_it(short_dir: Path) -> None:
    directory = short_dir / f"redis-poolmgr-{os.getuid()}"
    directory.mkdir(mode=0o700)
    for others in (False, True):
        process = SupervisorProcess(str(directory / "s"), POOLMGR_LINGER="0")
        process.log = short_dir / "log"
        if others:
            directory.mkdir(mode=0o700)
            (directory / "token").touch()
        try:
            process.start()
            assert process.wait() == 0
        finally:
            process.stop()
        assert directory.exists() == others


def test_a_socket_of_systemds_is_not_made_anew(short_dir: Path, redis_server: Servers) -> None:
    process = SupervisorProcess(str(short_dir / "s"))
    environ = {**os.environ, "PYTHONPATH": str(ROOT), **process.environ}
    with process.log.open("ab") as log:
        process.process = subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, process.path], env=environ, stdin=subprocess.DEVNULL, stderr=log
        )
    try:
        wait_for(process.accepts)
        member = joined(process, redis_server(maxclients=100), 3)
        os.unlink(process.path)
        (event,) = wait_for(lambda: process.events("socket.astray"))
        assert "systemctl restart poolmgr.socket" in event["remedy"]
        assert any("systemctl restart poolmgr.socket" in note for note in member.status()["notes"])
        assert not Path(process.path).exists()
        assert still_linked(member)
    finally:
        process.stop()


# ---- its whole directory ------------------------------------------------------------------------------

HOLDS = """
import sys
import poolmgr
pool = poolmgr.ConnectionPool.from_url(sys.argv[1], timeout=20)
held = []
for line in sys.stdin:
    held += [pool.get_connection() for _ in range(int(line))]
    print("holds", flush=True)
"""


def test_a_directory_that_was_removed_ends_it_and_a_successor_loses_nothing(
    short_dir: Path, redis_server: Servers, program: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the lock's file gone it cannot know whether another one runs; its members find or start one."""
    server = redis_server(maxclients=13)
    directory = short_dir / "d"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("POOLMGR_SOCKET", str(directory / "s"))
    one, two = (program("-c", HOLDS, server.unix_url, REDIS_CONNECTION_BUDGET="12") for _ in range(2))
    try:
        assert one.ask(4) == two.ask(3) == "holds"
        with launch.connect(settings.load(), start=False) as sock:
            first = peer(sock)
        assert first is not None
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        wait_for(lambda: not alive(first.pid), what="the first one has ended")
        assert one.ask(4) == "holds"  # all that is left: 4 + 4 + 3 and the supervisor's own
        assert len(server.clients()) >= 11
        assert server.rejected() == 0
    finally:
        one.stop()
        two.stop()
        successor = holder(str(directory / "s.lock"))
        if successor > 1:
            kill(successor)
