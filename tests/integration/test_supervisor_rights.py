"""Servers that do not let the supervisor do everything, and credentials that are wrong."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from poolmgr import wire
from tests.fake_member import endpoint_of
from tests.helpers import Servers, free_port, wait_for
from tests.member_process import MemberProcess, Members
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined


def test_without_the_right_to_list_a_bounded_wait_stands_in_and_is_counted(
    supervisor: Start, redis_server: Servers, members: Members
) -> None:
    server = redis_server(maxclients=13)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "default", "-client|list", "-client|kill")
    endpoint = endpoint_of(server.path)
    running = supervisor(12, HASTY="upstreams.unproven.WAIT=1.5")
    stays, name = joined(running, endpoint)
    stays.obey(name)
    dies = members(server, 6).has(6)
    dies.kill()
    began = time.monotonic()
    wait_for(lambda: running.server()["quarantine"] > 0)
    wait_for(lambda: running.server()["quarantine"] == 0, 12)
    assert time.monotonic() - began > 1.2
    assert running.server()["unproven"] >= 6
    assert any("forbids CLIENT LIST" in note for note in running.status()["notes"])
    forbids = [event for event in running.events("server.forbids") if event["command"] == "CLIENT LIST"]
    assert len(forbids) == 1, "it is said once"


def test_credentials_of_another_member_do_when_ones_own_are_wrong(pair: Pair) -> None:
    running, server = pair(requirepass="right")
    good = endpoint_of(server.path, password="right")
    bad = endpoint_of(server.path, password="wrong")
    member, name = joined(running, good)
    member.attach(bad)
    assert running.server()["run_id"]
    member.grow(name, 4)
    text = running.log.read_text() + str(running.status()) + Path(running.path + ".snapshot").read_bytes().hex()
    assert "wrong" not in text
    assert b"right".hex() not in text


def test_wrong_credentials_alone_resolve_and_leave_the_error_to_the_member(pair: Pair) -> None:
    running, server = pair(requirepass="right")
    member, name = joined(running, endpoint_of(server.path, password="wrong"))
    assert member.limit(name) > 0
    assert member.last(wire.Health) is None


def dies_and_is_proven(running: SupervisorProcess, dies: MemberProcess, others: int) -> None:
    """A process is killed; what it held comes back by a proof, and no bounded wait stands in."""
    dies.kill()

    def back() -> bool:
        server = running.server()
        return server["quarantine"] == 0 and len(server["members"]) == others

    wait_for(back, 10, what="its permits are back")
    assert running.server()["unproven"] == 0


FAULTS = {
    "wrong password": ("resetpass", ">changed"),
    "no list": ("-client|list", "-client|kill"),
    "no names": ("-client",),
    "nothing": ("-@all", "+get"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("by", ["unix", "tcp"])
def test_what_the_user_of_one_name_may_not_do_does_not_stop_the_proofs_of_the_server(
    supervisor: Start, redis_server: Servers, members: Members, by: str, fault: str
) -> None:
    server = redis_server(port=free_port(), maxclients=13)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "other", "on", ">other", "~*", "+@all")
    running = supervisor(12, HASTY="upstreams.unproven.WAIT=60")
    path, port = endpoint_of(server.path), endpoint_of(port=server.port)
    good, bad = (port, path) if by == "unix" else (path, port)
    bad = msgspec.structs.replace(bad, username="other", password="other")
    first, name = joined(running, bad)
    second, _ = joined(running, good)
    wait_for(lambda: len(running.server()["aliases"]) == 2, 10, what="both names are one server's")
    second.obey(name)
    first.obey(name)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "other", *FAULTS[fault])
    running.cut_off(server)
    dies_and_is_proven(running, members(good, 4).has(4), 2)
    assert server.rejected() == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_of_two_users_by_one_name_the_one_that_may_list_proves(
    supervisor: Start, redis_server: Servers, members: Members, fault: str
) -> None:
    server = redis_server(maxclients=13)
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "other", "on", ">other", "~*", "+@all", *FAULTS[fault])
    running = supervisor(12, HASTY="upstreams.unproven.WAIT=60")
    good = endpoint_of(server.path)
    first, name = joined(running, msgspec.structs.replace(good, username="other", password="other"))
    second, _ = joined(running, good)
    second.obey(name)
    first.obey(name)
    for _ in range(2):
        running.cut_off(server)
        dies_and_is_proven(running, members(good, 4).has(4), 2)
    assert server.rejected() == 0
