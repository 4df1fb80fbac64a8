"""What a server's budget is: derived, bounded, set by the operator, and lowered when the server refuses."""

from __future__ import annotations

import contextlib

import pytest

from poolmgr import wire
from tests.fake_member import Connection, endpoint_of
from tests.helpers import Servers, debian_redis_binary, wait_for
from tests.member_process import Members
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined


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


def test_debians_redis_too(pair: Pair, members: Members) -> None:
    binary = debian_redis_binary()
    if binary is None:
        pytest.skip("redis-server is not installed")
    running, server = pair("auto", maxclients=200, binary=binary)
    member, name = joined(running, endpoint_of(server.path))
    assert derivation(running) == "budget 180 = redis maxclients 200 - reserve 20"
    member.obey(name)
    dies = members(server, 50).has(50)
    dies.kill()
    wait_for(lambda: running.server()["quarantine"] == 0 and len(running.server()["members"]) == 1, 3)
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


def test_other_clients_shrink_it_within_seconds(pair: Pair) -> None:
    running, server = pair("auto", maxclients=200, HASTY="upstreams.schedule.LOOK_EVERY=0.3")
    member, name = joined(running, endpoint_of(server.path))
    member.report(name)
    assert running.server()["budget"] == 180
    others = [Connection(endpoint_of(server.path), "other") for _ in range(30)]
    try:
        wait_for(lambda: running.server()["budget"] == 150, 8)
    finally:
        for other in others:
            other.close()


def test_the_operator_changes_it_live_and_a_successor_remembers(pair: Pair) -> None:
    running, server = pair(maxclients=30)
    member, name = joined(running, endpoint_of(server.path))
    member.grow(name, 9)
    answer = member.ask(wire.SetBudget(name, "6"))
    assert answer.ok, answer
    member.until(lambda m: m.limit(name) <= 6, what="a recall")  # of so few the supervisor keeps none for itself
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


def test_a_refusal_lowers_the_budget_at_once(pair: Pair) -> None:
    """Others fill the server: what we have is what we may have."""
    running, server = pair(18, maxclients=20)
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
    member.report(name, in_use=3, waiting=30)
    bound = "the server takes no more clients now (maxclients 20)"
    member.until(lambda m: any(isinstance(said, wire.Picture) and said.bound == bound for said in m.inbox), 10, "why")
    assert running.events("budget.refused")
    for other in others:
        other.close()
    assert len(mine) == 3
