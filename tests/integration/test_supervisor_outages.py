"""Servers that stop, hang, end or do not exist: who is told, what is proven by it, and that the supervisor can end."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

from poolmgr import wire
from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, Servers, free_port, stopped, wait_for
from tests.member_process import Members
from tests.proxy import proxy_to
from tests.stopwatch import Stopwatch
from tests.supervisor_process import IMPATIENT, Pair, Start, joined

ENDS_SOON = "upstreams.unproven.WAIT=0.5 upstreams.admin.CLOSE_BOUND=0.3"


def test_an_outage_is_told_to_everyone_when_it_begins_and_when_it_ends(pair: Pair) -> None:
    running, server = pair()
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 3)
    server.stop()
    wait_for(lambda: running.server()["health"]["unseen"], what="the supervisor does not see it")
    assert running.server()["health"]["up"], "nobody else has tried"
    watch = Stopwatch()
    member.fails(name)
    health = member.until(lambda m: m.last(wire.Health), what="the outage")
    assert watch.fair() < 2
    assert (health.server, health.up) == (name, False)
    assert abs(health.since - time.time()) < 2
    assert running.server()["health"]["up"] is False
    late, _ = joined(running, endpoint_of(server.path), link=2)
    assert late.until(lambda m: m.last(wire.Health)).up is False
    server.start()
    late.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
    assert running.server()["health"] == {"up": True, "since": 0.0, "error": "", "unseen": "", "unseen_since": 0.0}


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


def test_a_killed_admin_connection_is_no_outage(pair: Pair) -> None:
    running, server = pair()
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


def test_a_stopped_server_is_an_outage_and_recovers_within_the_budget(pair: Pair) -> None:
    running, server = pair(**IMPATIENT)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 2)
    with stopped(server.pid):
        member.fails(name, "Timeout connecting to server")
        assert member.until(lambda m: m.last(wire.Health), 15, "the outage").up is False
    member.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
    wait_for(lambda: running.server()["own"] == 1, 10, what="what was left half open is settled")
    assert server.rejected() == 0


def test_a_dead_server_holds_nothing(pair: Pair, short_dir: Path, members: Members) -> None:
    """Members die while the server is down: its process is gone, and that proves it."""
    running, server = pair()
    stays, name = joined(running, endpoint_of(server.path))
    stays.obey(name)
    dies = members(server, 5).has(5)
    server.stop()
    stays.fails(name)
    stays.until(lambda m: m.last(wire.Health), what="the outage")
    dies.kill()
    wait_for(lambda: running.server()["quarantine"] == 0 and not running.server()["charged"] > 11)
    assert running.server()["unproven"] == 0


def test_that_nobody_listens_any_more_proves_nothing(pair: Pair, members: Members) -> None:
    """A server that moves to another port keeps the connections that it has."""
    running, server = pair(port=free_port())
    endpoint = endpoint_of(port=server.port)
    stays, name = joined(running, endpoint)
    stays.obey(name)
    dies = members(endpoint, 5, "fork")  # a child keeps its connections
    tag = dies.has(5).state["tag"]
    os.kill(running.pid, signal.SIGSTOP)
    with server.observer() as observer:
        observer.execute_command("CONFIG", "SET", "port", free_port())
        (own,) = [row for row in observer.client_list() if f".{running.pid}." in row["name"]]
        observer.execute_command("CLIENT", "KILL", "ID", own["id"])
    dies.kill()
    os.kill(running.pid, signal.SIGCONT)
    wait_for(lambda: "refused" in running.server()["health"]["unseen"], 10, what="it has looked")
    assert running.server()["quarantine"] >= 5
    assert len([row for row in server.clients() if tag in row["name"]]) == 5
    with server.observer() as observer:
        observer.execute_command("CONFIG", "SET", "port", server.port)
    wait_for(lambda: running.server()["quarantine"] == 0, 10, what="their end is proven")
    assert not [row for row in server.clients() if tag in row["name"]]
    assert running.server()["unproven"] == 0


def test_the_end_of_a_server_proves_nothing_of_its_successor(pair: Pair, members: Members) -> None:
    """A member has connected to the successor, which then stalls before the supervisor has seen it."""
    running, server = pair(**IMPATIENT)
    stays, name = joined(running, endpoint_of(server.path))
    stays.obey(name)
    dies = members(server, 5).has(5)
    os.kill(running.pid, signal.SIGSTOP)
    server.stop()
    server.start()
    dies.take(0)
    dies.take(5)
    os.kill(server.pid, signal.SIGSTOP)
    dies.kill()
    os.kill(running.pid, signal.SIGCONT)
    wait_for(lambda: running.server()["health"]["unseen"] == "no answer in time", 10, what="it has looked")
    assert running.server()["quarantine"] >= 5
    os.kill(server.pid, signal.SIGCONT)
    wait_for(lambda: running.server()["quarantine"] == 0, 10, what="their end is proven")
    assert running.server()["unproven"] == 0
    assert server.rejected() == 0


def test_a_supervisor_ends_although_the_server_has_ended_first(pair: Pair, members: Members) -> None:
    running, server = pair(port=free_port(), POOLMGR_LINGER="1", HASTY="upstreams.unproven.WAIT=0.5")
    dies = members(server, 5).has(5)
    server.stop()
    dies.kill()
    assert running.wait(10) == 0


def test_with_nobody_left_and_nobody_listening_it_ends_within_seconds(pair: Pair, members: Members) -> None:
    """Whoever stops a service must not wait for a proof that cannot come."""
    running, server = pair(port=free_port(), POOLMGR_LINGER="1")
    dies = members(endpoint_of(port=server.port), 5).has(5)
    server.stop()
    dies.kill()
    assert running.wait(4) == 0
    assert len(running.events("quarantine.unproven")) == 1


def test_what_was_given_up_when_nobody_was_left_is_searched_for_before_the_next_raise(
    pair: Pair, members: Members
) -> None:
    running, server = pair(
        port=free_port(),
        POOLMGR_LINGER="1",
        **IMPATIENT,
        HASTY="upstreams.unproven.WAIT=60 upstreams.unproven.ALONE=0.2 upstreams.admin.CLOSE_BOUND=0.3",
    )
    with proxy_to(server.port) as way:
        dies = members(endpoint_of(port=way.port), 5).has(5)
        way.frozen = True
        dies.kill()
        wait_for(lambda: running.events("quarantine.unproven"), 10, what="its permits are given up")
        # There still is a supervisor, since its own connection's end is not proven.
        member, name = joined(running, endpoint_of(port=way.port))
        assert running.server()["quarantine"] == 0
        member.report(name, waiting=7)
        assert member.status() and member.status(), "a turn of its loop has passed"
        assert member.limit(name) == 0
        assert sum("pm1." in client["name"] for client in server.clients()) >= 5, "they are still there"
        way.frozen = False
        assert member.grow(name, 7)
        assert server.rejected() == 0


def test_a_supervisor_ends_although_the_server_hangs(pair: Pair, members: Members) -> None:
    running, server = pair(POOLMGR_LINGER="1", **IMPATIENT, HASTY=ENDS_SOON)
    dies = members(server, 5).has(5)
    with stopped(server.pid):
        dies.kill()
        assert running.wait(20) == 0


def test_a_supervisor_ends_although_a_server_that_it_has_never_met_hangs(supervisor: Start) -> None:
    """Which may as well be no Redis at all: it accepts, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        running = supervisor(12, POOLMGR_LINGER="1", **IMPATIENT, HASTY=ENDS_SOON)
        member = running.member().hello(endpoint_of(port=silent.getsockname()[1]))
        member.until(lambda m: m.last(wire.Health), what="it is told to be down")
        member.close()
        assert running.wait(20) == 0


def test_a_server_that_nobody_uses_is_forgotten(pair: Pair) -> None:
    running, server = pair(HASTY="upstreams.registry.UNREACHED=0.3")
    member, name = joined(running, endpoint_of(server.path))
    lost = running.member()
    lost.tag = member.tag[:-6] + "abcdef"
    lost.hello(endpoint_of("/nowhere/at/all"))
    lost.until(lambda m: m.last(wire.Health))
    assert len(running.status()["servers"]) == 2
    lost.send(wire.Bye())
    wait_for(lambda: len(running.status()["servers"]) == 1, 10)
    assert running.server()["id"] == name


def test_a_name_that_no_longer_answers_is_no_outage_of_the_server(pair: Pair, members: Members) -> None:
    """One of two ways has become a black hole: the other still shows the server alive."""
    running, server = pair(maxclients=20, port=free_port(), **IMPATIENT, HASTY="upstreams.unproven.WAIT=0.5")
    member, name = joined(running, endpoint_of(server.path))
    with proxy_to(server.port) as hole:
        other = endpoint_of(port=hole.port)
        member.attach(other)
        member.until(lambda m: m.resolved.get(other.key) == name, what="the other way is known")
        member.obey(name)
        hole.frozen = True
        dies = members(server, 4).has(4)
        dies.kill()
        wait_for(lambda: len(running.server()["members"]) == 1 and not running.server()["quarantine"], 15)
        assert running.server()["unproven"] > 0, "it could not be proven, and that is said"
        assert member.last(wire.Health) is None


def test_a_server_that_broke_every_connection_is_down_though_nobody_has_a_permit_to_find_out(pair: Pair) -> None:
    """All of them were reset at once, and whether the server still has them nobody knows."""
    running, server = pair(port=free_port())
    member, name = joined(running, endpoint_of(port=server.port))
    member.grow(name, 11)
    server.stop()
    member.send(wire.Lost(name, tuple(range(1, 12))))
    health = member.until(lambda m: m.last(wire.Health), 5, "the outage")
    assert not health.up
    assert running.server()["health"]["error"]
    server.start()
    member.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
    member.until(lambda m: m.gone == set(range(1, 12)))
    assert [event["event"] for event in running.events() if event["event"].startswith("outage.")] == [
        "outage.began", "outage.ended",
    ]  # fmt: skip
    assert running.server()["unproven"] == 0


def test_where_all_permits_are_lost_and_the_supervisor_sees_nothing_one_is_tried_with(
    supervisor: Start, redis_server: Servers
) -> None:
    """Only the supervisor's way is shut: after the wait one process can find out that its own is not."""
    server = redis_server(maxclients=14, port=free_port())
    with proxy_to(server.port) as proxy:
        running = supervisor(12)
        member, name = joined(running, endpoint_of(port=proxy.port))
        member.grow(name, 11)
        proxy.refuse()
        proxy.cut(abruptly=True)
        at = time.monotonic()
        member.send(wire.Lost(name, tuple(range(1, 12))))
        assert member.until(lambda m: m.last(wire.Health), 5, "the outage").up is False
        (serial,) = member.until(lambda m: m.last(wire.Gone), 10, "a permit to try with").serials
        assert time.monotonic() >= at + 4
        trial = member.until(lambda m: m.last(wire.Health) if m.last(wire.Health).trial else None, what="its turn")
        assert not trial.up
        member.report(name, in_use=11, open=11, replied=time.monotonic())
        member.until(lambda m: m.last(wire.Health).up, what="the end of the outage")
        rest = set(range(1, 12)) - {serial}
        member.until(lambda m: m.gone >= rest, 15)
        assert running.server()["unproven"] == 11
        assert len(running.events("outage.began")) == 1


def test_a_server_that_hangs_for_long_has_one_connection_too_many_and_not_one_after_the_other(pair: Pair) -> None:
    """Whoever tries is accepted by the kernel, and lost as well."""
    running, server = pair(maxclients=14, port=free_port(), **IMPATIENT)
    member, name = joined(running, endpoint_of(port=server.port))
    member.grow(name, 11)
    lost = set(range(1, 12))
    with stopped(server.pid):
        until = time.monotonic() + 18
        member.send(wire.Lost(name, tuple(lost)))
        while time.monotonic() < until:  # each permit that is free is tried with, and lost
            for message in [*member.read(0.1)]:
                if isinstance(message, wire.Gone):
                    lost = lost - set(message.serials) | {max(lost) + 1}
                    member.send(wire.Lost(name, tuple(lost)))
        assert running.server()["unproven"] == 1
    member.until(lambda m: m.gone >= lost, 15)
    assert server.rejected() == 0
