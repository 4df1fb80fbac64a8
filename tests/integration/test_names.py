"""Where a name leads can change at any moment: a permit is for an address, and members follow the name."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import wire
from tests.fake_member import endpoint_of
from tests.helpers import ROOT, RedisServer, Servers, debian_redis_binary, free_port, wait_for
from tests.names import Names
from tests.supervisor_process import Start, SupervisorProcess, joined

BUDGET = 12

WITHIN = 5.0
"""Seconds within which a name serves again that leads to another server."""


class Client:
    """A process of :mod:`tests.apps.named`."""

    def __init__(self, supervisor: SupervisorProcess, names: Names, url: str, threads: int, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.apps.named", url, str(threads), *options],
            env={
                **os.environ,
                **names.environ,
                "PYTHONPATH": str(ROOT),
                "POOLMGR_SOCKET": supervisor.path,
                "POOLMGR_AUTOSTART": "0",
                "REDIS_CONNECTION_BUDGET": str(BUDGET),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def served(self, who: str, count: int = 1, *, timeout: float = WITHIN) -> None:
        """Until that server has answered so many more calls."""
        goal = self.ask()["answers"].get(who, 0) + count
        try:
            wait_for(lambda: self.ask()["answers"].get(who, 0) >= goal, timeout, what=f"{who} answers", step=0.05)
        except AssertionError:
            print(self.ask())
            raise

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


Clients = Callable[..., Client]


@pytest.fixture
def names(short_dir: Path) -> Names:
    return Names(short_dir / "names")


@pytest.fixture
def clients(names: Names) -> Iterator[Clients]:
    made: list[Client] = []

    def start(supervisor: SupervisorProcess, url: str, threads: int, *options: str) -> Client:
        made.append(Client(supervisor, names, url, threads, *options))
        return made[-1]

    yield start
    for client in made:
        client.stop()


def server_at(redis_server: Servers, address: str, port: int, who: str) -> RedisServer:
    """One that takes no connection more than the budget and the observer."""
    server = redis_server(port=port, bind=address, maxclients=BUDGET + 1)
    with server.observer() as admin:
        admin.set("who", who)
    return server


def servers(running: SupervisorProcess) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = running.status()["servers"]
    return found


def test_a_name_that_leads_to_a_server_known_by_another_name(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """The primary dies. All permits of the other server are in use, by another name."""
    port = free_port()
    one, two = (
        server_at(redis_server, address, port, who) for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2"))
    )
    names.lead(cache="127.0.0.2", store="127.0.0.3")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = [clients(running, f"redis://cache:{port}", 10) for _ in range(2)]
    store = clients(running, f"redis://store:{port}", 20)
    for client in cache:
        client.served("1", 100, timeout=20)
    store.served("2", 100, timeout=20)
    one.stop()
    names.lead(cache="127.0.0.3")
    at = time.time()
    for client in [*cache, store]:
        client.served("2", 100, timeout=WITHIN - (time.time() - at))
    assert two.rejected() == 0
    time_of_errors = max(client.ask()["failed"] for client in cache)
    assert time_of_errors < at + WITHIN
    assert store.ask()["errors"] == {}


def test_two_names_swap_their_servers(supervisor: Start, redis_server: Servers, names: Names, clients: Clients) -> None:
    """Under load, with connections that live for half a second."""
    port = free_port()
    one, two = (
        server_at(redis_server, address, port, who) for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2"))
    )
    names.lead(cache="127.0.0.2", store="127.0.0.3")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = clients(running, f"redis://cache:{port}", 20, "max_lifetime=0.5")
    store = clients(running, f"redis://store:{port}", 20, "max_lifetime=0.5")
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
    assert cache.ask()["errors"] == store.ask()["errors"] == {}


def test_two_names_of_one_server_have_one_budget(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    port = free_port()
    server = server_at(redis_server, "127.0.0.2", port, "1")
    names.lead(cache="127.0.0.2", store="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    (cache, store) = (clients(running, f"redis://{name}:{port}", 20) for name in ("cache", "store"))
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
    client = clients(running, f"redis://cache:{port}", 8)
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
    for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2")):
        server_at(redis_server, address, port, who)
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
    client = clients(running, f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    assert client.ask()["errors"] == {}
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
    one, two = (
        server_at(redis_server, address, port, who) for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2"))
    )
    names.lead(cache=("127.0.0.2", "127.0.0.3"))
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    cache = [clients(running, f"redis://cache:{port}", 4) for _ in range(2)]
    for client in cache:
        client.served("1", 20, timeout=20)
    first = clients(running, f"redis://127.0.0.2:{port}", 4)
    first.served("1", 20, timeout=20)
    one.stop()
    for client in cache:
        client.served("2", 20)
    wait_for(lambda: running.events("outage.began"), 4, what="the first address is down")
    for client in cache:
        client.served("2", 300, timeout=20)
    assert not running.events("outage.ended")
    assert not running.server_of(f"tcp://127.0.0.2:{port}")["health"]["up"]
    assert any("ServerDownError" in error for error in first.ask()["errors"])
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
    one, _ = (server_at(redis_server, address, port, who) for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2")))
    names.lead(cache="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", REDIS_SOCKET_TIMEOUT="1", **names.environ)
    client = clients(running, f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    wait_for(lambda: running.server()["free"] == 0, 10, what="all is in use")
    os.kill(one.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: not running.server()["health"]["up"], 15, what="it is down")
        names.lead(cache="127.0.0.3")
        client.served("2", 100, timeout=15)  # one look over the budget may have to be waited for
    finally:
        os.kill(one.pid, signal.SIGCONT)


def test_a_name_is_looked_up_again_while_its_server_is_down(
    supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """All calls fail at once then, so that none of them looks."""
    port = free_port()
    one = server_at(redis_server, "127.0.0.2", port, "1")
    server_at(redis_server, "127.0.0.3", port, "2")
    names.lead(cache="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    client = clients(running, f"redis://cache:{port}", 20)
    client.served("1", 100, timeout=20)
    one.stop()
    wait_for(lambda: any("ServerDownError" in error for error in client.ask()["errors"]), 10, what="it is down")
    names.lead(cache="127.0.0.3")
    client.served("2", 100)


def test_tls_verifies_the_name_and_not_the_address(
    short_dir: Path, supervisor: Start, redis_server: Servers, names: Names, clients: Clients
) -> None:
    """By the supervisor and by members: the certificate knows the name only."""
    binary = debian_redis_binary()
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs redis-server with TLS, and openssl")
    key, certificate = short_dir / "key.pem", short_dir / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cache",
         "-addext", "subjectAltName=DNS:cache", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    secured = {"tls_port": port, "tls_cert_file": str(certificate), "tls_key_file": str(key), "tls_auth_clients": "no"}
    for address, who in (("127.0.0.2", "1"), ("127.0.0.3", "2")):
        server = redis_server(binary=binary, bind=address, maxclients=BUDGET + 1, **secured)
        with server.observer() as admin:
            admin.set("who", who)
    names.lead(cache="127.0.0.2", store="127.0.0.2")
    running = supervisor(BUDGET, POOLMGR_LINGER="60", **names.environ)
    url = f"rediss://{{}}:{port}?ssl_ca_certs={certificate}"
    cache = clients(running, url.format("cache"), 4, "max_lifetime=0.5")
    cache.served("1", 20, timeout=20)
    assert cache.ask()["errors"] == {}
    names.lead(cache="127.0.0.3")
    cache.served("2", 20)
    store = clients(running, url.format("store"), 4)
    wait_for(lambda: any("ertificate" in error for error in store.ask()["errors"]), 10, what="it is not taken")
    assert store.ask()["answers"] == {}
    assert cache.ask()["errors"] == {}
