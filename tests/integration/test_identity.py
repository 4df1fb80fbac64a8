"""What this host is: made, not derived. Clones of a machine, a name that changes, strangers with names like ours."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from poolmgr import own_tag, tags, wire
from poolmgr.kernel import processes
from tests.clone import Clone, unavailable
from tests.fake_member import Connection, FakeMember, endpoint_of
from tests.helpers import Servers, free_port, python, wait_for
from tests.member_process import Members
from tests.program import Program, Programs
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined

WHY_NOT = unavailable()
needs_namespaces = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)


@pytest.fixture
def clone(short_dir: Path) -> Iterator[Callable[..., Clone]]:
    made: list[Clone] = []

    def make(**options: bool) -> Clone:
        made.append(Clone(short_dir, **options))
        return made[-1]

    yield make
    for each in made:
        each.end()


def answered(member: FakeMember, name: str) -> list[bytes]:
    """What the server says by each of its connections."""
    return [connection.call("PING") for connection in member.open[name]]


# ---- clones -------------------------------------------------------------------------------------------


@pytest.mark.root
@needs_namespaces
def test_a_clone_of_this_machine_kills_nothing_of_it(
    supervisor: Start, pair: Pair, clone: Callable[..., Clone]
) -> None:
    running, server = pair(maxclients=64, port=free_port())
    endpoint = endpoint_of(port=server.port)
    member, name = joined(running, endpoint)
    member.grow(name, 6)
    for _ in range(6):
        member.dial(endpoint)
    other = clone()
    theirs = other.supervisor(running.path)
    try:
        for _ in range(2):
            guest = other.member(running.path).hello(endpoint)
            guest.until(lambda m: m.limits, what="a first limit")
            assert guest.grow(guest.resolved[endpoint.key], 11) == 11, "and is charged nothing of it"
            assert answered(member, name) == [b"+PONG\r\n"] * 6
            assert theirs.server()["quarantine"] == 0
            theirs.kill()
            (Path(theirs.path + ".snapshot")).unlink()
            theirs.start()
    finally:
        theirs.stop()
    assert running.server()["charged"] == member.limit(name)


# ---- the scope ----------------------------------------------------------------------------------------


def test_a_scope_lasts_until_nothing_can_bear_it(pair: Pair, members: Members) -> None:
    """Nobody could prove that what a dead process had is gone; so the next supervisor looks for it."""
    running, server = pair(maxclients=64, port=free_port())
    endpoint = endpoint_of(port=server.port)
    file = Path(running.path + ".scope")
    dies = members(endpoint, 3).has(3)
    (scope,) = {found.scope for client in server.clients() if (found := tags.find(client["name"]))}
    server.stop()
    dies.stop()
    assert running.wait(10) == 0
    assert not Path(running.path + ".snapshot").exists()
    assert running.events("quarantine.unproven")
    assert scope in file.read_text()
    running.start()
    server.start()
    member, _ = joined(running, endpoint)
    assert member.scope == scope
    member.send(wire.Bye())
    assert running.wait(10) == 0
    assert not file.exists()
    running.start()
    assert joined(running, endpoint)[0].scope not in ("", scope)


# ---- the host's name ----------------------------------------------------------------------------------

USES = """
import poolmgr, sys
print(poolmgr.get_client().client_getname(), flush=True)
sys.stdin.read()
"""


def under_another_name() -> list[str]:
    """What runs a program on a host of another name."""
    return ["unshare", "--uts", "sh", "-c", 'hostname of-tomorrow && exec "$@"', "sh"]


@pytest.mark.root
@needs_namespaces
def test_who_starts_after_the_hosts_name_has_changed_is_a_member(pair: Pair, program: Programs) -> None:
    running, server = pair(maxclients=64, port=free_port())
    joined(running, server)
    late = program("-c", USES, before=under_another_name(), REDIS_URL=server.unix_url)
    assert "pm1." in late.says()
    pids = {m["pid"] for m in running.server()["members"] if m["state"] == "live"}
    assert pids == {os.getpid(), late.pid}


@pytest.mark.root
@needs_namespaces
def test_a_supervisor_of_the_hosts_new_name_goes_on_where_the_one_before_was(pair: Pair, members: Members) -> None:
    running, server = pair()
    stays = members(server, 6).has(6)
    running.kill()
    running.command = under_another_name()
    running.start()
    stays.until(lambda s: s["link"] > 1)
    assert running.server()["charged"] >= 6
    assert not running.events("snapshot.unusable")
    assert server.rejected() == 0


# ---- strangers ----------------------------------------------------------------------------------------

PINGS = """
import poolmgr
try:
    print(poolmgr.get_client().ping())
except Exception as error:
    print(error)
"""


def strangers(running: SupervisorProcess, endpoint: wire.Endpoint, count: int) -> list[Connection]:
    """Connections of this process under names like ours: of a process that lives and will never register."""
    own = tags.find(own_tag.make(running.path))
    assert own is not None
    tag = msgspec.structs.replace(own, pid=1, start=processes.start_time(1)).process
    return [Connection(endpoint, f"{tag}-{number}") for number in range(count)]


def test_strangers_with_names_like_ours_are_counted_while_they_are_there(pair: Pair) -> None:
    running, server = pair(maxclients=64, port=free_port())
    endpoint = endpoint_of(port=server.port)
    there = strangers(running, endpoint, 20)
    member, name = joined(running, endpoint)
    assert member.limit(name) == 0
    done = python(
        PINGS,
        environ={"POOLMGR_SOCKET": running.path, "REDIS_URL": server.url, "REDIS_POOL_TIMEOUT": "1"},
    )
    assert "unregistered connections with names like ours: 20" in done.stdout, "the true reason"
    assert any("20 connections bear names like ours" in note for note in running.status()["notes"])
    wait_for(lambda: running.status()["uptime"] > 3, what="they had time to register")
    assert [connection.call("PING") for connection in there] == [b"+PONG\r\n"] * 20, "nobody kills them"
    for connection in there:
        connection.close()
    member.report(name, waiting=11)
    member.until(lambda m: m.limit(name) == 11, 10, what="all is free again")
    assert running.server()["unproven"] == 0


def test_strangers_keep_no_supervisor(pair: Pair) -> None:
    """And the next one finds them too."""
    running, server = pair(maxclients=64)
    there = strangers(running, endpoint_of(server.path), 20)
    for _ in range(2):
        member, name = joined(running, server)
        assert member.limit(name) == 0
        member.send(wire.Bye())
        assert running.wait(10) == 0
        assert not Path(running.path + ".snapshot").exists()
        running.start()
    assert [connection.call("PING") for connection in there] == [b"+PONG\r\n"] * 20
    assert running.events("census.found")


def test_who_bears_a_dead_members_name_elsewhere_is_counted_and_not_killed(pair: Pair, members: Members) -> None:
    """A clone that has this machine's memory has its names too. Only its address tells it apart."""
    running, server = pair(maxclients=64, port=free_port())
    stays, name = joined(running, server)
    stays.obey(name)
    dies = members(server, 3)
    tag = dies.has(3).state["tag"]
    with socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0)) as sock:
        sock.sendall(b"CLIENT SETNAME %s-7\r\n" % tag.encode())
        assert sock.recv(100) == b"+OK\r\n"
        dies.kill()
        wait_for(lambda: running.server()["quarantine"], what="it is noticed")
        wait_for(
            lambda: len(server.clients()) == 2, what="its own connections are gone: there are the eye and the copy"
        )
        sock.sendall(b"PING\r\n")
        assert sock.recv(100) == b"+PONG\r\n"
        assert running.server()["quarantine"]
    wait_for(lambda: running.server()["quarantine"] == 0, 10, what="it is free")


# ---- two supervisors of one host ----------------------------------------------------------------------

HOLDS = """
import poolmgr, sys, threading, time
client = poolmgr.get_client()
print(client.ping(), flush=True)
held = []
for line in sys.stdin:
    for _ in range(int(line)):
        try:
            held.append(client.connection_pool.get_connection())
        except poolmgr.ConnectionPoolTimeoutError:
            break
    print(len(held), flush=True)
"""


class Holder(Program):
    """A process that takes as many connections of its pool as it is told, and keeps them."""

    def __init__(self, path: str, url: str) -> None:
        environ = {"POOLMGR_SOCKET": path, "REDIS_URL": url, "REDIS_CONNECTION_BUDGET": "6", "REDIS_POOL_TIMEOUT": "3"}
        super().__init__("-c", HOLDS, **environ)
        assert self.says() == "True"

    def take(self, count: int) -> int:
        """How many it holds then."""
        return int(self.ask(count))


def test_the_sockets_directory_is_removed_while_its_supervisor_is_stopped(
    short_dir: Path, redis_server: Servers
) -> None:
    """Who comes finds another one, and those of the first one may not open what that gives away."""
    server = redis_server(port=free_port(), maxclients=7)
    directory = short_dir / "run"
    directory.mkdir(mode=0o700)
    running = SupervisorProcess(str(directory / "s"), REDIS_CONNECTION_BUDGET="6", POOLMGR_LINGER="60")
    running.log = short_dir / "log"
    running.start()
    with contextlib.ExitStack() as stack:
        stack.callback(running.stop)
        first = stack.enter_context(Holder(running.path, server.url))
        assert first.take(2) == 2
        wait_for(lambda: running.server()["members"][0]["limit"] >= 4, what="it may open more")
        os.kill(running.pid, signal.SIGSTOP)
        shutil.rmtree(directory)
        directory.mkdir(mode=0o700)
        second = stack.enter_context(Holder(running.path, server.url))
        assert second.take(6) + first.take(6) <= 6
        os.kill(running.pid, signal.SIGCONT)
        assert running.wait(10) == 0, "it notices that it is not the one any more"
        assert server.rejected() == 0


@pytest.mark.root
@needs_namespaces
def test_members_outside_of_the_supervisors_mount_namespace_are_found_when_everything_was_removed(pair: Pair) -> None:
    """systemd's units have namespaces of their own, and RuntimeDirectory= is removed when the socket's unit stops."""
    running, server = pair(port=free_port())
    endpoint = endpoint_of(port=server.port)
    member, name = joined(running, endpoint)
    member.grow(name, 6)
    for _ in range(6):
        member.dial(endpoint)
    running.kill()
    for suffix in ("", ".lock", ".snapshot", ".scope"):
        Path(running.path + suffix).unlink()
    running.command = ["unshare", "--mount"]
    running.start()
    other, _ = joined(running, endpoint)
    assert other.grow(name, 5) == 5
    for _ in range(5):
        assert other.dial(endpoint).answer == b"+OK\r\n"
    assert [event["count"] for event in running.events("census.found")] == [6]
    assert not running.events("server.shared")
    assert server.rejected() == 0


@pytest.mark.root
@needs_namespaces
@pytest.mark.parametrize("budget", ["auto", "12"])
def test_two_supervisors_of_one_host_that_cannot_see_each_other_say_so(
    supervisor: Start, pair: Pair, clone: Callable[..., Clone], budget: str
) -> None:
    """systemd's PrivateTmp=: the same path leads each of them elsewhere."""
    running, server = pair(budget, maxclients=48, port=free_port(), HASTY="upstreams.schedule.LIST_EVERY=0.2")
    endpoint = endpoint_of(port=server.port)
    member, name = joined(running, endpoint)
    for _ in range(3):
        member.dial(endpoint)
    member.report(name, open=3, in_use=3)
    other = clone(boot=False)
    theirs = other.supervisor(running.path, budget, HASTY="upstreams.schedule.LIST_EVERY=0.2", POOLMGR_LINGER="60")
    try:
        with Program("-c", USES, before=other.command, REDIS_URL=server.url) as guest:
            assert "pm1." in guest.says()
            for each in (running, theirs):
                wait_for(lambda each=each: each.events("server.shared"), 10, what="it is said")  # type: ignore[misc]
                assert len(each.events("server.shared")) == 1
                (note,) = [note for note in each.status()["notes"] if "another supervisor" in note]
                assert "one POOLMGR_SOCKET, outside of /tmp" in note
                assert each.server()["quarantine"] == 0, "it is charged nothing of the other's"
            share = 20 if budget == "auto" else 12
            wait_for(lambda: [each.server()["budget"] for each in (running, theirs)] == [share, share], 10)
            assert answered(member, name) == [b"+PONG\r\n"] * 3
    finally:
        theirs.stop()
    assert server.rejected() == 0
