"""Servers that do not let the supervisor do everything, and credentials that are wrong."""

from __future__ import annotations

import time
from pathlib import Path

from poolmgr import wire
from tests.fake_member import MemberProcess, endpoint_of
from tests.helpers import Servers, wait_for
from tests.supervisor_process import Start, joined


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
