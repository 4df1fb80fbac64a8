"""What the supervisor cannot reach is not down: members that can connect go on. An outage is a verdict of members."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from poolmgr import settings
from poolmgr.exceptions import ServerDownError
from poolmgr.member.member import Member
from poolmgr.pool.sync.pool import ConnectionPool
from tests.fake_member import MemberProcess, endpoint_of
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.pools import client_of
from tests.proxy import proxy_to
from tests.supervisor_process import SupervisorProcess, joined

BUDGET = 20


@pytest.fixture
def server(redis_server: Servers) -> Iterator[RedisServer]:
    server = redis_server(port=free_port(), maxclients=BUDGET + 1)
    yield server
    assert server.rejected() == 0


@pytest.fixture
def running(isolated: Path) -> Iterator[SupervisorProcess]:
    process = SupervisorProcess(
        str(isolated),
        REDIS_CONNECTION_BUDGET=str(BUDGET),
        REDIS_SOCKET_TIMEOUT="0.3",
        REDIS_SOCKET_CONNECT_TIMEOUT="0.3",
        POOLMGR_LINGER="20",
        HASTY="servers.schedule.LOOK_EVERY=0.3 servers.admin.CLOSE_BOUND=0.3 servers.unproven.WAIT=1.5",
    ).start()
    yield process
    process.stop()


@pytest.fixture
def process() -> Iterator[Callable[..., ConnectionPool]]:
    """Makes a pool with a member of its own, as another process has."""
    made: list[tuple[ConnectionPool, Member]] = []

    def make(port: int, **options: Any) -> ConnectionPool:
        member = Member(settings.load())
        pool = ConnectionPool(
            host="127.0.0.1", port=port, member=member, socket_timeout=2, socket_connect_timeout=2, **options
        )
        made.append((pool, member))
        return pool

    yield make
    for pool, member in made:
        pool.disconnect()
        member.stop()


def of_supervisor(running: SupervisorProcess) -> bytes:
    """What only the supervisor's own connections say."""
    return f".{running.pid}.".encode()


def anew(pool: ConnectionPool) -> bool:
    """Connect anew."""
    pool.disconnect()
    return bool(client_of(pool).ping())


def does_not_see(running: SupervisorProcess) -> None:
    """It has looked, and was not answered."""
    wait_for(lambda: running.events("server.unseen") or running.events("outage.began"), 10)


def goes_on(pools: list[ConnectionPool], seconds: float) -> None:
    """Every one of them connects, again and again."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for pool in pools:
            assert anew(pool)


def health(running: SupervisorProcess) -> dict[str, object]:
    found: dict[str, object] = running.server()["health"]
    return found


@pytest.mark.parametrize("new", [False, True], ids=["one connection", "all of the supervisor's"])
def test_a_middlebox_that_forgets_the_supervisor_and_acknowledges_is_no_outage(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool], new: bool
) -> None:
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(3)]
        assert all(anew(pool) for pool in pools)
        wait_for(lambda: running.server()["own"] == 1)
        way.forget(of_supervisor(running), new=new)
        does_not_see(running)
        goes_on(pools, 2)
        dies = MemberProcess(running.path, endpoint_of(port=way.port), 4)
        try:
            dies.until(lambda s: s["open"] == 4)
            dies.kill()
            wait_for(lambda: any(m["pid"] == dies.pid for m in running.server()["members"]) is False, 10)
            wait_for(lambda: running.server()["quarantine"] == 0 or anew(pools[0]) is None, 10, what="its permits")
        finally:
            dies.stop()
        goes_on(pools, 1)
        assert not running.events("outage.began")
        if new:
            assert health(running)["unseen"] == "no answer in time"
            assert running.server()["unproven"] >= 4, "it could not be proven, and that is said"
            way.restore()
        wait_for(lambda: not health(running)["unseen"], 40, what="it is seen again")
        assert running.events("server.seen")


def test_a_supervisor_without_a_way_in_is_blind_and_nobody_else(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool]
) -> None:
    """A firewall by user or by cgroup: nobody lets it in, and everybody else."""
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(3)]
        assert all(anew(pool) for pool in pools)
        wait_for(lambda: running.server()["own"] == 1)
        way.forget(of_supervisor(running), new=True)
        with server.observer() as observer:
            for row in observer.client_list():
                if f".{running.pid}." in row["name"]:
                    observer.execute_command("CLIENT", "KILL", "ID", row["id"])
        does_not_see(running)
        goes_on(pools, 2)
        assert not running.events("outage.began")


def test_a_job_that_cannot_connect_proves_nothing_beside_warm_pools(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool]
) -> None:
    """The supervisor cannot see the server, and one process of several has no way to it."""
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(3)]
        assert all(anew(pool) for pool in pools)
        job, name = joined(running, endpoint_of(port=way.port))
        wait_for(lambda: running.server()["own"] == 1)
        way.forget(of_supervisor(running), new=True)
        does_not_see(running)
        until = time.monotonic() + 3
        while time.monotonic() < until:
            job.fails(name, "No route to host")
            assert anew(pools[0])
        assert not running.events("outage.began")


def test_nor_beside_pools_that_rest(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool]
) -> None:
    """Nobody has had a reply for a while: another process is asked to connect, and can."""
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(3)]
        assert all(anew(pool) for pool in pools)
        job, name = joined(running, endpoint_of(port=way.port))
        wait_for(lambda: running.server()["own"] == 1)
        way.forget(of_supervisor(running), new=True)
        does_not_see(running)
        assert anew(pools[0])
        accepted = way.accepted
        for _ in range(3):
            job.fails(name, "No route to host")
            wait_for(lambda before=accepted: way.accepted > before, 10, what="another one tries")  # type: ignore[misc]
            accepted = way.accepted
            assert anew(pools[1])
        assert not running.events("outage.began")


def test_a_server_that_really_ends_is_down_though_the_supervisor_was_blind(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool]
) -> None:
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(3)]
        assert all(anew(pool) for pool in pools)
        wait_for(lambda: running.server()["own"] == 1)
        way.forget(of_supervisor(running), new=True)
        does_not_see(running)
        assert anew(pools[0])
        way.refuse()
        with pytest.raises(redis.ConnectionError):
            anew(pools[0])
        wait_for(lambda: running.events("outage.began"), 10, what="two have failed")
        wait_for(lambda: pools[2]._origin.attach().outage, what="the third one is told")  # type: ignore[union-attr]
        with pytest.raises(ServerDownError):
            anew(pools[2])
        way.restore()
        way.forget(of_supervisor(running), new=True)
        wait_for(lambda: running.events("outage.ended"), 10, what="one that tried has had a reply")
        assert not pools[0].stats().waiting
        wait_for(lambda: _works(pools[2]), 10)


def _works(pool: ConnectionPool) -> bool:
    try:
        return anew(pool)
    except ServerDownError:
        return False


def test_while_it_is_down_one_process_at_a_time_tries(
    server: RedisServer, running: SupervisorProcess, process: Callable[..., ConnectionPool]
) -> None:
    with proxy_to(server.port) as way:
        pools = [process(way.port) for _ in range(6)]
        assert all(anew(pool) for pool in pools)
        way.refuse()

        def all_know() -> bool:
            """One has tried, and again where the supervisor got its turn too late to believe it."""
            with pytest.raises(redis.ConnectionError):
                anew(pools[0])
            return all(pool._origin.attach().outage for pool in pools)  # type: ignore[union-attr]

        wait_for(all_know, 10, step=0.5)
        tried = sum(pool.stats().connect_errors for pool in pools)
        way.stalled = True  # attempts hang from now on, so that they could be seen to overlap
        with way._lock:
            way._listen(way.port)
        way._poke()
        until = time.monotonic() + 4
        while time.monotonic() < until:
            theirs = sum(len(pool._core.opening) for pool in pools)
            assert theirs <= 1, "one at a time"
            for pool in pools:
                with pytest.raises(ServerDownError):
                    client_of(pool).ping()
        assert sum(pool.stats().connect_errors for pool in pools) > tried, "and not always the first"
        way.cut()
        way.restore()
        wait_for(lambda: running.events("outage.ended"), 15)
