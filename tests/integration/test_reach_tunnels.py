"""A connection class with a tunnel of its own reaches what nobody else can, or another server than others reach."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis.connection import Connection

from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.pools import Processes, client_of, give, take
from tests.program import Program
from tests.supervisor_process import IMPATIENT, Start, SupervisorProcess

BUDGET = 8

HOST = "db.internal"
"""Known at the tunnel's other end only."""


def tunnel_to(port: int) -> type[Connection]:
    class Tunnel(Connection):
        def _connect(self) -> Any:
            return socket.create_connection(("127.0.0.1", port))

    return Tunnel


class Mixin(Connection):
    """Somebody's code stands between, and goes the usual way."""

    def _connect(self) -> Any:
        return super()._connect()


@pytest.fixture
def server(redis_server: Servers) -> Iterator[RedisServer]:
    server = redis_server(port=free_port(), maxclients=BUDGET + 1)
    yield server
    assert server.rejected() == 0


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    hasty = "upstreams.unproven.WAIT=1.5 upstreams.reconcile.HIDDEN_AGAIN=0.5"
    return supervisor(BUDGET, **IMPATIENT, POOLMGR_LINGER="20", HASTY=hasty)


Pool = Callable[..., ConnectionPool]


@pytest.fixture
def pool(process: Processes) -> Pool:
    """Makes a pool in a process of its own, with this connection class."""

    def make(kind: type, host: str = HOST, port: int = 6379) -> ConnectionPool:
        return process().pool(port, host=host, connection_class=kind, timeout=3)

    return make


def test_it_works_and_its_ledger_is_kept_by_the_name(
    server: RedisServer, running: SupervisorProcess, pool: Pool
) -> None:
    pools = [pool(tunnel_to(server.port)) for _ in range(3)]
    assert all(client_of(each).ping() for each in pools)
    held = [take(each, 2) for each in pools]
    found = running.server()
    assert found["id"] == f"tcp://{HOST}:6379"
    assert found["budget"] == BUDGET
    assert found["health"]["up"]
    assert found["health"]["unseen"]
    assert not running.events("outage.began")
    for each, connections in zip(pools, held, strict=True):
        give(each, connections)
    running.kill()
    running.start()
    wait_for(lambda: running.server()["charged"] >= 6, 10, what="they are members again")
    assert client_of(pools[0]).ping()
    lent = take(pools[1], 4)
    give(pools[1], lent)
    assert not running.events("outage.began")
    assert not running.events("snapshot.unusable")


def killed_with_permits(running: SupervisorProcess, tunnel: int, host: str, port: int) -> float:
    """Seconds until all permits of a process that was killed are free."""
    script = (
        "import sys, time\n"
        "from poolmgr import ConnectionPool\n"
        "from tests.integration.test_reach_tunnels import tunnel_to\n"
        f"pool = ConnectionPool(host={host!r}, port={port}, connection_class=tunnel_to({tunnel}))\n"
        "held = [pool.get_connection() for _ in range(5)]\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    with Program("-c", script, POOLMGR_AUTOSTART="0") as process:
        assert process.says() == "ready"
        assert running.server()["charged"] >= 5
        process.kill()
    killed = time.monotonic()
    wait_for(lambda: running.server()["quarantine"] >= 5, what="its end is seen", step=0.01)
    wait_for(lambda: running.server()["quarantine"] == 0, 15, what="its permits", step=0.01)
    return time.monotonic() - killed


def test_permits_of_one_that_dies_come_back_after_the_wait(
    server: RedisServer, running: SupervisorProcess, pool: Pool
) -> None:
    other = pool(tunnel_to(server.port))
    assert client_of(other).ping()
    killed_with_permits(running, server.port, HOST, 6379)
    assert running.server()["unproven"] >= 5, "nobody could look, and that is said"
    give(other, take(other, 7))


def test_a_list_of_another_server_proves_nothing(
    server: RedisServer, redis_server: Servers, running: SupervisorProcess, pool: Pool
) -> None:
    """The same address means one server here, and another one at the tunnel's end."""
    another = redis_server(port=free_port())
    other = pool(tunnel_to(server.port), "127.0.0.1", another.port)
    assert client_of(other).ping()
    assert not running.server()["health"]["unseen"]
    assert killed_with_permits(running, server.port, "127.0.0.1", another.port) >= 1.4
    assert running.server()["unproven"] >= 5


def test_a_name_by_which_the_supervisor_meets_silence(
    server: RedisServer, running: SupervisorProcess, pool: Pool
) -> None:
    """Something listens there, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pools = [pool(tunnel_to(server.port), "127.0.0.1", silent.getsockname()[1]) for _ in range(2)]
        for each in pools:
            assert client_of(each).ping()
            give(each, take(each, 3))
        assert running.server()["health"]["unseen"] == "no answer in time"
        assert not running.events("outage.began")


def test_one_that_goes_the_usual_way_shares_the_budget_with_all_others(
    server: RedisServer, running: SupervisorProcess, pool: Pool
) -> None:
    usual = pool(Connection, "127.0.0.1", server.port)
    assert client_of(usual).ping()
    other = pool(Mixin, "localhost", server.port)
    assert client_of(other).ping()
    found = running.server()
    assert {f"tcp://127.0.0.1:{server.port}", f"tcp://localhost:{server.port}"} <= set(found["aliases"])
    assert not found["health"]["unseen"]
