"""Where a name leads can change at any moment: a permit is for an address, and members follow the name."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import wire
from tests.certificates import able_to_speak_tls, certify, over_tls
from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, Servers, free_port, stopped, wait_for
from tests.names import Names
from tests.program import Program
from tests.supervisor_process import Start, SupervisorProcess, joined

BUDGET = 12

WITHIN = 5.0
"""Seconds within which a name serves again that leads to another server."""


class Client(Program):
    """A process of :mod:`tests.apps.named`."""

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask())
        return found

    def served(self, who: str, count: int = 1, *, timeout: float = WITHIN) -> None:
        """Until that server has answered so many more calls."""
        goal = self.state()["answers"].get(who, 0) + count
        try:
            wait_for(lambda: self.state()["answers"].get(who, 0) >= goal, timeout, what=f"{who} answers", step=0.05)
        except AssertionError:
            print(self.state())
            raise


Clients = Callable[..., Client]


@pytest.fixture
def names(short_dir: Path) -> Names:
    return Names(short_dir / "names")


@pytest.fixture
def clients(names: Names) -> Iterator[Clients]:
    environ = {**names.environ, "POOLMGR_AUTOSTART": "0", "REDIS_CONNECTION_BUDGET": str(BUDGET)}
    with contextlib.ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(Client("-m", "tests.apps.named", *arguments, **environ))


def server_at(redis_server: Servers, address: str, port: int, who: str) -> RedisServer:
    """One that takes no connection more than the budget and the observer."""
    server = redis_server(port=port, bind=address, maxclients=BUDGET + 1)
    with server.observer() as admin:
        admin.set("who", who)
    return server


def two_servers(redis_server: Servers, port: int) -> list[RedisServer]:
    return [server_at(redis_server, address, port, who) for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2"))]


def servers(running: SupervisorProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.status()["servers"]
    return found


def test_a_name_that_leads_to_a_server_known_by_another_name(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """The primary dies. All permits of the other server are in use, by another name."""
    port = free_port()
    one, two = two_servers(redis_server, port)
    names.lead(cache="127.0.0.2", store="127.0.0.3")
    supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = [clients(f"redis://cache:{port}", 10) for _ in range(2)]
    store = clients(f"redis://store:{port}", 20)
    for client in cache:
        client.served("1", 100, timeout=20)
    store.served("2", 100, timeout=20)
    one.stop()
    names.lead(cache="127.0.0.3")
    at = time.time()
    for client in [*cache, store]:
        client.served("2", 100, timeout=WITHIN - (time.time() - at))
    assert two.rejected() == 0
    time_of_errors = max(client.state()["failed"] for client in cache)
    assert time_of_errors < at + WITHIN
    assert store.state()["errors"] == {}


def test_two_names_swap_their_servers(supervisor: Start, redis_server: Servers, names: Names, clients: Clients) -> None:
    """Under load, with connections that live for half a second."""
    port = free_port()
    one, two = two_servers(redis_server, port)
    names.lead(cache="127.0.0.2", store="127.0.0.3")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = clients(f"redis://cache:{port}", 20, "max_lifetime=0.5")
    store = clients(f"redis://store:{port}", 20, "max_lifetime=0.5")
    for _ in range(3):
        cache.served("1", 100, timeout=20)
        store.served("2", 100, timeout=20)
        names.lead(cache="127.0.0.3", store="127.0.0.2")
        cache.served("2", 100)
        store.served("1", 100)
        names.lead(cache="127.0.0.2", store="127.0.0.3")
    cache.served("1", 100)
    assert one.rejected() == two.rejected() == 0
    assert len(servers(running)) == 2
    assert {server["budget"] for server in servers(running)} == {BUDGET}
    assert cache.state()["errors"] == store.state()["errors"] == {}


def test_two_names_of_one_server_have_one_budget(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    port = free_port()
    server = server_at(redis_server, "127.0.0.2", port, "1")
    names.lead(cache="127.0.0.2", store="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    (cache, store) = (clients(f"redis://{name}:{port}", 20) for name in ("cache", "store"))
    cache.served("1", 100, timeout=20)
    store.served("1", 100, timeout=20)
    assert server.rejected() == 0
    (found,) = servers(running)
    assert {f"tcp://cache:{port}", f"tcp://store:{port}"} <= set(found["aliases"])


def test_a_budget_is_set_by_the_name(supervisor: Start, redis_server: Servers, names: Names, clients: Clients) -> None:
    """In the environment, and live."""
    port = free_port()
    server_at(redis_server, "127.0.0.2", port, "1")
    names.lead(cache="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", REDIS_CONNECTION_BUDGETS=f"cache:{port}=5", **names.environ)
    client = clients(f"redis://cache:{port}", 8)
    client.served("1", 20, timeout=20)
    assert running.server()["budget"] == 5
    tool = running.member()
    tool.send(wire.SetBudget(f"tcp://cache:{port}", "7"))
    assert tool.until(lambda m: m.last(wire.Answer)).ok
    wait_for(lambda: running.server()["budget"] == 7, what="it is what was said")
    running.kill()
    running.start()
    client.served("1", 20, timeout=20)
    assert running.server()["budget"] == 7


def test_a_supervisor_that_begins_anew_asks_where_a_name_leads(
    supervisor: Start, redis_server: Servers, names: Names
) -> None:
    """A connection class with a way of its own is known by its host's name; the snapshot has where that led once."""
    port = free_port()
    two_servers(redis_server, port)
    names.lead(cache="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    by_address, one = joined(running, endpoint_of(port=port, host="127.0.0.2"))
    _, other = joined(running, endpoint_of(port=port, host="cache"))
    assert other == one
    by_address.grow(one, 3)
    running.kill()
    names.lead(cache="127.0.0.3")
    running.start()
    by_address.connect().hello(endpoint_of(port=port, host="127.0.0.2"))
    _, other = joined(running, endpoint_of(port=port, host="cache"))
    assert other != one


def test_a_name_whose_first_address_nobody_listens_at(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    port = free_port()
    server = server_at(redis_server, "127.0.0.2", port, "1")
    names.lead(cache=("127.0.0.4", "127.0.0.2"))
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    client = clients(f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    assert client.state()["errors"] == {}
    assert server.rejected() == 0
    (found,) = servers(running)
    assert set(found["aliases"]) == {f"tcp://127.0.0.2:{port}", f"tcp://cache:{port}"}
    wait_for(lambda: running.events("server.forgotten"), 10, what="nothing is kept for the other one")
    assert not running.events("outage.began")
    client.served("1", 100)


def test_who_has_gone_on_to_the_next_address_bears_no_witness_for_the_first(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """It has replies, and none of them is the first one's: that is down, and stays so."""
    port = free_port()
    one, two = two_servers(redis_server, port)
    names.lead(cache=("127.0.0.2", "127.0.0.3"))
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = [clients(f"redis://cache:{port}", 4) for _ in range(2)]
    for client in cache:
        client.served("1", 20, timeout=20)
    first = clients(f"redis://127.0.0.2:{port}", 4)
    first.served("1", 20, timeout=20)
    one.stop()
    for client in cache:
        client.served("2", 20)
    wait_for(lambda: running.events("outage.began"), 4, what="the first address is down")
    for client in cache:
        client.served("2", 300, timeout=20)
    assert not running.events("outage.ended")
    assert not running.server_of(f"tcp://127.0.0.2:{port}")["health"]["up"]
    assert any("ServerDownError" in error for error in first.state()["errors"])
    one.start()
    with one.observer() as admin:
        admin.set("who", "1")
    first.served("1", 20, timeout=10)
    assert two.rejected() == 0


def test_a_name_that_leads_elsewhere_after_every_permit_was_lost(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """A hung server: each of its connections is given up, and whether it still has them nobody knows. So no process may
    open one more to find out that the name has another server by now."""
    port = free_port()
    one, _ = two_servers(redis_server, port)
    names.lead(cache="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", REDIS_SOCKET_TIMEOUT="1", **names.environ)
    client = clients(f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    wait_for(lambda: running.server()["free"] == 0, 10, what="all is in use")
    with stopped(one.pid):
        wait_for(lambda: not running.server()["health"]["up"], 15, what="it is down")
        names.lead(cache="127.0.0.3")
        client.served("2", 100, timeout=15)  # one look over the budget may have to be waited for


def test_a_name_is_looked_up_again_while_its_server_is_down(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """All calls fail at once then, so that none of them looks."""
    port = free_port()
    one, _ = two_servers(redis_server, port)
    names.lead(cache="127.0.0.2")
    supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    client = clients(f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    one.stop()
    wait_for(lambda: any("ServerDownError" in error for error in client.state()["errors"]), 10, what="it is down")
    names.lead(cache="127.0.0.3")
    client.served("2", 100)


def test_tls_verifies_the_name_and_not_the_address(
    short_dir: Path, supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """By the supervisor and by members: the certificate knows the name only."""
    able_to_speak_tls()
    certificate, port = certify(short_dir, "cert", "cache"), free_port()
    for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2")):
        server = redis_server(bind=address, maxclients=BUDGET + 1, **over_tls(certificate, port))
        with server.observer() as admin:
            admin.set("who", who)
    names.lead(cache="127.0.0.2", store="127.0.0.2")
    supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    url = f"rediss://{{}}:{port}?ssl_ca_certs={certificate}"
    cache = clients(url.format("cache"), 4, "max_lifetime=0.5")
    cache.served("1", 20, timeout=20)
    assert cache.state()["errors"] == {}
    names.lead(cache="127.0.0.3")
    cache.served("2", 20)
    store = clients(url.format("store"), 4)
    wait_for(lambda: any("ertificate" in error for error in store.state()["errors"]), 10, what="it is not taken")
    assert store.state()["answers"] == {}
    assert cache.state()["errors"] == {}
