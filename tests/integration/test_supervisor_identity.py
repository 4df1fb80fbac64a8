"""One server by several names has one budget, also where a restart or wrong credentials hide that it is one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from poolmgr import wire
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import RedisServer, free_port, wait_for
from tests.supervisor_process import SupervisorProcess

Servers = Callable[..., RedisServer]
Start = Callable[..., SupervisorProcess]


@pytest.fixture
def supervisor(short_dir: Path) -> Iterator[Start]:
    made: list[SupervisorProcess] = []

    def start(budget: int) -> SupervisorProcess:
        found = SupervisorProcess(str(short_dir / "s"), REDIS_CONNECTION_BUDGET=str(budget))
        made.append(found)
        return found.start()

    yield start
    for process in made:
        process.stop()


def tcp(port: int, host: str, password: str | None = None) -> wire.Endpoint:
    return wire.Endpoint(key=f"tcp://{host}:{port}", host=host, port=port, password=password)


def joined(running: SupervisorProcess, endpoint: wire.Endpoint) -> FakeMember:
    member = running.member().hello(endpoint)
    member.until(lambda m: m.limits, what="a first limit")
    return member


@pytest.mark.parametrize("name", ["localhost", "unix"])
@pytest.mark.parametrize("budget", [6, 12])
def test_a_name_that_comes_right_after_a_restart_shares_the_budget(
    supervisor: Start, redis_server: Servers, budget: int, name: str
) -> None:
    port = free_port()
    server = redis_server(port=port, maxclients=budget + 1)
    running = supervisor(budget)
    first = joined(running, tcp(port, "127.0.0.1"))
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


def test_a_name_that_comes_after_a_restart_of_both_waits_for_those_who_hold_permits(
    supervisor: Start, redis_server: Servers
) -> None:
    port = free_port()
    server = redis_server(port=port, maxclients=7)
    running = supervisor(6)
    first = joined(running, tcp(port, "127.0.0.1"))
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


def test_two_names_are_united_when_the_right_credentials_come(supervisor: Start, redis_server: Servers) -> None:
    port = free_port()
    server = redis_server(port=port, maxclients=7, requirepass="right")
    running = supervisor(6)
    wrong, right = (endpoint_of(server.path, password=word) for word in ("wrong", "right"))
    stranger = joined(running, wrong)
    by_tcp = joined(running, tcp(port, "127.0.0.1", "right"))
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


def test_the_same_address_is_the_same_server_where_it_does_not_say_who_it_is(
    supervisor: Start, redis_server: Servers
) -> None:
    port = free_port()
    redis_server(port=port, maxclients=7, requirepass="right")
    running = supervisor(6)
    joined(running, tcp(port, "localhost", "wrong"))
    joined(running, tcp(port, "127.0.0.1", "right"))
    assert set(running.server()["aliases"]) == {f"tcp://localhost:{port}", f"tcp://127.0.0.1:{port}"}
