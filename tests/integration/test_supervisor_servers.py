"""The supervisor and its servers: outages, restricted users, limits, half-open sockets, other clients."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import wire
from tests.fake_member import Connection, FakeMember, MemberProcess, endpoint_of
from tests.helpers import RedisServer, debian_redis_binary, free_port, wait_for
from tests.supervisor_process import SupervisorProcess

Servers = Callable[..., RedisServer]
Start = Callable[..., SupervisorProcess]


@pytest.fixture
def supervisor(short_dir: Path) -> Iterator[Start]:
    made: list[SupervisorProcess] = []

    def start(budget: object = 12, **environ: str) -> SupervisorProcess:
        found = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET=str(budget), **environ)
        made.append(found)
        return found.start()

    yield start
    for process in made:
        process.stop()


def joined(running: SupervisorProcess, endpoint: wire.Endpoint, **fields: Any) -> tuple[FakeMember, str]:
    member = running.member().hello(endpoint, **fields)
    member.until(lambda m: m.limits, what="a first limit")
    return member, member.resolved[endpoint.key]


# ---- outages --------------------------------------------------------------------------------------------


def test_an_outage_is_told_to_everyone_when_it_begins_and_when_it_ends(
    supervisor: Start, redis_server: Servers
) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 3)
    server.stop()
    began = time.monotonic()
    health = member.until(lambda m: m.last(wire.Health), what="the outage")
    assert time.monotonic() - began < 0.5
    assert (health.server, health.up) == (name, False)
    assert abs(health.since - time.time()) < 2
    assert running.server()["health"]["up"] is False
    late, _ = joined(running, endpoint_of(server.path), link=2)
    assert late.until(lambda m: m.last(wire.Health)).up is False
    server.start()
    late.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
    assert running.server()["health"] == {"up": True, "since": 0.0, "error": ""}


def test_a_server_that_is_not_there_yet_is_told_as_down_and_resolved_when_it_comes(
    supervisor: Start, short_dir: Path
) -> None:
    server = RedisServer(short_dir, maxclients=13)
    running = supervisor(12)
    endpoint = endpoint_of(server.path)
    member = running.member().hello(endpoint)
    assert member.until(lambda m: m.last(wire.Health)).up is False
    assert not member.limits
    server.start()
    try:
        member.until(lambda m: m.limits, what="a limit")
        assert member.last(wire.Health).up
    finally:
        server.stop()


def test_a_killed_admin_connection_is_no_outage(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 2)
    wait_for(lambda: len(server.clients()) == 1)
    for _ in range(3):
        (before,) = server.clients()
        with server.observer() as observer:
            observer.execute_command("CLIENT", "KILL", "ID", before["id"])
        wait_for(lambda old=before: [c["id"] for c in server.clients()] not in ([], [old["id"]]))  # type: ignore[misc]
    assert member.ask(wire.Query("status")).ok
    assert member.last(wire.Health) is None
    assert not running.events("outage.began")
    assert server.rejected() == 0


def test_a_stopped_server_is_an_outage_and_recovers_within_the_budget(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12, REDIS_SOCKET_TIMEOUT="0.3", REDIS_SOCKET_CONNECT_TIMEOUT="0.3")
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 2)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert member.until(lambda m: m.last(wire.Health), 15, "the outage").up is False
    finally:
        os.kill(server.pid, signal.SIGCONT)
    member.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
    wait_for(lambda: running.server()["own"] == 1, 10, what="what was left half open is settled")
    assert server.rejected() == 0


def test_a_dead_server_holds_nothing(supervisor: Start, redis_server: Servers, short_dir: Path) -> None:
    """Members die while the server is down: its process is gone, and that proves it."""
    server = redis_server(maxclients=13)
    running = supervisor(12)
    stays, name = joined(running, endpoint_of(server.path))
    stays.obey(name)
    dies = MemberProcess(running.path, endpoint_of(server.path), 5)
    try:
        dies.until(lambda s: s["open"] == 5)
        server.stop()
        stays.until(lambda m: m.last(wire.Health), what="the outage")
        dies.kill()
        wait_for(lambda: running.server()["quarantine"] == 0 and not running.server()["charged"] > 11)
        assert running.server()["unproven"] == 0
    finally:
        dies.stop()


def test_that_nobody_listens_any_more_proves_nothing(supervisor: Start, redis_server: Servers) -> None:
    """A server that moves to another port keeps the connections that it has."""
    server = redis_server(maxclients=13, port=free_port())
    running = supervisor(12)
    endpoint = endpoint_of(port=server.port)
    stays, name = joined(running, endpoint)
    stays.obey(name)
    dies = MemberProcess(running.path, endpoint, 5, "fork")  # a child keeps its connections
    try:
        tag = dies.until(lambda s: s["open"] == 5)["tag"]
        os.kill(running.pid, signal.SIGSTOP)
        with server.observer() as observer:
            observer.execute_command("CONFIG", "SET", "port", free_port())
            (own,) = [row for row in observer.client_list() if f".{running.pid}." in row["name"]]
            observer.execute_command("CLIENT", "KILL", "ID", own["id"])
        dies.kill()
        os.kill(running.pid, signal.SIGCONT)
        wait_for(lambda: "refused" in running.server()["health"]["error"], 10, what="it has looked")
        assert running.server()["quarantine"] >= 5
        assert len([row for row in server.clients() if tag in row["name"]]) == 5
        with server.observer() as observer:
            observer.execute_command("CONFIG", "SET", "port", server.port)
        wait_for(lambda: running.server()["quarantine"] == 0, 10, what="their end is proven")
        assert not [row for row in server.clients() if tag in row["name"]]
        assert running.server()["unproven"] == 0
    finally:
        dies.stop()


def test_the_end_of_a_server_proves_nothing_of_its_successor(supervisor: Start, redis_server: Servers) -> None:
    """A member has connected to the successor, which then stalls before the supervisor has seen it."""
    server = redis_server(maxclients=13)
    running = supervisor(12, REDIS_SOCKET_TIMEOUT="0.3", REDIS_SOCKET_CONNECT_TIMEOUT="0.3")
    stays, name = joined(running, endpoint_of(server.path))
    stays.obey(name)
    dies = MemberProcess(running.path, endpoint_of(server.path), 5)
    try:
        dies.until(lambda s: s["open"] == 5)
        os.kill(running.pid, signal.SIGSTOP)
        server.stop()
        server.start()
        dies.tell("0")
        dies.until(lambda s: s["open"] == 0)
        dies.tell("5")
        dies.until(lambda s: s["open"] == 5)
        os.kill(server.pid, signal.SIGSTOP)
        dies.kill()
        os.kill(running.pid, signal.SIGCONT)
        wait_for(lambda: running.server()["health"]["error"] == "no answer in time", 10, what="it has looked")
        assert running.server()["quarantine"] >= 5
        os.kill(server.pid, signal.SIGCONT)
        wait_for(lambda: running.server()["quarantine"] == 0, 10, what="their end is proven")
        assert running.server()["unproven"] == 0
        assert server.rejected() == 0
    finally:
        dies.stop()


def test_a_supervisor_ends_although_the_server_has_ended_first(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13, port=free_port())
    running = supervisor(12, POOLMGR_LINGER="0.1", HASTY="unproven.WAIT=0.5")
    dies = MemberProcess(running.path, endpoint_of(server.path), 5)
    try:
        dies.until(lambda s: s["open"] == 5)
        server.stop()
        dies.kill()
    finally:
        dies.stop()
    assert running.wait(10) == 0


def test_a_supervisor_ends_although_the_server_hangs(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(
        12,
        POOLMGR_LINGER="0.1",
        REDIS_SOCKET_TIMEOUT="0.3",
        REDIS_SOCKET_CONNECT_TIMEOUT="0.3",
        HASTY="unproven.WAIT=0.5 admin.CLOSE_BOUND=0.3",
    )
    dies = MemberProcess(running.path, endpoint_of(server.path), 5)
    try:
        dies.until(lambda s: s["open"] == 5)
        os.kill(server.pid, signal.SIGSTOP)
        dies.kill()
        assert running.wait(20) == 0
    finally:
        os.kill(server.pid, signal.SIGCONT)
        dies.stop()


def test_a_server_that_nobody_uses_is_forgotten(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12, HASTY="book.UNREACHED=0.3")
    member, name = joined(running, endpoint_of(server.path))
    lost = running.member()
    lost.tag = member.tag[:-6] + "abcdef"
    lost.hello(endpoint_of("/nowhere/at/all"))
    lost.until(lambda m: m.last(wire.Health))
    assert len(running.status()["servers"]) == 2
    lost.send(wire.Bye())
    wait_for(lambda: len(running.status()["servers"]) == 1, 10)
    assert running.server()["id"] == name


def test_a_name_that_no_longer_answers_is_no_outage_of_the_server(supervisor: Start, redis_server: Servers) -> None:
    """One of two ways has become a black hole: the other still shows the server alive."""
    server = redis_server(maxclients=20)
    running = supervisor(12, REDIS_SOCKET_TIMEOUT="0.3", REDIS_SOCKET_CONNECT_TIMEOUT="0.3", HASTY="unproven.WAIT=0.5")
    hole = socket.create_server(("127.0.0.1", 0))
    port = hole.getsockname()[1]
    answering = threading.Event()
    answering.set()
    threading.Thread(target=forward, args=(hole, server.path, answering), daemon=True).start()
    member, name = joined(running, endpoint_of(server.path))
    member.attach(endpoint_of(port=port))
    member.until(lambda m: m.resolved.get(f"tcp://127.0.0.1:{port}") == name, what="the other way is known")
    member.obey(name)
    answering.clear()
    dies = MemberProcess(running.path, endpoint_of(server.path), 4)
    try:
        dies.until(lambda s: s["open"] == 4)
        dies.kill()
        wait_for(lambda: len(running.server()["members"]) == 1 and not running.server()["quarantine"], 15)
        assert running.server()["unproven"] > 0, "it could not be proven, and that is said"
        assert member.last(wire.Health) is None
    finally:
        dies.stop()
        hole.close()


def forward(listener: socket.socket, path: str, answering: threading.Event) -> None:
    """A proxy for one exchange at a time, until it is told to swallow everything."""
    with contextlib.suppress(OSError):
        while True:
            outer, _ = listener.accept()
            inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            inner.connect(path)
            threading.Thread(target=pump, args=(outer, inner, answering), daemon=True).start()
            threading.Thread(target=pump, args=(inner, outer, answering), daemon=True).start()


def pump(source: socket.socket, target: socket.socket, answering: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if answering.is_set():
                target.sendall(data)
        target.shutdown(socket.SHUT_WR)


# ---- users without rights -------------------------------------------------------------------------------


def test_without_the_right_to_list_a_bounded_wait_stands_in_and_is_counted(
    supervisor: Start, redis_server: Servers
) -> None:
    server = redis_server(maxclients=13)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-client|list", "-client|kill")
    endpoint = endpoint_of(server.path)
    running = supervisor(12, HASTY="unproven.WAIT=1.5")
    stays, name = joined(running, endpoint)
    stays.obey(name)
    dies = MemberProcess(running.path, endpoint_of(server.path), 6)
    try:
        dies.until(lambda s: s["open"] == 6)
        dies.kill()
        began = time.monotonic()
        wait_for(lambda: running.server()["quarantine"] > 0)
        wait_for(lambda: running.server()["quarantine"] == 0, 12)
        assert time.monotonic() - began > 1.2
    finally:
        dies.stop()
    assert running.server()["unproven"] >= 6
    assert any("forbids CLIENT LIST" in note for note in running.status()["notes"])
    forbids = [event for event in running.events("server.forbids") if event["command"] == "CLIENT LIST"]
    assert len(forbids) == 1, "it is said once"


def test_credentials_of_another_member_do_when_ones_own_are_wrong(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13, requirepass="right")
    running = supervisor(12)
    good = endpoint_of(server.path, password="right")
    bad = endpoint_of(server.path, password="wrong")
    member, name = joined(running, good)
    member.attach(bad)
    assert running.server()["run_id"]
    member.grow(name, 4)
    text = running.log.read_text() + str(running.status()) + Path(running.path + ".snapshot").read_bytes().hex()
    assert "wrong" not in text
    assert b"right".hex() not in text


def test_wrong_credentials_alone_resolve_and_leave_the_error_to_the_member(
    supervisor: Start, redis_server: Servers
) -> None:
    server = redis_server(maxclients=13, requirepass="right")
    running = supervisor(12)
    member, name = joined(running, endpoint_of(server.path, password="wrong"))
    assert member.limit(name) > 0
    assert member.last(wire.Health) is None


# ---- limits ---------------------------------------------------------------------------------------------


def derivation(running: SupervisorProcess) -> str:
    return str(running.server()["derivation"]).replace("\N{MINUS SIGN}", "-")


def test_auto_takes_what_is_left(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=200)
    with server.observer(), server.observer() as second:
        second.ping()
        running = supervisor("auto")
        joined(running, endpoint_of(server.path))
        found = derivation(running)
    assert found in (
        "budget 179 = redis maxclients 200 - reserve 20 - 1 other client",
        "budget 178 = redis maxclients 200 - reserve 20 - 2 other clients",
    )


def test_debians_redis_too(supervisor: Start, redis_server: Servers) -> None:
    binary = debian_redis_binary()
    if binary is None:
        pytest.skip("redis-server is not installed")
    server = redis_server(binary=binary, maxclients=200)
    running = supervisor("auto")
    member, name = joined(running, endpoint_of(server.path))
    assert derivation(running) == "budget 180 = redis maxclients 200 - reserve 20"
    member.obey(name)
    dies = MemberProcess(running.path, endpoint_of(server.path), 50)
    try:
        dies.until(lambda s: s["open"] == 50)
        dies.kill()
        wait_for(lambda: running.server()["quarantine"] == 0 and len(running.server()["members"]) == 1, 3)
    finally:
        dies.stop()
    assert running.server()["unproven"] == 0


def test_a_user_that_may_ask_nothing_gets_a_cautious_budget(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=200)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "+@all", "-info", "-config", "-client")
    endpoint = wire.Endpoint(key=f"unix://{server.path}", path=server.path, username="plain", password="secret")
    running = supervisor("auto")
    joined(running, endpoint)
    assert running.server()["budget"] == 64
    assert "maxclients is unknown" in derivation(running)
    assert "NOPERM" in derivation(running)


def test_descriptors_of_the_members_bound_it(supervisor: Start, redis_server: Servers) -> None:
    running = supervisor("auto")
    joined(running, endpoint_of(redis_server(maxclients=1000).path), descriptors=40)
    wait_for(lambda: running.server()["budget"] == 40)
    assert "file-descriptor limits" in derivation(running)


def test_other_clients_shrink_it_within_seconds(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=200)
    running = supervisor("auto", HASTY="timetable.LIST_EVERY=0.3 timetable.LOOK_EVERY=0.3")
    joined(running, endpoint_of(server.path))
    assert running.server()["budget"] == 180
    others = [Connection(endpoint_of(server.path), "other") for _ in range(30)]
    try:
        wait_for(lambda: running.server()["budget"] == 150, 8)
    finally:
        for other in others:
            other.close()


def test_the_operator_changes_it_live_and_a_successor_remembers(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=30)
    running = supervisor(12)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 9)
    answer = member.ask(wire.SetBudget(name, "6"))
    assert answer.ok, answer
    member.until(lambda m: m.limit(name) <= 5, what="a recall")
    assert running.server()["budget"] == 6
    assert running.server()["free"] < 0
    member.report(name, open=member.limit(name))
    wait_for(lambda: running.server()["free"] >= 0)
    running.kill()
    running.start()
    wait_for(lambda: running.status()["servers"])
    assert running.server()["budget"] == 6
    back, _ = joined(running, endpoint_of(server.path), link=5)
    wait_for(lambda: "poolmgr budget" in running.server()["derivation"])
    assert back.ask(wire.SetBudget(name, "20")).ok
    wait_for(lambda: running.server()["budget"] == 20)
    for word in ("0", "-3", "many", "1e3", ""):
        assert not back.ask(wire.SetBudget(name, word)).ok, word
    assert back.ask(wire.SetBudget(name, "reset")).ok
    wait_for(lambda: running.server()["budget"] == 12)
    assert "REDIS_CONNECTION_BUDGET" in running.server()["derivation"]


def test_a_refusal_lowers_the_budget_at_once(supervisor: Start, redis_server: Servers) -> None:
    """Others fill the server: what we have is what we may have."""
    server = redis_server(maxclients=20)
    running = supervisor(18)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 3)
    mine = [member.dial(endpoint_of(server.path)) for _ in range(3)]
    member.report(name, in_use=3)
    others = []
    with contextlib.suppress(OSError):
        while True:
            other = Connection(endpoint_of(server.path), "other")
            if not other.answer.startswith(b"+OK"):
                break
            others.append(other)
    member.send(wire.Trouble(name, "refused", "max number of clients reached"))
    wait_for(lambda: running.server()["budget"] <= 5, 3)
    assert "after a refusal" in running.server()["derivation"]
    assert running.events("budget.refused")
    for other in others:
        other.close()
    assert len(mine) == 3


# ---- half-open sockets ----------------------------------------------------------------------------------


def test_a_lost_socket_is_killed_and_its_permit_returned_by_proof(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=13)
    running = supervisor(12)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 4)
    lost, kept = member.dial(endpoint_of(server.path)), member.dial(endpoint_of(server.path))
    member.send(wire.Lost(name, (1, 77)))
    member.until(lambda m: {s for g in m.inbox if isinstance(g, wire.Gone) for s in g.serials} == {1, 77})
    with contextlib.suppress(ConnectionResetError):
        assert lost.sock.recv(10) == b"", "the server has closed it"
    assert kept.call("PING") == b"+PONG\r\n"


# ---- the three truths -----------------------------------------------------------------------------------


def test_the_audit_finds_a_pool_that_bypasses_the_budget(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=100, port=free_port())
    running = supervisor(12, HASTY="audit.EVERY=0.3")
    member, name = joined(running, endpoint_of(port=server.port))
    member.report(name)
    member.send(wire.Report(name, 1, ceiling=1))
    bypass = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
    try:
        wait_for(lambda: running.status()["differences"], 20, what="the difference is shown")
        (difference,) = running.status()["differences"]
        assert difference["kernel"] == 20
        assert difference["pid"] == os.getpid()
        assert "past the budget" in difference["text"]
        assert running.events("audit.difference")
    finally:
        for sock in bypass:
            sock.close()
    wait_for(lambda: not running.status()["differences"], 12, what="it is settled")


def test_a_server_with_many_clients_does_not_hold_up_the_loop(supervisor: Start, redis_server: Servers) -> None:
    server = redis_server(maxclients=5000)
    running = supervisor(12, HASTY="timetable.LIST_EVERY=0.2 timetable.LOOK_EVERY=0.2")
    member, _ = joined(running, endpoint_of(server.path))
    crowd = [Connection(endpoint_of(server.path), f"crowd-{i}") for i in range(2000)]
    try:
        slowest, until = 0.0, time.monotonic() + 2
        while time.monotonic() < until:
            began = time.monotonic()
            member.send(wire.Ping(1))
            pongs = sum(isinstance(m, wire.Pong) for m in member.inbox)
            member.until(lambda m, n=pongs: sum(isinstance(x, wire.Pong) for x in m.inbox) > n)  # type: ignore[misc]
            slowest = max(slowest, time.monotonic() - began)
            member.inbox.clear()
            time.sleep(0.002)
        assert slowest < 0.1, slowest
    finally:
        for connection in crowd:
            connection.sock.close()
