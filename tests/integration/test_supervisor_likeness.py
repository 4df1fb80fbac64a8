"""Which addresses are one server, where it does not say so: users without INFO, or without anything dangerous."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest

from poolmgr import wire
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.supervisor_process import Start, SupervisorProcess, joined

RIGHTS = {
    "-info": ("+@all", "-info"),
    "-@dangerous": ("+@all", "-@dangerous"),
    "-@dangerous -@admin": ("+@all", "-@dangerous", "-@admin", "resetchannels"),
    "pubsub only": ("+@all", "-@dangerous", "-client|tracking", "allchannels"),
}
"""What the user ``app`` may do, in words of ACL SETUSER."""


@pytest.fixture(params=["valkey", "debian"])
def server_of(request: pytest.FixtureRequest, redis_server: Servers) -> Servers:
    """Valkey's or Debian's."""
    found: Servers = redis_server if request.param == "valkey" else request.getfixturevalue("debian_redis")
    return found


def restrict(server: RedisServer, rights: str) -> None:
    with server.observer() as admin:
        admin.execute_command("ACL", "SETUSER", "app", "reset", "on", ">secret", "~*", *RIGHTS[rights])


def app(endpoint: wire.Endpoint) -> wire.Endpoint:
    """By the user without rights."""
    return msgspec.structs.replace(endpoint, username="app", password="secret")


def ways_to(server: RedisServer) -> list[wire.Endpoint]:
    return [
        endpoint_of(port=server.port),
        endpoint_of(server.path),
        endpoint_of(port=server.port, host="localhost"),
    ]


def servers(running: SupervisorProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.status()["servers"]
    return found


def each_by_one_way(running: SupervisorProcess, ways: list[wire.Endpoint]) -> list[FakeMember]:
    """One member for each, which has its first limit and does what it is told."""
    members = []
    for way in ways:
        member, name = joined(running, way)
        members.append(member.obey(name))
    return members


@pytest.mark.parametrize("rights", RIGHTS)
def test_a_server_that_does_not_say_who_it_is_has_one_budget_by_all_its_addresses(
    supervisor: Start, server_of: Servers, rights: str
) -> None:
    server = server_of(maxclients=13, port=free_port())
    restrict(server, rights)
    running = supervisor(12)
    each_by_one_way(running, [app(way) for way in ways_to(server)])
    assert len(servers(running)) == 1, "each address is a budget of its own"
    assert running.server()["run_id"] == ""
    assert server.rejected() == 0


@pytest.mark.parametrize("rights", RIGHTS)
def test_two_servers_that_do_not_say_who_they_are_stay_two(supervisor: Start, server_of: Servers, rights: str) -> None:
    """Their clients have the same numbers: both have just been started."""
    one, two = (server_of(maxclients=13, port=free_port()) for _ in range(2))
    running = supervisor(12)
    for server in (one, two):
        restrict(server, rights)
    each_by_one_way(running, [app(endpoint_of(port=one.port)), app(endpoint_of(port=two.port))])
    each_by_one_way(running, [app(endpoint_of(two.path)), app(endpoint_of(one.path))])
    assert len(servers(running)) == 2
    aliases = [set(server["aliases"]) for server in servers(running)]
    assert {f"tcp://127.0.0.1:{one.port}", f"unix://{one.path}"} in aliases
    assert one.rejected() == two.rejected() == 0


@pytest.mark.parametrize("first", ["all rights", "none"])
def test_one_of_two_users_may_ask(supervisor: Start, redis_server: Servers, first: str) -> None:
    server = redis_server(maxclients=13, port=free_port())
    restrict(server, "-@dangerous")
    running = supervisor(12)
    ways = [endpoint_of(port=server.port), app(endpoint_of(server.path))]
    each_by_one_way(running, ways if first == "all rights" else ways[::-1])
    wait_for(lambda: len(servers(running)) == 1, what="they are one")
    assert server.rejected() == 0


@pytest.mark.parametrize("budget", [12, 4, 2])
def test_the_question_is_asked_within_the_budget(supervisor: Start, redis_server: Servers, budget: int) -> None:
    """It takes two connections at the same time: permits that nobody uses are there for it, by recall."""
    server = redis_server(maxclients=budget + 1, port=free_port())
    restrict(server, "-@dangerous")
    running = supervisor(budget)
    with server.observer():  # it is the one for which there is room
        each_by_one_way(running, [app(way) for way in ways_to(server)])
        assert len(servers(running)) == 1
    assert server.rejected() == 0


def test_a_server_that_was_down_when_another_address_was_met_is_compared_when_it_is_back(
    supervisor: Start, redis_server: Servers
) -> None:
    """By the first of its addresses nobody listened while the second was met."""
    server = redis_server(maxclients=13, port=free_port())
    restrict(server, "-@dangerous")
    running = supervisor(12)
    first, second = app(endpoint_of(server.path)), app(endpoint_of(port=server.port))
    each_by_one_way(running, [first])
    with server.observer() as admin:
        away = server.path + ".away"
        os.rename(server.path, away)
        admin.execute_command("CLIENT", "KILL", "USER", "app")
        wait_for(lambda: running.server()["health"]["unseen"], what="by the first address it is down")
        each_by_one_way(running, [second])
        os.rename(away, server.path)
    wait_for(lambda: len(servers(running)) == 1, 15, what="they are one")


def test_where_no_permit_comes_back_it_is_compared_over_the_budget_once_and_that_is_counted(
    supervisor: Start, redis_server: Servers
) -> None:
    server = redis_server(maxclients=6, port=free_port())
    restrict(server, "-@dangerous")
    running = supervisor(2, HASTY="upstreams.loan.PATIENCE=1 upstreams.loan.OVER_EVERY=600")
    way, alias = app(endpoint_of(server.path)), app(endpoint_of(port=server.port))
    member, name = joined(running, way)
    member.report(name, waiting=2)
    member.until(lambda m: m.limit(name) >= 2, what="all permits")
    member.report(name, in_use=2, open=2, pinned=2)
    member.attach(alias)
    member.until(lambda m: m.resolved.get(alias.key) == name, 15, what="the alias is known")
    assert running.server()["unproven"] == 2, "one connection by each address"
    assert server.rejected() == 0
