"""One server by several names has one budget, also where a restart or wrong credentials hide that it is one."""

from __future__ import annotations

import time

import pytest

from poolmgr import wire
from tests.fake_member import endpoint_of
from tests.helpers import Servers, free_port, wait_for
from tests.proxy import proxy_to
from tests.supervisor_process import Pair, Start, joined


def tcp(port: int, host: str, password: str | None = None) -> wire.Endpoint:
    return wire.Endpoint(key=f"tcp://{host}:{port}", host=host, port=port, password=password)


# ---- names ----------------------------------------------------------------------------------------------


def test_two_names_of_one_server_share_its_budget(pair: Pair) -> None:
    running, server = pair(port=free_port())
    member, name = joined(running, server)
    member.grow(name, 6)
    tcp = endpoint_of(port=server.port)
    member.attach(tcp)
    member.until(lambda m: tcp.key in m.resolved, what="the other name is resolved")
    assert member.resolved[tcp.key] == name
    state = running.server()
    assert set(state["aliases"]) == {name, tcp.key}
    assert server.rejected() == 0


def test_an_alias_is_resolved_within_a_budget_that_is_used_up(pair: Pair) -> None:
    """The question itself holds a connection: it takes the place of the one that the supervisor keeps."""
    running, server = pair(10, port=free_port())  # 10 and the observer
    member, name = joined(running, server)
    member.grow(name, 9)
    connections = [member.dial(endpoint_of(server.path)) for _ in range(9)]
    assert all(c.answer == b"+OK\r\n" for c in connections)
    tcp = endpoint_of(port=server.port)
    member.attach(tcp)
    member.until(lambda m: m.resolved.get(tcp.key) == name, what="resolved")
    assert member.limit(name) == 9, "nobody has to give anything back for it"
    assert server.rejected() == 0


def test_two_servers_have_budgets_of_their_own(supervisor: Start, redis_server: Servers) -> None:
    one, two = redis_server(maxclients=13), redis_server(maxclients=13)
    running = supervisor(12, REDIS_CONNECTION_BUDGETS=f"unix://{two.path}=5")
    member, first = joined(running, one)
    member.attach(endpoint_of(two.path))
    second = f"unix://{two.path}"
    member.until(lambda m: second in m.limits, what="a limit at the second")
    budgets = {state["id"]: state["budget"] for state in running.status()["servers"]}
    assert budgets == {first: 12, second: 5}


# ---- hidden by a restart or by credentials --------------------------------------------------------------


@pytest.mark.parametrize("name", ["localhost", "unix"])
@pytest.mark.parametrize("budget", [6, 12])
def test_a_name_that_comes_right_after_a_restart_shares_the_budget(pair: Pair, budget: int, name: str) -> None:
    port = free_port()
    running, server = pair(budget, port=port)
    first, _ = joined(running, tcp(port, "127.0.0.1"))
    server.stop()
    server.start()
    endpoint = endpoint_of(server.path) if name == "unix" else tcp(port, name)
    second = running.member().hello(endpoint)
    known = first.resolved[f"tcp://127.0.0.1:{port}"]
    second.until(lambda m: m.resolved.get(endpoint.key) == known and known in m.limits, 10, what="it is known")
    others = {server: limit for server, (_, limit) in second.limits.items() if server != known}
    assert not any(others.values()), f"permits of a server that there is not: {others}"
    assert endpoint.key in running.server()["aliases"]
    assert server.rejected() == 0


def test_a_name_that_comes_after_a_restart_of_both_waits_for_those_who_hold_permits(pair: Pair) -> None:
    port = free_port()
    running, server = pair(6, port=port)
    first, _ = joined(running, tcp(port, "127.0.0.1"))
    id = first.resolved[f"tcp://127.0.0.1:{port}"]
    first.grow(id, 4)
    running.kill()
    server.stop()
    server.start()
    running.start()
    second = running.member().hello(endpoint_of(server.path))
    time.sleep(0.5)
    assert second.resolved == {}, "it may be the server at which the first holds permits, who has not come back yet"
    first.connect().hello(tcp(port, "127.0.0.1"))
    second.until(lambda m: m.resolved, 5, what="it is known which server that is")
    assert set(second.resolved.values()) == {id}


def test_two_names_are_united_when_the_right_credentials_come(pair: Pair) -> None:
    port = free_port()
    running, server = pair(6, port=port, requirepass="right")
    wrong, right = (endpoint_of(server.path, password=word) for word in ("wrong", "right"))
    stranger, _ = joined(running, wrong)
    by_tcp, _ = joined(running, tcp(port, "127.0.0.1", "right"))
    late = running.member().hello(right)
    wait_for(lambda: len(running.status()["servers"]) == 1, 10, what="they are one server")
    id = running.server()["id"]
    for member, key in ((stranger, wrong.key), (late, wrong.key), (by_tcp, f"tcp://127.0.0.1:{port}")):
        member.until(lambda m, key=key: m.resolved.get(key) == id, what="it is told")  # type: ignore[misc]
    for member in (stranger, late, by_tcp):
        member.obey(id)

    def within() -> bool:
        for member in (stranger, late, by_tcp):
            member.read(0.01)
        state = running.server()
        return bool(state["charged"] + state["own"] <= 6)

    wait_for(within, 10, what="what the two gave away together is taken back")
    assert server.rejected() == 0


def test_two_addresses_that_change_hands_stay_two_servers(supervisor: Start, redis_server: Servers) -> None:
    """A virtual address, or a container that has another one after a restart. What the other one said before is what
    this one says now."""
    one, two = (redis_server(port=free_port(), maxclients=13) for _ in range(2))
    running = supervisor(12)
    with proxy_to(one.port) as first, proxy_to(two.port) as second:
        joined(running, tcp(first.port, "127.0.0.1"))
        joined(running, tcp(second.port, "127.0.0.1"))
        before = {server["id"]: server["run_id"] for server in running.status()["servers"]}
        assert len(before) == 2
        for _ in range(3):
            first.target, second.target = second.target, first.target
            first.cut()
            second.cut()
            swapped = dict(zip(before, reversed(before.values()), strict=True))

            def seen(expected: dict[str, str] = swapped) -> bool:
                return {server["id"]: server["run_id"] for server in running.status()["servers"]} == expected

            wait_for(seen, 10, what="each says who it is, and they are two")
            before = swapped
        assert not running.events("server.united")


def test_an_address_that_moves_to_a_known_server_is_found_to_be_that(supervisor: Start, redis_server: Servers) -> None:
    one, two = (redis_server(port=free_port(), maxclients=13) for _ in range(2))
    running = supervisor(12)
    with proxy_to(one.port) as moving:
        joined(running, tcp(moving.port, "127.0.0.1"))
        joined(running, tcp(two.port, "127.0.0.1"))
        moving.target = two.port
        moving.cut()
        wait_for(lambda: len(running.status()["servers"]) == 1, 10, what="they are one")
    assert two.rejected() == 0


def test_the_same_address_is_the_same_server_where_it_does_not_say_who_it_is(
    supervisor: Start, redis_server: Servers
) -> None:
    port = free_port()
    redis_server(port=port, maxclients=7, requirepass="right")
    running = supervisor(6)
    joined(running, tcp(port, "localhost", "wrong"))
    joined(running, tcp(port, "127.0.0.1", "right"))
    assert set(running.server()["aliases"]) == {f"tcp://localhost:{port}", f"tcp://127.0.0.1:{port}"}
