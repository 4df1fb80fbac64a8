"""Members of a real supervisor: how they join and leave, and what is left of those that end (rules S2 and S3)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest

from poolmgr import wire
from tests.debugger import held
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import Servers, alive, free_port, kill, stopped, wait_for
from tests.member_process import Members
from tests.program import Programs
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Pair, Start, joined

# ---- joining and leaving ------------------------------------------------------------------------------


def test_a_member_joins_grows_and_leaves_and_nothing_is_left_behind(pair: Pair, short_dir: Path) -> None:
    running, server = pair(POOLMGR_LINGER="60")
    member, name = joined(running, server)
    assert member.grow(name, 8) >= 8
    state = running.server()
    assert (state["budget"], state["own"], state["health"]["up"]) == (12, 1, True)
    assert state["charged"] == member.limit(name)
    member.send(wire.Bye())
    watch = Stopwatch()
    assert running.wait() == 0
    assert watch.fair() < 5, "after a goodbye it does not linger"
    left = {path.name for path in short_dir.iterdir()} - {running.log.name}
    assert not [name for name in left if name.startswith("s")], left
    assert server.rejected() == 0


def test_it_lingers_for_a_member_that_comes_back(supervisor: Start, redis_server: Servers, members: Members) -> None:
    server, running = redis_server(maxclients=13), supervisor(12, POOLMGR_LINGER="0.4")
    before, _ = joined(running, server)  # on a busy machine a process takes longer than that to come
    first = members(server, 1).has(1)
    before.send(wire.Bye())
    wait_for(lambda: running.events("member.left"))
    watch = Stopwatch()
    first.kill()
    assert running.wait() == 0
    assert watch.seconds() > 0.3 and watch.fair() < 3


@pytest.mark.parametrize("last", ["none came", "a member", "a service"])
def test_one_that_lingers_forever_outlives_its_last_client(pair: Pair, last: str) -> None:
    """As a container of its own: an end there would be a failure, and each start another one."""
    hasty = "supervisor.FIRST_CLIENT=0.2 supervisor.BRIEFLY=0.2"
    running, server = pair(POOLMGR_LINGER="forever", HASTY=hasty)
    if last != "none came":
        master = running.member()
        member, _ = joined(running, server)
        member.send(wire.Bye())
        wait_for(lambda: running.events("member.left"))
        if last == "a service":
            master.send(wire.Bye())
        master.close()
    time.sleep(1.2)  # it looks for its end twice a second
    assert running.running, running.events()
    assert running.terminate() == 0


# ---- ends of members ------------------------------------------------------------------------------------


def test_a_killed_members_permits_are_free_when_the_server_agrees(pair: Pair, members: Members) -> None:
    """At once: it takes no turn of what looks from time to time."""
    running, server = pair(HASTY="supervisor.TICK=3600")
    stays = members(server, 1).has(1)
    dies = members(server, 9).has(9)
    stays.tell("11")
    stays.until(lambda s: s["limit"] == 2)
    dies.process.kill()
    stays.has(11)
    dies.process.wait()
    assert running.server()["unproven"] == 0
    assert server.rejected() == 0


def test_connections_that_a_child_inherited_are_fenced(pair: Pair, members: Members) -> None:
    """The member dies, its sockets live on in a child: the server keeps the connections until killed."""
    running, server = pair()
    stays = members(server, 1).has(1)
    dies = members(server, 6, "fork")
    tag = dies.has(6).state["tag"]
    dies.kill()
    wait_for(lambda: running.server()["quarantine"] == 0, what="the quarantine is proven")
    assert not [client for client in server.clients() if tag in client["name"]]
    stays.take(11)
    assert server.rejected() == 0
    assert running.server()["unproven"] == 0


def test_a_process_that_becomes_another_program_is_gone(pair: Pair, members: Members) -> None:
    """exec keeps pid, start time and pidfd; here even the connections are kept open."""
    running, server = pair()
    stays = members(server, 1).has(1)
    execs = members(server, 6)
    tag = execs.has(6).state["tag"]
    execs.tell("exec")
    wait_for(lambda: not [c for c in server.clients() if tag in c["name"]], 5, what="its connections are fenced")
    assert alive(execs.pid)
    stays.take(11)
    assert server.rejected() == 0
    assert running.events("member.gone")


def test_a_link_that_closes_proves_nothing(pair: Pair) -> None:
    running, server = pair(POOLMGR_LINGER="60")
    member, name = joined(running, server)
    charged = member.grow(name, 5)
    member.close()
    wait_for(lambda: running.server()["members"][0]["state"] == "live" and running.status()["clients"] == 1)
    time.sleep(0.6)  # it looks at the process again after the end of its link
    (still,) = running.server()["members"]
    assert (still["tag"], still["charge"]) == (member.tag, charged)
    assert running.server()["quarantine"] == 0


def test_an_older_registration_is_ignored(pair: Pair) -> None:
    running, server = pair()
    member, name = joined(running, server)
    member.grow(name, 5)
    late = FakeMember(running.path, tag=member.tag).connect()
    late.hello(endpoint_of(server.path), link=1)
    late.until(lambda m: m.ended, what="it is dropped")
    assert running.server()["charged"] == member.limit(name)
    newer = FakeMember(running.path, tag=member.tag).connect()
    newer.hello(endpoint_of(server.path), link=2)
    newer.until(lambda m: m.limits, what="the newer link is answered")
    member.until(lambda m: m.ended, what="the older link is dropped")


TALKS = """
import socket, sys
from poolmgr import wire
from poolmgr import tags
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.supervisor.disk.snapshot import Writer, mark, marked
from tests.fake_member import FakeMember, endpoint_of
member = FakeMember(sys.argv[1]).connect().hello(endpoint_of(sys.argv[2]))
member.until(lambda m: m.limits)
name = next(iter(member.limits))
member.grow(name, 3)
print("holds", flush=True)
sys.stdin.readline()
member.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 212992)
report = wire.encode(wire.Report(name, member.limits[name][0]))
talk = report * (int(sys.argv[3]) // len(report))
member.sock.setblocking(False)
sent = member.sock.send(talk)  # a Unix socket takes all of it or blocks
member.sock.sendall(talk[sent:] + wire.encode(wire.Bye()))
print(len(talk), flush=True)
"""
"""A member that says a lot and then goodbye, and ends."""


def test_a_goodbye_is_heard_though_the_process_has_ended_since(pair: Pair, members: Members, program: Programs) -> None:
    """The end of a process is seen at once, its last words only after all that came before them."""
    running, server = pair()
    members(server, 1).has(1)
    at_once = 256 * 1024  # what the event loop reads at a time
    leaves = program("-c", TALKS, running.path, server.path, at_once + 4096)
    assert leaves.says() == "holds"
    with stopped(running.pid):
        assert int(leaves.ends("go\n")) > at_once
    wait_for(lambda: running.events("member.left") or running.events("member.gone"))
    assert [event["member"] for event in running.events("member.left")] == [leaves.pid]
    assert not running.events("member.gone")
    assert running.server()["quarantine"] == 0


def test_a_lost_socket_is_killed_and_its_permit_returned_by_proof(pair: Pair) -> None:
    running, server = pair()
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 4)
    lost, kept = member.dial(endpoint_of(server.path)), member.dial(endpoint_of(server.path))
    member.send(wire.Lost(name, (1, 77)))
    member.until(lambda m: m.gone == {1, 77})
    with contextlib.suppress(ConnectionResetError):
        assert lost.sock.recv(10) == b"", "the server has closed it"
    assert kept.call("PING") == b"+PONG\r\n"


HOLDS_THREE = """if True:
    import os, time, poolmgr
    pool = poolmgr.ConnectionPool.from_url(os.environ["URL"])
    connections = [pool.get_connection() for _ in range(3)]
    print("has them", flush=True)
    time.sleep(1000)
"""


def test_one_that_is_killed_in_a_debuggers_hands_holds_nothing(pair: Pair, program: Programs) -> None:
    """The debugger has not taken note of its end, so its pidfd says that it is there."""
    running, server = pair(8, maxclients=10, port=free_port(), POOLMGR_LINGER="60")
    member = program("-c", HOLDS_THREE, URL=server.url)
    assert member.says() == "has them"
    with held(member.pid):
        kill(member.pid)
        wait_for(lambda: running.server()["charged"] + running.server()["quarantine"] == 0, 20, what="all is free")
    assert server.rejected() == 0
