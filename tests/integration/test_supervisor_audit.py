"""What others do at a server: what goes past the budget is found, and a crowd does not hold up the supervisor."""

from __future__ import annotations

import os
import socket
import time

from poolmgr import wire
from tests.fake_member import Connection, endpoint_of
from tests.helpers import free_port, wait_for
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Pair, joined


def test_the_audit_finds_a_pool_that_bypasses_the_budget(pair: Pair) -> None:
    running, server = pair(maxclients=100, port=free_port(), HASTY="views.audit.EVERY=0.3")
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


def test_a_server_with_many_clients_does_not_hold_up_the_loop(pair: Pair) -> None:
    running, server = pair(maxclients=5000, HASTY="upstreams.schedule.LIST_EVERY=0.2 upstreams.schedule.LOOK_EVERY=0.2")
    member, _ = joined(running, endpoint_of(server.path))
    crowd = [Connection(endpoint_of(server.path), f"crowd-{i}") for i in range(2000)]
    try:
        took: list[float] = []
        until = time.monotonic() + 2
        while time.monotonic() < until:
            watch = Stopwatch()
            member.send(wire.Ping(1))
            pongs = sum(isinstance(m, wire.Pong) for m in member.inbox)
            member.until(lambda m, n=pongs: sum(isinstance(x, wire.Pong) for x in m.inbox) > n)  # type: ignore[misc]
            took.append(watch.fair())
            member.inbox.clear()
            time.sleep(0.002)
        assert sorted(took)[-2] < 0.1, "once it may have been the machine"
    finally:
        for connection in crowd:
            connection.sock.close()
