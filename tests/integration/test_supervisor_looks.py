"""An address that is not known yet is looked at: within the budget of each server that it may be, and without keeping
anybody waiting who wants another one."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolmgr import wire
from tests.fake_member import Connection, FakeMember, endpoint_of
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined

SOON = 1.0
"""Seconds within which a server that answers can be used, also on a busy machine. What was wrong took five or more."""


def used_within(running: SupervisorProcess, at: wire.Endpoint, seconds: float = SOON) -> float:
    """The first use of a server by a new member: how long until it had a limit."""
    member = running.member()
    watch = Stopwatch()
    member.hello(at)
    member.until(lambda m: m.limits, 60, what="a first limit")
    took = watch.fair()
    member.close()
    assert took < seconds, f"{at.key} could be used after {took:.2f} s"
    return took


# ---- one that is sick ------------------------------------------------------------------------------------


def test_servers_that_hang_do_not_keep_the_first_use_of_another_one_waiting(
    supervisor: Start, redis_server: Servers
) -> None:
    healthy = redis_server(maxclients=13)
    hung = [redis_server(maxclients=13) for _ in range(3)]
    for server in hung:
        os.kill(server.pid, signal.SIGSTOP)
    running = supervisor(12)
    waits = running.member().hello(*(endpoint_of(server.path) for server in hung))
    wait_for(lambda: len(running.status()["servers"]) == 3, what="all three are known")
    time.sleep(0.3)  # not for an effect: the supervisor is in the middle of asking
    used_within(running, endpoint_of(healthy.path))
    assert waits.limits == {}


def test_a_known_server_that_hangs_does_not_keep_the_first_use_of_another_one_waiting(
    supervisor: Start, redis_server: Servers
) -> None:
    later, hangs = redis_server(maxclients=13), redis_server(maxclients=13)
    running = supervisor(12)
    joined(running, hangs)
    os.kill(hangs.pid, signal.SIGSTOP)
    wait_for(lambda: running.server()["health"]["unseen"], 30, what="it is known to hang")
    used_within(running, endpoint_of(later.path))


def test_one_that_never_accepts_does_not_keep_another_one_waiting(
    supervisor: Start, redis_server: Servers, deaf: wire.Endpoint
) -> None:
    """A further case: the connect itself is not answered."""
    healthy = redis_server(maxclients=13)
    running = supervisor(12)
    running.member().hello(deaf)
    wait_for(lambda: len(running.status()["servers"]) == 1)
    used_within(running, endpoint_of(healthy.path))


@pytest.fixture
def deaf() -> Iterator[wire.Endpoint]:
    """Its queue is full: the kernel answers no further SYN."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
            waiting.append(sock)
        yield endpoint_of(port=port)
        for sock in waiting:
            sock.close()


def test_a_name_that_nobody_resolves_does_not_keep_another_server_waiting(
    redis_server: Servers, short_dir: Path, silent_names: list[str]
) -> None:
    healthy = redis_server(maxclients=13)
    running = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET="12")
    running.command = silent_names
    running.start()
    try:
        name = wire.Endpoint(key="tcp://nowhere.example:6379", host="nowhere.example", port=6379)
        running.member().hello(name)
        wait_for(lambda: len(running.status()["servers"]) == 1)
        time.sleep(0.2)  # not for an effect: the supervisor is in the middle of asking for the name
        used_within(running, endpoint_of(healthy.path))
    finally:
        running.stop()


@pytest.fixture
def silent_names(short_dir: Path) -> list[str]:
    """What to run a program with, so that its name server never answers: a network of its own, and files of its own."""
    if os.getuid() != 0 or shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs to be root, with unshare and ip, to make namespaces")
    (short_dir / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:10 attempts:1\n")
    (short_dir / "nsswitch.conf").write_text("hosts: files dns\n")
    script = (
        "mount --make-rprivate / && ip link set lo up"
        f" && mount --bind {short_dir}/resolv.conf /etc/resolv.conf"
        f" && mount --bind {short_dir}/nsswitch.conf /etc/nsswitch.conf"
        """ && exec "$0" -c 'import os, socket, sys
silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
silent.bind(("127.0.0.1", 53))
os.set_inheritable(silent.fileno(), True)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])' "$@" """
    )
    made = ["unshare", "--net", "--mount", "sh", "-c", script]
    tried = subprocess.run([*made, shutil.which("python3") or "", "-c", ""], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"no namespaces can be made here: {tried.stderr.strip()}")
    return made


# ---- one whose permits are all pinned --------------------------------------------------------------------


def filled(running: SupervisorProcess, server: RedisServer, count: int) -> tuple[FakeMember, str, list[Connection]]:
    """A member with so many connections, which it uses and does not give back."""
    member, name = joined(running, server)
    member.report(name, in_use=0, waiting=count)
    member.until(lambda m: m.limit(name) >= count, what=f"limit {count}")
    connections = [member.dial(endpoint_of(server.path)) for _ in range(count)]
    assert all(c.answer == b"+OK\r\n" for c in connections)
    member.report(name, in_use=count, pinned=count)
    return member, name, connections


@pytest.mark.parametrize(("budget", "pinned"), [(12, 11), (5, 4)])
def test_a_server_whose_permits_are_all_pinned_does_not_keep_the_first_use_of_another_one_waiting(
    supervisor: Start, redis_server: Servers, budget: int, pinned: int
) -> None:
    used, other = redis_server(maxclients=budget + 1), redis_server(maxclients=budget + 1)
    running = supervisor(budget)
    filled(running, used, pinned)
    used_within(running, endpoint_of(other.path))
    assert used.rejected() == other.rejected() == 0


@pytest.mark.parametrize(("budget", "pinned"), [(12, 11), (5, 4)])
def test_an_alias_of_a_server_whose_permits_are_all_pinned_is_looked_at_within_the_budget(
    pair: Pair, budget: int, pinned: int
) -> None:
    """There is always one permit to look with, from a budget of four on."""
    running, server = pair(budget, port=free_port())
    member, name, _ = filled(running, server, pinned)
    alias = endpoint_of(port=server.port)
    member.attach(alias)
    member.until(lambda m: m.resolved.get(alias.key) == name, 4, what="the alias is known")
    assert server.rejected() == 0
    assert running.server()["unproven"] == 0


@pytest.mark.parametrize("budget", [4, 10])
def test_a_budget_that_grows_keeps_one_back_before_members_get_the_rest(
    supervisor: Start, redis_server: Servers, budget: int
) -> None:
    """Below four there is none. Who waits for all that there is would pin it, and never give it back."""
    running = supervisor(2)
    member, name = joined(running, redis_server())
    member.report(name, waiting=20)
    member.until(lambda m: m.limit(name) == 2, what="all of two")
    assert running.member().ask(wire.SetBudget(name, str(budget))).ok
    member.until(lambda m: m.limit(name) >= budget - 1, what="all that is for members")
    assert member.limit(name) == budget - 1
    wait_for(lambda: running.server_of(name)["own"] == 1, what="one is kept back")


def test_where_none_can_be_kept_back_an_alias_waits_for_a_permit_by_recall(pair: Pair) -> None:
    running, server = pair(3, port=free_port(), HASTY="upstreams.loan.PATIENCE=8")
    member, name, connections = filled(running, server, 3)
    alias = endpoint_of(port=server.port)
    member.attach(alias)
    time.sleep(1.5)  # not for an effect: nothing may happen
    assert alias.key not in member.resolved
    member.until(lambda m: m.limit(name) < 3, what="one is recalled")
    connections.pop().close()
    member.report(name, in_use=2, open=2, pinned=2)
    member.until(lambda m: m.resolved.get(alias.key) == name, what="the alias is known")
    assert server.rejected() == 0
    assert running.server()["unproven"] == 0


def test_where_no_permit_comes_back_there_is_one_look_over_the_budget_and_it_is_counted(pair: Pair) -> None:
    running, server = pair(3, port=free_port(), HASTY="upstreams.loan.PATIENCE=1 upstreams.loan.OVER_EVERY=600")
    member, name, _ = filled(running, server, 3)
    alias = endpoint_of(port=server.port)
    with server.observer():  # with its one connection the server is full
        member.attach(alias)
        wait_for(lambda: running.server_of(name)["unproven"] == 1, 15, what="a look over the budget is counted")
        time.sleep(4)  # not for an effect: no second one may follow
        assert running.server_of(name)["unproven"] == 1
        assert len(running.events("look.unproven")) == 1
    assert server.rejected() <= 1


def test_what_hangs_holds_no_permit_of_a_server_that_is_known_not_to_be_it(
    supervisor: Start, redis_server: Servers
) -> None:
    """The connection that nobody answers may have been made to a known server: that one is asked for it."""
    server, hangs = redis_server(maxclients=13), redis_server(maxclients=13)
    os.kill(hangs.pid, signal.SIGSTOP)
    running = supervisor(12, REDIS_SOCKET_TIMEOUT="0.5")
    member, name = joined(running, server)
    member.attach(endpoint_of(hangs.path))
    wait_for(lambda: any(s["health"]["unseen"] for s in running.status()["servers"]), 10, what="it is known to hang")
    wait_for(lambda: running.server_of(name)["own"] <= 1, 10, what="the permit is back")
    member.grow(name, 11)
