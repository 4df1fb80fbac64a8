"""A server that answers and does not renew: READONLY, BUSY, a full memory, a pause, a failover. What is open stays, no
request fails for it, and all goes on once it can."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.fleet.hosts import LEASE, Host, connected, rejected, table, wait_for
from tests.fleet.test_fleet import BUDGET, OBSERVERS, shares
from tests.helpers import RedisServer, Servers, free_port
from tests.pools import running_sentinel, running_server

Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server(maxclients=BUDGET + OBSERVERS, enable_debug_command="yes") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.observer() as observer:
        yield observer


@contextlib.contextmanager
def started(url: str, flavour: str = "sync") -> Iterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="pm-", dir="/tmp") as base:
        hosts = [Host(Path(base) / str(n), url, REDIS_FLEET_BUDGET=str(BUDGET)) for n in (1, 2)]
        try:
            for host in hosts:
                host.start((flavour,))
                host.callers(20)
            yield hosts[0], hosts[1]
        finally:
            for host in hosts:
                host.stop()


@pytest.fixture(scope="module")
def pair(server: RedisServer, client: redis.Redis) -> Iterator[Pair]:
    """Two hosts that share the server all the time."""
    with started(server.url) as hosts:
        wait_for(lambda: shares(client) == [7, 7], 30, what="two hosts that want more have half each")
        yield hosts


@pytest.fixture
def calm(pair: Pair, client: redis.Redis) -> Iterator[Pair]:
    """The same: before and after, all is well."""
    wait_for(lambda: shares(client) == [7, 7], 30, what="they share")
    yield pair
    wait_for(lambda: not any(host.lease["trouble"] for host in pair), 30, what="they renew again")
    wait_for(lambda: shares(client) == [7, 7], 30, what="they share again")
    works(pair)
    assert rejected(client) == 0


def works(hosts: Pair) -> None:
    for host in hosts:
        good = host.good
        wait_for(lambda host=host, good=good: host.good > good + 20, 20, what="it works")  # type: ignore[misc]


def told(host: Host, word: str) -> str:
    """The lease has ended; what its status then says."""
    wait_for(lambda: word in host.lease["trouble"], 20, what="it says why it does not renew")
    wait_for(lambda: host.lease["seconds_left"] < 0, 20, what="its lease ends")
    return " ".join(host.supervisor.status()["notes"])


def test_a_server_that_takes_no_writes(calm: Pair, client: redis.Redis) -> None:
    names = {host.lease["name"] for host in calm}
    client.execute_command("REPLICAOF", "127.0.0.1", free_port())
    try:
        for host in calm:
            notes = told(host, "READONLY")
            assert "the server does not renew this host's lease now" in notes
            assert "so nothing new is opened" in notes
        before = connected(client)
        works(calm)
        assert connected(client) == before, "what is open stays, and nothing new is opened"
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    wait_for(lambda: all(host.lease["seconds_left"] > 0 for host in calm), 20, what="they renew")
    assert {host.lease["name"] for host in calm} == names
    assert all("UNBLOCKED" in text for host in calm for text in host.errors), "REPLICAOF itself ends what blocks"


def test_a_server_whose_memory_is_full_keeps_the_table(calm: Pair, client: redis.Redis) -> None:
    errors = [host.errors for host in calm]
    client.config_set("maxmemory", 1)
    try:
        counts = [host.lease["renewals"]["ok"] for host in calm]
        for host, count in zip(calm, counts, strict=True):
            wait_for(
                lambda host=host, count=count: host.lease["renewals"]["ok"] > count + 3,  # type: ignore[misc]
                20,
                what="it renews",
            )
        works(calm)
    finally:
        client.config_set("maxmemory", 0)
    assert [host.errors for host in calm] == errors


def test_a_server_that_is_busy_with_a_script(calm: Pair, server: RedisServer, client: redis.Redis) -> None:
    names = {host.lease["name"] for host in calm}
    client.config_set("busy-reply-threshold", 50)

    def endless() -> None:
        with server.observer() as other, contextlib.suppress(redis.RedisError):
            other.eval("while true do end", 0)

    running = threading.Thread(target=endless)
    running.start()
    try:
        for host in calm:
            notes = told(host, "BUSY")
            assert "the server does not renew this host's lease now" in notes
    finally:
        wait_for(lambda: _killed(client), 20, what="the script is killed")
        running.join()
    wait_for(lambda: all(host.lease["seconds_left"] > 0 for host in calm), 20, what="they renew")
    assert {host.lease["name"] for host in calm} == names, "no host was fenced for it"


def _killed(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        client.script_kill()
        return True
    return False


def test_a_server_that_stands_still_for_three_leases(calm: Pair, server: RedisServer) -> None:
    names = {host.lease["name"] for host in calm}
    with redis.Redis.from_url(server.url, socket_timeout=60) as other:
        other.execute_command("DEBUG", "SLEEP", 3 * LEASE)
    wait_for(lambda: all(host.lease["seconds_left"] > 0 for host in calm), 20, what="they renew")
    assert {host.lease["name"] for host in calm} == names, "no host was fenced for it"


def test_a_failover_by_sentinel_and_back(redis_server: Servers) -> None:
    """Each server process has a table of its own, whatever a replica has got from its primary."""
    own = 3 + 1
    """Connections of the Sentinel's, and of a replica."""
    first, second = (
        redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS + own, repl_diskless_sync_delay=0) for _ in "12"
    )
    with second.observer() as client:
        client.replicaof("127.0.0.1", first.port)
        wait_for(lambda: client.info("replication")["master_link_status"] == "up", 20, what="it replicates")
    with running_sentinel(first, "sentinel failover-timeout main 3000") as sentinel:
        with started(f"sentinel://127.0.0.1:{sentinel}") as hosts:
            wait_for(lambda: _shared(first), 60, what="they share the primary")
            for primary in (second, first):
                wait_for(lambda primary=primary: _failed_over(sentinel, primary), 60, what="it fails over")  # type: ignore[misc]
                wait_for(lambda primary=primary: _shared(primary), 60, what="they share the new primary")  # type: ignore[misc]
                works(hosts)
                assert primary.rejected() == 0


def _shared(server: RedisServer) -> bool:
    with contextlib.suppress(redis.ConnectionError), server.observer() as client:
        found = table(client)
        mine = found is not None and found.run_id == client.info("server")["run_id"]
        return mine and shares(client) == [7, 7]
    return False


def _failed_over(sentinel: int, to: RedisServer) -> bool:
    with redis.Redis(port=sentinel, decode_responses=True) as client:
        with contextlib.suppress(redis.ResponseError):  # it does not know the replica yet, or has just failed over
            client.execute_command("SENTINEL FAILOVER", "main")
        return bool(client.sentinel_get_master_addr_by_name("main") == ("127.0.0.1", to.port))
