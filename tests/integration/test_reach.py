"""What the supervisor cannot reach is not down: members that can connect go on. An outage is a verdict of members."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from poolmgr.exceptions import ServerDownError
from poolmgr.pool.sync.pool import ConnectionPool
from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, Servers, free_port, throughout, wait_for
from tests.member_process import Members
from tests.pools import Processes, client_of
from tests.proxy import Proxy
from tests.supervisor_process import IMPATIENT, Start, SupervisorProcess, joined

BUDGET = 20


@pytest.fixture
def server(redis_server: Servers) -> Iterator[RedisServer]:
    server = redis_server(port=free_port(), maxclients=BUDGET + 1)
    yield server
    assert server.rejected() == 0


@pytest.fixture
def running(supervisor: Start) -> SupervisorProcess:
    hasty = "upstreams.schedule.LOOK_EVERY=0.3 upstreams.admin.CLOSE_BOUND=0.3 upstreams.unproven.WAIT=1.5"
    return supervisor(BUDGET, **IMPATIENT, POOLMGR_LINGER="20", HASTY=hasty)


@pytest.fixture
def pools(process: Processes, running: SupervisorProcess, proxy: Proxy) -> list[ConnectionPool]:
    """Of three processes, each with a connection."""
    return connected(process, proxy, 3)


def connected(process: Processes, proxy: Proxy, count: int) -> list[ConnectionPool]:
    pools = [process().pool(proxy.port, socket_timeout=2, socket_connect_timeout=2) for _ in range(count)]
    assert all(anew(pool) for pool in pools)
    return pools


def of_supervisor(running: SupervisorProcess) -> bytes:
    """What only the supervisor's own connections say."""
    return f".{running.pid}.".encode()


def anew(pool: ConnectionPool) -> bool:
    """Connect anew."""
    pool.disconnect()
    return bool(client_of(pool).ping())


def blinded(running: SupervisorProcess, proxy: Proxy, *, new: bool = True, server: RedisServer | None = None) -> None:
    """The supervisor's connections lead nowhere any more. It has looked, and was not answered.

    Args:
        new: also those that it opens from now on.
        server: closes those that are there.
    """
    wait_for(lambda: running.server()["own"] == 1)
    proxy.forget(of_supervisor(running), new=new)
    if server is not None:
        running.cut_off(server)
    wait_for(lambda: running.events("server.unseen") or running.events("outage.began"), 10)


def goes_on(pools: list[ConnectionPool], seconds: float) -> None:
    """Every one of them connects, again and again."""
    for _ in throughout(seconds):
        for pool in pools:
            assert anew(pool)


def health(running: SupervisorProcess) -> dict[str, object]:
    found: dict[str, object] = running.server()["health"]
    return found


@pytest.mark.parametrize("new", [False, True], ids=["one connection", "all of the supervisor's"])
def test_a_middlebox_that_forgets_the_supervisor_and_acknowledges_is_no_outage(
    proxy: Proxy, running: SupervisorProcess, pools: list[ConnectionPool], new: bool, members: Members
) -> None:
    blinded(running, proxy, new=new)
    goes_on(pools, 2)
    dies = members(endpoint_of(port=proxy.port), 4).has(4)
    dies.kill()
    wait_for(lambda: any(m["pid"] == dies.pid for m in running.server()["members"]) is False, 10)
    wait_for(lambda: running.server()["quarantine"] == 0 or anew(pools[0]) is None, 10, what="its permits")
    goes_on(pools, 1)
    assert not running.events("outage.began")
    if new:
        assert health(running)["unseen"] == "no answer in time"
        assert running.server()["unproven"] >= 4, "it could not be proven, and that is said"
        proxy.restore()
    wait_for(lambda: not health(running)["unseen"], 40, what="it is seen again")
    assert running.events("server.seen")


def test_a_supervisor_without_a_way_in_is_blind_and_nobody_else(
    server: RedisServer, proxy: Proxy, running: SupervisorProcess, pools: list[ConnectionPool]
) -> None:
    """A firewall by user or by cgroup: nobody lets it in, and everybody else."""
    blinded(running, proxy, server=server)
    goes_on(pools, 2)
    assert not running.events("outage.began")


def test_a_job_that_cannot_connect_proves_nothing_beside_warm_pools(
    proxy: Proxy, running: SupervisorProcess, pools: list[ConnectionPool]
) -> None:
    """The supervisor cannot see the server, and one process of several has no way to it."""
    job, name = joined(running, endpoint_of(port=proxy.port))
    blinded(running, proxy)
    for _ in throughout(3):
        job.fails(name, "No route to host")
        assert anew(pools[0])
    assert not running.events("outage.began")


def test_nor_beside_pools_that_rest(proxy: Proxy, running: SupervisorProcess, pools: list[ConnectionPool]) -> None:
    """Nobody has had a reply for a while: another process is asked to connect, and can."""
    job, name = joined(running, endpoint_of(port=proxy.port))
    blinded(running, proxy)
    assert anew(pools[0])
    accepted = proxy.accepted
    for _ in range(3):
        job.fails(name, "No route to host")
        wait_for(lambda before=accepted: proxy.accepted > before, 10, what="another one tries")  # type: ignore[misc]
        accepted = proxy.accepted
        assert anew(pools[1])
    assert not running.events("outage.began")


def test_a_server_that_really_ends_is_down_though_the_supervisor_was_blind(
    proxy: Proxy, running: SupervisorProcess, pools: list[ConnectionPool]
) -> None:
    blinded(running, proxy)
    assert anew(pools[0])
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        anew(pools[0])
    wait_for(lambda: running.events("outage.began"), 10, what="two have failed")
    wait_for(lambda: pools[2]._origin.attach().outage, what="the third one is told")  # type: ignore[union-attr]
    with pytest.raises(ServerDownError):
        anew(pools[2])
    proxy.restore()
    proxy.forget(of_supervisor(running), new=True)
    wait_for(lambda: running.events("outage.ended"), 10, what="one that tried has had a reply")
    assert not pools[0].stats().waiting
    wait_for(lambda: _works(pools[2]), 10)


def _works(pool: ConnectionPool) -> bool:
    try:
        return anew(pool)
    except ServerDownError:
        return False


def test_while_it_is_down_one_process_at_a_time_tries(
    proxy: Proxy, running: SupervisorProcess, process: Processes
) -> None:
    pools = connected(process, proxy, 6)
    proxy.refuse()

    def all_know() -> bool:
        """One has tried, and again where the supervisor got its turn too late to believe it."""
        with pytest.raises(redis.ConnectionError):
            anew(pools[0])
        return all(pool._origin.attach().outage for pool in pools)  # type: ignore[union-attr]

    wait_for(all_know, 10, step=0.5)
    tried = sum(pool.stats().connect_errors for pool in pools)
    proxy.stalled = True  # attempts hang from now on, so that they could be seen to overlap
    with proxy._lock:
        proxy._listen(proxy.port)
    proxy._poke()
    for _ in throughout(4):
        theirs = sum(len(pool._core.opening) for pool in pools)
        assert theirs <= 1, "one at a time"
        for pool in pools:
            with pytest.raises(ServerDownError):
                client_of(pool).ping()
    assert sum(pool.stats().connect_errors for pool in pools) > tried, "and not always the first"
    proxy.cut()
    proxy.restore()
    wait_for(lambda: running.events("outage.ended"), 15)
