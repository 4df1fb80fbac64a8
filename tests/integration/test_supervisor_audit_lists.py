"""What a server's list says in the audit: a list and the kernel are never read at the same instant."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import RedisServer, free_port, throughout, wait_for
from tests.supervisor_process import Pair, SupervisorProcess, joined

QUICK = "views.audit.EVERY=0.2 upstreams.schedule.LIST_EVERY=1.5"


def holding(running: SupervisorProcess, server: RedisServer, count: int) -> tuple[FakeMember, str]:
    """A member with so many connections, which the supervisor has on its list."""
    endpoint = endpoint_of(port=server.port)
    member, name = joined(running, endpoint)
    member.grow(name, count)
    for _ in range(count):
        member.dial(endpoint)
    return member, name


def nothing_is_said(running: SupervisorProcess, seconds: float, meanwhile: Callable[[], object] = int) -> None:
    for _ in throughout(seconds):
        meanwhile()
        assert not running.status()["differences"]
    assert not running.events("audit.difference")


def is_listed(running: SupervisorProcess, server: RedisServer) -> None:
    """The supervisor has asked for the list twice since now, so the last one shows all that are here."""

    def asked() -> int:
        with server.observer() as observer:
            return int(observer.info("commandstats").get("cmdstat_client|list", {}).get("calls", 0))

    before = asked()
    wait_for(lambda: asked() >= before + 2, 10, what="two lists")


def test_a_list_from_before_an_outage_is_compared_with_nothing(pair: Pair) -> None:
    running, server = pair(port=free_port(), HASTY=QUICK)
    member, _ = holding(running, server, 4)
    is_listed(running, server)
    server.stop()
    nothing_is_said(running, 2)
    server.start()
    nothing_is_said(running, 3)
    member.close()


def test_nor_is_one_from_before_a_restart_that_nobody_noticed(pair: Pair) -> None:
    """The supervisor is stopped while the server is restarted: its list is old, and nothing tells so."""
    running, server = pair(port=free_port(), HASTY=QUICK)
    member, _ = holding(running, server, 4)
    is_listed(running, server)
    os.kill(running.pid, signal.SIGSTOP)
    server.stop()
    server.start()
    os.kill(running.pid, signal.SIGCONT)
    nothing_is_said(running, 3)
    member.close()


def test_connections_that_a_process_has_closed_since_are_not_missed(pair: Pair) -> None:
    """With a small budget the list is asked for five times more seldom, and two audits see the same one."""
    running, server = pair(
        6, maxclients=8, port=free_port(), HASTY="views.audit.EVERY=0.2 upstreams.schedule.LIST_EVERY=0.4"
    )
    member, name = holding(running, server, 4)
    is_listed(running, server)
    for connection in member.open.pop(name):
        connection.close()
    nothing_is_said(running, 3)


def test_a_process_that_comes_and_goes_with_the_list_is_not_suspected(pair: Pair) -> None:
    running, server = pair(port=free_port(), HASTY="views.audit.EVERY=0.1 upstreams.schedule.LIST_EVERY=0.3")
    member, name = holding(running, server, 4)

    def anew() -> None:
        for connection in member.open.pop(name):
            connection.close()
        time.sleep(0.2)
        for _ in range(4):
            member.dial(endpoint_of(port=server.port))
        time.sleep(0.2)

    nothing_is_said(running, 5, anew)


def test_what_a_process_has_left_to_a_child_is_found(pair: Pair) -> None:
    running, server = pair(port=free_port(), HASTY=QUICK)
    member, name = holding(running, server, 3)
    kept = [connection.sock.fileno() for connection in member.open[name]]
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=kept) as child:
        try:
            for connection in member.open.pop(name):
                connection.sock.close()
            wait_for(lambda: running.status()["differences"], 20, what="the difference is shown")
            (difference,) = running.status()["differences"]
            assert (difference["server_sees"], difference["kernel"]) == (3, 0)
            assert "held by its children" in difference["text"]
        finally:
            child.kill()
    wait_for(lambda: not running.status()["differences"], 20, what="it is settled")
    assert len(running.events("audit.difference")) == 1
