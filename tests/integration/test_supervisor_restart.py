"""The supervisor's own ends and restarts, by crash or by signal, with its snapshot or without (rules S1 and S4)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from poolmgr import own_tag, tags, wire
from poolmgr.budget.accounts import Identity, Saved
from poolmgr.kernel import processes
from poolmgr.supervisor.disk.snapshot import Writer, mark, marked
from poolmgr.supervisor.upstreams.latecomers import GRACE
from tests.fake_member import Connection, endpoint_of
from tests.helpers import Servers, free_port, kill, wait_for
from tests.member_process import Members
from tests.proxy import proxy_to
from tests.supervisor_process import IMPATIENT, Pair, Start, joined


def test_a_killed_supervisor_is_succeeded_and_nothing_is_overspent(pair: Pair, members: Members) -> None:
    running, server = pair()
    first, second = members(server, 6), members(server, 5)
    first.has(6)
    second.has(5)
    for _ in range(3):
        running.kill()
        running.start()
        first.until(lambda s: s["open"] == 6 and s["link"] > 1)
        wait_for(lambda: all(m["state"] == "live" for m in running.server()["members"]))
    state = running.server()
    assert state["charged"] + state["quarantine"] + state["own"] <= 12
    second.tell("1")
    first.take(10)
    assert server.rejected() == 0


def test_a_member_that_died_between_two_supervisors_is_in_quarantine(pair: Pair, members: Members) -> None:
    running, server = pair()
    stays, dies = members(server, 2), members(server, 7, "fork")
    stays.has(2)
    tag = dies.has(7).state["tag"]
    running.kill()
    dies.kill()  # its child keeps the seven connections
    stays.tell("11")
    running.start()
    stays.has(11)
    assert not [client for client in server.clients() if tag in client["name"]]
    assert server.rejected() == 0
    assert running.events("snapshot.restored")


def test_a_stopped_member_keeps_its_charge_over_a_restart(pair: Pair, members: Members) -> None:
    running, server = pair()
    greedy, stopped = members(server, 2), members(server, 6)
    greedy.has(2)
    limit = stopped.has(6).state["limit"]
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
    pair: Pair, members: Members, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, server = pair()
    stays, dies = members(server, 3), members(server, 5, "fork")
    stays.has(3)
    left = dies.has(5).state
    running.kill()
    dies.kill()
    snapshot = Path(running.path + ".snapshot")
    if damage == "truncated":
        os.truncate(snapshot, 20)
    elif damage == "garbage":
        snapshot.write_bytes(os.urandom(1 << 17))
    elif damage == "boot":
        with monkeypatch.context() as patch:
            patch.setattr(own_tag, "boot", lambda: "ffffff")
            Writer(str(snapshot), "01234567", lambda: True, lambda _: None).write(Saved(Identity("", 1)))
    else:
        snapshot.unlink()
    stays.tell("11")
    running.start()
    try:
        stays.has(6, 15)
        assert len([client for client in server.clients() if left["tag"] in client["name"]]) == 5, "nobody kills them"
    finally:
        kill(left["child"])
    stays.has(11, 15)
    assert server.rejected() == 0
    reasons = [event["reason"] for event in running.events("snapshot.unusable")]
    assert reasons == ["truncated" if damage == "garbage" else damage]


def test_an_older_snapshot_that_was_put_back_is_not_believed(pair: Pair, members: Members) -> None:
    """A stopped member cannot say what it holds, and an old snapshot says too little."""
    running, server = pair()
    stays, stopped = members(server, 2), members(server, 1)
    stays.has(2)
    stopped.has(1)
    snapshot = Path(running.path + ".snapshot")
    old = snapshot.read_bytes()
    stopped.take(8)
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
    stays.has(3)  # what is left: 12, less 8 and the supervisor's own
    assert server.rejected() == 0
    os.kill(stopped.pid, signal.SIGCONT)
    stopped.until(lambda s: s["link"] > 1)
    stopped.tell("0")
    stays.has(11)
    assert server.rejected() == 0


def test_where_everything_was_lost_a_member_that_holds_something_has_the_others_waited_for(pair: Pair) -> None:
    """They hold permits which nobody else knows of, and may use them until they have come back."""
    running, server = pair(POOLMGR_LINGER="60")
    endpoint = endpoint_of(server.path)
    first, name = joined(running, server)
    late, _ = joined(running, server)
    late.report(name, waiting=1)
    late.until(lambda m: m.limit(name) + first.limit(name) == 11, what="nothing is left")
    for _ in range(first.limit(name)):
        first.dial(endpoint)
    running.forgets(".snapshot", ".lock")
    began = time.monotonic()
    first.comes_back(endpoint)
    other, _ = joined(running, server)
    other.report(name, waiting=11)
    assert other.ask(wire.Query("status")).ok, "the report has been read"
    for _ in range(late.limit(name)):
        late.dial(endpoint)
    held = other.limit(name) + len(server.clients())
    assert held <= 12 or time.monotonic() - began > GRACE, "the wait is bounded, and this machine was slower"
    late.comes_back(endpoint)
    (event,) = running.events("snapshot.unusable")
    assert event["reason"] == "missing"
    first.until(lambda m: m.limit(name) < len(m.open[name]), what="a recall")
    while len(first.open[name]) > first.limit(name):
        first.open[name].pop().close()
    first.report(name)
    other.until(lambda m: m.limit(name), what="it is raised after all")
    assert server.rejected() == 0


def test_a_successor_of_one_that_waits_for_whom_it_does_not_know_waits_too(pair: Pair) -> None:
    """What is written while a lost snapshot is made up for says too little: somebody has not come yet."""
    running, server = pair(POOLMGR_LINGER="60")
    endpoint = endpoint_of(server.path)
    late, name = joined(running, server)
    late.grow(name, 8)
    running.forgets()
    greedy, _ = joined(running, server)
    running.kill()
    began = time.monotonic()
    running.start()
    greedy.comes_back(endpoint)
    greedy.report(name, waiting=11)
    assert greedy.ask(wire.Query("status")).ok, "the report has been read"
    for _ in range(late.limit(name)):  # it has not noticed yet that its supervisor is gone
        late.dial(endpoint)
    for _ in range(greedy.limit(name)):
        greedy.dial(endpoint)
    assert server.rejected() == 0 or time.monotonic() - began > GRACE, (
        "the wait is bounded, and this machine was slower"
    )
    assert [event["reason"] for event in running.events("snapshot.unusable")] == ["missing"]
    late.comes_back(endpoint)
    greedy.until(lambda m: m.limit(name) == 11 - late.limit(name) > 0, what="what is left comes after the wait")


def test_what_somebody_opened_and_left_behind_while_others_were_waited_for_is_found(
    pair: Pair, members: Members
) -> None:
    """Nobody had ever heard of it: not the snapshot, which is lost, nor the census, nor by a registration."""
    running, server = pair(POOLMGR_LINGER="60")
    first, name = joined(running, server)
    running.forgets()
    first.comes_back(endpoint_of(server.path))
    first.until(lambda m: m.numbered and m.limit(name) == 0, what="it is left what it has open")
    first.report(name)
    wait_for(lambda: len(running.events("server.resolved")) == 2, what="the first census is done")
    nobody = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = tags.find(own_tag.make(running.path))
    assert own is not None
    tag = msgspec.structs.replace(own, pid=nobody.pid, start=processes.start_time(nobody.pid)).process
    left = [Connection(endpoint_of(server.path), f"{tag}-{number}") for number in range(8)]
    nobody.kill()
    nobody.wait()
    first.report(name, waiting=11)
    first.until(lambda m: m.limit(name) == 3, what="raised to what is left")
    assert all(connection.call("PING") == b"+PONG\r\n" for connection in left), (
        "they are not killed: any name can be copied"
    )
    for connection in left:
        connection.close()
    first.until(lambda m: m.limit(name) == 11, what="raised, when what was left behind is proven gone")
    assert [event for event in running.events("census.found") if event["count"] == len(left)]
    assert server.rejected() == 0


def test_a_search_is_put_off_until_there_is_a_password_that_the_server_takes(
    supervisor: Start, redis_server: Servers
) -> None:
    """A look that was shown nothing has seen nothing."""
    server = redis_server(maxclients=13, requirepass="right")
    good, bad = endpoint_of(server.path, password="right"), endpoint_of(server.path, password="wrong")
    running = supervisor(12, POOLMGR_LINGER="60")
    first, name = joined(running, good)
    running.forgets()
    first.comes_back(good)
    wait_for(lambda: len(running.events("server.resolved")) == 2, what="the first census is done")
    first.send(wire.Bye())
    wait_for(lambda: running.events("member.left"), what="it holds nothing")
    running.status()  # that turn is over, and its successor will know
    running.kill()
    running.start()
    other = running.member().hello(bad)
    began = time.monotonic()
    wait_for(lambda: time.monotonic() > began + GRACE + 0.5, GRACE + 5)  # everybody has been waited for
    other.read()
    other.report(name, waiting=11)
    assert other.ask(wire.Query("status")).ok, "the report has been read"
    assert other.limit(name) == 0
    third = running.member().hello(good)
    third.until(lambda m: m.limits, what="a first limit")
    third.obey(name)
    other.until(lambda m: m.limit(name) >= 8, what="raised, now that the server was searched")
    assert server.rejected() == 0


def test_a_name_that_is_silent_does_not_hold_up_the_search_for_ever(pair: Pair) -> None:
    running, server = pair(
        maxclients=16,
        port=free_port(),
        POOLMGR_LINGER="60",
        **IMPATIENT,
        HASTY="upstreams.unproven.WAIT=1",
    )
    with proxy_to(server.port) as hole:
        first, name = joined(running, server)
        other = endpoint_of(port=hole.port)
        first.attach(other)
        first.until(lambda m: m.resolved.get(other.key) == name, what="the other way is known")
        running.forgets()
        first.comes_back(endpoint_of(server.path), other)
        wait_for(lambda: len(running.events("server.resolved")) == 3, what="the first census is done")
        hole.frozen = True
        first.until(lambda m: m.numbered, what="it is left what it has open")
        first.report(name, waiting=11)
        first.until(lambda m: m.limit(name) >= 9, 15, what="raised after a bounded wait")


def test_sigterm_loses_nothing(pair: Pair, members: Members) -> None:
    running, server = pair()
    member = members(server, 7).has(7)
    assert running.terminate() == 0
    assert Path(running.path + ".snapshot").exists()
    assert len(server.clients()) == 7, "its own connection is closed"
    running.start()
    member.until(lambda s: s["link"] > 1)
    wait_for(lambda: running.server()["own"] == 1)
    assert running.server()["charged"] >= 7
    assert server.rejected() == 0


def test_it_does_not_end_while_something_is_charged(pair: Pair, members: Members) -> None:
    running, server = pair(POOLMGR_LINGER="0.8")
    member = members(server, 4).has(4)
    os.kill(member.pid, signal.SIGSTOP)
    running.kill()
    running.start()
    wait_for(lambda: Path(running.path + ".snapshot").exists())
    wait_for(lambda: running.server()["charged"] >= 4)
    time.sleep(1.0)  # longer than the linger: it must still be there
    assert running.running
    os.kill(member.pid, signal.SIGCONT)
    member.until(lambda s: s["link"] > 1)


def test_a_snapshot_that_cannot_be_written_stops_raises_and_nothing_else(pair: Pair) -> None:
    running, server = pair()
    member, name = joined(running, server)
    member.grow(name, 3)
    other, _ = joined(running, server)
    snapshot = Path(running.path + ".snapshot")
    snapshot.unlink()
    Path(f"{snapshot}.new").mkdir()  # neither in place nor anew
    other.report(name, waiting=11)
    wait_for(lambda: running.status()["notes"], what="the status says so")
    assert "cannot write the snapshot" in running.status()["notes"][0]
    before = other.limit(name)
    Path(f"{snapshot}.new").rmdir()
    member.report(name, open=0)
    other.until(lambda m: m.limit(name) > before, 5, "raised again")
    wait_for(lambda: not running.status()["notes"], what="the status says so no more")
