"""A real supervisor with real members: joining, shares, ends, crashes, restarts (rules S1 to S5)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolmgr import identity, wire
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.supervisor.book import GRACE
from poolmgr.supervisor.snapshot import Writer, mark, marked
from tests.fake_member import FakeMember, MemberProcess, endpoint_of
from tests.helpers import ROOT, RedisServer, alive, free_port, wait_for
from tests.supervisor_process import SupervisorProcess

Servers = Callable[..., RedisServer]


@pytest.fixture
def supervisor(short_dir: Path) -> Iterator[Callable[..., SupervisorProcess]]:
    made: list[SupervisorProcess] = []

    def start(budget: object = 12, **environ: str) -> SupervisorProcess:
        found = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET=str(budget), **environ)
        made.append(found)
        return found.start()

    yield start
    for process in made:
        process.stop()


@pytest.fixture
def members(short_dir: Path) -> Iterator[Callable[..., MemberProcess]]:
    made: list[MemberProcess] = []

    def start(server: RedisServer, demand: int, *options: str) -> MemberProcess:
        found = MemberProcess(str(short_dir / "s"), endpoint_of(server.path), demand, *options)
        made.append(found)
        return found

    yield start
    for member in made:
        member.stop()


Start = Callable[..., SupervisorProcess]
Members = Callable[..., MemberProcess]


def joined(supervisor: SupervisorProcess, server: RedisServer) -> tuple[FakeMember, str]:
    """A member driven by hand that has its first limit, and the server's id."""
    endpoint = endpoint_of(server.path)
    member = supervisor.member().hello(endpoint)
    member.until(lambda m: m.limits, what="a first limit")
    return member, member.resolved[endpoint.key]


# ---- joining and leaving ------------------------------------------------------------------------------


def test_a_member_joins_grows_and_leaves_and_nothing_is_left_behind(
    supervisor: Start, redis_server: Servers, short_dir: Path
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member, name = joined(running, server)
    assert member.grow(name, 8) >= 8
    state = running.server()
    assert (state["budget"], state["own"], state["health"]["up"]) == (12, 1, True)
    assert state["charged"] == member.limit(name)
    member.send(wire.Bye())
    began = time.monotonic()
    assert running.wait() == 0
    assert time.monotonic() - began < 0.9, "after a goodbye it does not linger"
    left = {path.name for path in short_dir.iterdir()} - {running.log.name}
    assert not [name for name in left if name.startswith("s")], left
    assert server.rejected() == 0


def test_it_lingers_for_a_member_that_comes_back(supervisor: Start, redis_server: Servers, members: Members) -> None:
    running = supervisor(12, POOLMGR_LINGER="0.4")
    first = members(redis_server(maxclients=13), 1)
    first.until(lambda s: s["open"] == 1)
    first.kill()
    began = time.monotonic()
    assert running.wait() == 0
    assert 0.3 < time.monotonic() - began < 3


def test_the_second_of_two_supervisors_ends_at_once(supervisor: Start) -> None:
    running = supervisor()
    others = [running.spawn(running.environ) for _ in range(3)]
    assert [other.wait(10) for other in others] == [0, 0, 0]
    assert running.running
    assert running.status()["pid"] == running.pid


def test_of_twenty_started_at_once_one_survives(short_dir: Path) -> None:
    one = SupervisorProcess(str(short_dir / "s"), POOLMGR_LINGER="60")
    processes = [one.spawn({**one.environ}) for _ in range(20)]
    try:
        wait_for(lambda: sum(p.poll() is None for p in processes) == 1, 30, what="one survives")
        assert sorted(p.poll() or 0 for p in processes) == [0] * 20
        wait_for(one.accepts)
        assert one.status()["pid"] in [p.pid for p in processes if p.poll() is None]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_a_stale_socket_file_is_replaced(supervisor: Start, redis_server: Servers) -> None:
    running = supervisor()
    running.kill()
    assert Path(running.path).exists()
    running.start()
    member, name = joined(running, redis_server(maxclients=13))
    assert member.limit(name) > 0


def test_something_that_is_no_socket_is_not_removed(short_dir: Path) -> None:
    path = short_dir / "s"
    path.write_text("precious")
    process = SupervisorProcess(str(path))
    assert process.spawn(process.environ).wait(10) == 1
    assert path.read_text() == "precious"
    assert "is no socket" in process.log.read_text()


def test_two_names_of_one_server_share_its_budget(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13, port=free_port())
    running = supervisor(12)
    member, name = joined(running, server)
    member.grow(name, 6)
    tcp = endpoint_of(port=server.port)
    member.attach(tcp)
    member.until(lambda m: tcp.key in m.resolved, what="the other name is resolved")
    assert member.resolved[tcp.key] == name
    state = running.server()
    assert set(state["aliases"]) == {name, tcp.key}
    assert server.rejected() == 0


def test_an_alias_is_resolved_within_a_budget_that_is_used_up(supervisor: Start, redis_server: Servers) -> None:
    """The question itself holds a connection: it borrows the permit, by recall if it must."""
    server = redis_server(maxclients=11, port=free_port())  # 10 and the observer
    running = supervisor(10)
    member, name = joined(running, server)
    member.grow(name, 9)
    connections = [member.dial(endpoint_of(server.path)) for _ in range(9)]
    assert all(c.answer == b"+OK\r\n" for c in connections)
    tcp = endpoint_of(port=server.port)
    member.attach(tcp)
    member.until(lambda m: m.limit(name) < 9, what="one is recalled")
    assert server.rejected() == 0
    member.open[name].pop().close()
    member.report(name, in_use=8)
    member.until(lambda m: m.resolved.get(tcp.key) == name, what="resolved")
    assert server.rejected() == 0


def test_two_servers_have_budgets_of_their_own(supervisor: Start, redis_server: Servers) -> None:
    one, two = redis_server(maxclients=13), redis_server(maxclients=13)
    running = supervisor(12, REDIS_CONNECTION_BUDGETS=f"unix://{two.path}=5")
    member, first = joined(running, one)
    member.attach(endpoint_of(two.path))
    second = f"unix://{two.path}"
    member.until(lambda m: second in m.limits, what="a limit at the second")
    budgets = {state["id"]: state["budget"] for state in running.status()["servers"]}
    assert budgets == {first: 12, second: 5}


# ---- crashes of members ---------------------------------------------------------------------------------


def test_a_killed_members_permits_are_free_when_the_server_agrees(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays = members(server, 1)
    stays.until(lambda s: s["open"] == 1)
    taken = []
    for _ in range(5):
        dies = members(server, 9)
        dies.until(lambda s: s["open"] == 9)
        stays.tell("11")
        stays.until(lambda s: s["limit"] == 2)
        dies.process.kill()
        began = time.monotonic()
        stays.until(lambda s: s["open"] == 11)
        taken.append(time.monotonic() - began)
        dies.process.wait()
        stays.tell("1")
        stays.until(lambda s: s["open"] == 1)
    assert sorted(taken)[2] < 0.05, taken
    assert running.server()["unproven"] == 0
    assert server.rejected() == 0


def test_connections_that_a_child_inherited_are_fenced(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    """The member dies, its sockets live on in a child: the server keeps the connections until killed."""
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays = members(server, 1)
    stays.until(lambda s: s["open"] == 1)
    dies = members(server, 6, "fork")
    tag = dies.until(lambda s: s["open"] == 6)["tag"]
    dies.kill()
    wait_for(lambda: running.server()["quarantine"] == 0, what="the quarantine is proven")
    assert not [client for client in server.clients() if tag in client["name"]]
    stays.tell("11")
    stays.until(lambda s: s["open"] == 11)
    assert server.rejected() == 0
    assert running.server()["unproven"] == 0


def test_a_process_that_becomes_another_program_is_gone(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    """exec keeps pid, start time and pidfd; here even the connections are kept open."""
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays = members(server, 1)
    stays.until(lambda s: s["open"] == 1)
    execs = members(server, 6)
    tag = execs.until(lambda s: s["open"] == 6)["tag"]
    execs.tell("exec")
    wait_for(lambda: not [c for c in server.clients() if tag in c["name"]], 5, what="its connections are fenced")
    assert alive(execs.pid)
    stays.tell("11")
    stays.until(lambda s: s["open"] == 11)
    assert server.rejected() == 0
    assert running.events("member.gone")


def test_a_link_that_closes_proves_nothing(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12, POOLMGR_LINGER="60")
    member, name = joined(running, server)
    charged = member.grow(name, 5)
    member.close()
    wait_for(lambda: running.server()["members"][0]["state"] == "live" and running.status()["clients"] == 1)
    time.sleep(0.6)  # it looks at the process again after the end of its link
    (still,) = running.server()["members"]
    assert (still["tag"], still["charge"]) == (member.tag, charged)
    assert running.server()["quarantine"] == 0


def test_an_older_registration_is_ignored(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
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
from poolmgr import identity, wire
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.supervisor.snapshot import Writer, mark, marked
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


def test_a_goodbye_is_heard_though_the_process_has_ended_since(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    """The end of a process is seen at once, its last words only after all that came before them."""
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays = members(server, 1)
    stays.until(lambda s: s["open"] == 1)
    at_once = 256 * 1024  # what the event loop reads at a time
    with subprocess.Popen(
        [sys.executable, "-c", TALKS, running.path, server.path, str(at_once + 4096)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as leaves:
        assert leaves.stdout is not None
        assert leaves.stdout.readline() == "holds\n"
        os.kill(running.pid, signal.SIGSTOP)
        said, _ = leaves.communicate("go\n", timeout=10)
        assert int(said) > at_once
        os.kill(running.pid, signal.SIGCONT)
    wait_for(lambda: running.events("member.left") or running.events("member.gone"))
    assert [event["member"] for event in running.events("member.left")] == [leaves.pid]
    assert not running.events("member.gone")
    assert running.server()["quarantine"] == 0


# ---- crashes of the supervisor --------------------------------------------------------------------------


def test_a_killed_supervisor_is_succeeded_and_nothing_is_overspent(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    first, second = members(server, 6), members(server, 5)
    first.until(lambda s: s["open"] == 6)
    second.until(lambda s: s["open"] == 5)
    for _ in range(3):
        running.kill()
        running.start()
        first.until(lambda s: s["open"] == 6 and s["link"] > 1)
        wait_for(lambda: all(m["state"] == "live" for m in running.server()["members"]))
    state = running.server()
    assert state["charged"] + state["quarantine"] + state["own"] <= 12
    second.tell("1")
    first.tell("10")
    first.until(lambda s: s["open"] == 10)
    assert server.rejected() == 0


def test_a_member_that_died_between_two_supervisors_is_in_quarantine(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays, dies = members(server, 2), members(server, 7, "fork")
    stays.until(lambda s: s["open"] == 2)
    tag = dies.until(lambda s: s["open"] == 7)["tag"]
    running.kill()
    dies.kill()  # its child keeps the seven connections
    stays.tell("11")
    running.start()
    stays.until(lambda s: s["open"] == 11)
    assert not [client for client in server.clients() if tag in client["name"]]
    assert server.rejected() == 0
    assert running.events("snapshot.restored")


def test_a_stopped_member_keeps_its_charge_over_a_restart(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    greedy, stopped = members(server, 2), members(server, 6)
    greedy.until(lambda s: s["open"] == 2)
    limit = stopped.until(lambda s: s["open"] == 6)["limit"]
    os.kill(stopped.pid, signal.SIGSTOP)
    running.kill()
    greedy.tell("11")
    running.start()
    greedy.until(lambda s: s["link"] > 1)
    wait_for(lambda: any(m["state"] == "restored" for m in running.server()["members"]))
    by_pid = {m["pid"]: m for m in running.server()["members"]}
    assert by_pid[stopped.pid]["charge"] >= min(limit, 6)
    wait_for(lambda: running.server()["own"] == 1)
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.until(lambda s: s["link"] > 1)
    stopped.tell("0")
    greedy.until(lambda s: s["open"] >= 10)
    assert server.rejected() == 0


@pytest.mark.parametrize("damage", ["truncated", "missing", "garbage", "boot"])
def test_without_its_snapshot_a_census_finds_what_is_there(
    supervisor: Start, redis_server: Servers, members: Members, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays, dies = members(server, 3), members(server, 5, "fork")
    stays.until(lambda s: s["open"] == 3)
    tag = dies.until(lambda s: s["open"] == 5)["tag"]
    running.kill()
    dies.kill()
    snapshot = Path(running.path + ".snapshot")
    if damage == "truncated":
        os.truncate(snapshot, 20)
    elif damage == "garbage":
        snapshot.write_bytes(os.urandom(1 << 17))
    elif damage == "boot":
        with monkeypatch.context() as patch:
            patch.setattr(identity, "boot", lambda: "ffffff")
            Writer(str(snapshot), "01234567", lambda: True, lambda _: None).write(Saved(Identity("", 1)))
    else:
        snapshot.unlink()
    stays.tell("11")
    running.start()
    stays.until(lambda s: s["open"] == 11, 15)
    assert not [client for client in server.clients() if tag in client["name"]]
    assert server.rejected() == 0
    reasons = [event["reason"] for event in running.events("snapshot.unusable")]
    assert reasons == ["truncated" if damage == "garbage" else damage]


def test_an_older_snapshot_that_was_put_back_is_not_believed(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    """A stopped member cannot say what it holds, and an old snapshot says too little."""
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays, stopped = members(server, 2), members(server, 1)
    stays.until(lambda s: s["open"] == 2)
    stopped.until(lambda s: s["open"] == 1)
    snapshot = Path(running.path + ".snapshot")
    old = snapshot.read_bytes()
    stopped.tell("8")
    stopped.until(lambda s: s["open"] == 8)
    os.kill(stopped.pid, signal.SIGSTOP)
    running.kill()
    snapshot.write_bytes(old)
    lock = Path(running.path + ".lock")
    assert marked(lock.read_bytes()) > 1
    lock.write_bytes(mark(1000000))  # as if there had been many more since
    stays.tell("11")
    running.start()
    (event,) = wait_for(lambda: running.events("snapshot.unusable"))
    assert event["reason"] == "older"
    wait_for(lambda: marked(lock.read_bytes()) > 1000000, what="the next one has a larger number")
    wait_for(lambda: (state := running.server())["own"] == 1 and state["charged"] + state["quarantine"] >= 10)
    stays.until(lambda s: s["open"] == 3)  # what is left: 12, less 8 and the supervisor's own
    assert server.rejected() == 0
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.until(lambda s: s["link"] > 1)
    stopped.tell("0")
    stays.until(lambda s: s["open"] == 11)
    assert server.rejected() == 0


def test_where_everything_was_lost_a_member_that_holds_something_has_the_others_waited_for(
    supervisor: Start, redis_server: Servers
) -> None:
    """They hold permits which nobody else knows of, and may use them until they have come back."""
    server = redis_server(maxclients=13)
    endpoint = endpoint_of(server.path)
    running = supervisor(12, POOLMGR_LINGER="60")
    first, name = joined(running, server)
    late, _ = joined(running, server)
    late.report(name, waiting=1)
    late.until(lambda m: m.limit(name) + first.limit(name) == 11, what="nothing is left")
    for _ in range(first.limit(name)):
        first.dial(endpoint)
    running.kill()
    for suffix in (".snapshot", ".lock"):
        Path(running.path + suffix).unlink()
    running.start()
    first.close()
    began = time.monotonic()
    first.connect().hello(endpoint)
    other, _ = joined(running, server)
    other.report(name, waiting=11)
    assert other.ask(wire.Query("status")).ok, "the report has been read"
    for _ in range(late.limit(name)):
        late.dial(endpoint)
    held = other.limit(name) + len(server.clients())
    assert held <= 12 or time.monotonic() - began > GRACE, "the wait is bounded, and this machine was slower"
    late.close()
    late.connect().hello(endpoint)
    (event,) = running.events("snapshot.unusable")
    assert event["reason"] == "missing"
    first.until(lambda m: m.limit(name) < len(m.open[name]), what="a recall")
    while len(first.open[name]) > first.limit(name):
        first.open[name].pop().close()
    first.report(name)
    other.until(lambda m: m.limit(name), what="it is raised after all")
    assert server.rejected() == 0


def test_sigterm_loses_nothing(supervisor: Start, redis_server: Servers, members: Members) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member = members(server, 7)
    member.until(lambda s: s["open"] == 7)
    assert running.terminate() == 0
    assert Path(running.path + ".snapshot").exists()
    assert len(server.clients()) == 7, "its own connection is closed"
    running.start()
    member.until(lambda s: s["link"] > 1)
    wait_for(lambda: running.server()["own"] == 1)
    assert running.server()["charged"] >= 7
    assert server.rejected() == 0


def test_it_does_not_end_while_something_is_charged(supervisor: Start, redis_server: Servers, members: Members) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12, POOLMGR_LINGER="0.1")
    member = members(server, 4)
    member.until(lambda s: s["open"] == 4)
    os.kill(member.pid, signal.SIGSTOP)
    running.kill()
    running.start()
    wait_for(lambda: Path(running.path + ".snapshot").exists())
    wait_for(lambda: running.server()["charged"] >= 4)
    time.sleep(1.0)  # longer than the linger: it must still be there
    assert running.running
    os.kill(member.pid, signal.SIGCONT)
    member.until(lambda s: s["link"] > 1)


def test_a_snapshot_that_cannot_be_written_stops_raises_and_nothing_else(
    supervisor: Start, redis_server: Servers
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member, name = joined(running, server)
    member.grow(name, 3)
    other, _ = joined(running, server)
    snapshot = Path(running.path + ".snapshot")
    snapshot.unlink()
    Path(f"{snapshot}.new").mkdir()  # neither in place nor anew
    other.report(name, waiting=11)
    wait_for(lambda: running.status()["notes"], what="the status says so")
    assert "cannot be written" in running.status()["notes"][0]
    before = other.limit(name)
    Path(f"{snapshot}.new").rmdir()
    member.report(name, open=0)
    other.until(lambda m: m.limit(name) > before, 5, "raised again")
    assert not running.status()["notes"]


def test_a_lock_that_was_taken_away_ends_it_without_a_trace(supervisor: Start, redis_server: Servers) -> None:
    running = supervisor(12)
    member, name = joined(running, redis_server(maxclients=13))
    member.grow(name, 3)
    snapshot = Path(running.path + ".snapshot").read_bytes()
    Path(running.path + ".lock").unlink()
    assert running.wait() == 0
    assert Path(running.path).exists()
    assert Path(running.path + ".snapshot").read_bytes() == snapshot
