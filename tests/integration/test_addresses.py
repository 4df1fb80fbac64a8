"""Addresses that were one server and are two, or lead to several servers in turn; and those that nobody uses."""

from __future__ import annotations

import functools
import itertools
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from poolmgr import wire
from poolmgr.pool.sync.pool import ConnectionPool
from tests import names as resolver
from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, Servers, free_port, wait_for
from tests.names import Names
from tests.pools import Processes, client_of, give, take
from tests.proxy import Proxy, proxy_to
from tests.supervisor_process import Pair, Start, SupervisorProcess, joined
from tests.threads import Calls

BUDGET = 12

QUICK = "upstreams.schedule.ASK_EVERY=0.5 upstreams.schedule.LOOK_EVERY=0.5"


def at(port: int) -> wire.Endpoint:
    return endpoint_of(port=port)


def servers(running: SupervisorProcess) -> dict[str, str]:
    return {server["id"]: server["run_id"] for server in running.status()["servers"]}


def are_two(running: SupervisorProcess) -> bool:
    found = servers(running).values()
    return len(found) == len(set(found)) == 2 and all(found)


@pytest.fixture
def two(redis_server: Servers) -> Iterator[list[RedisServer]]:
    found = [redis_server(port=free_port(), maxclients=BUDGET + 2) for _ in range(2)]
    yield found
    assert [server.rejected() for server in found] == [0, 0]


# ---- two that were one ----------------------------------------------------------------------------------


def test_two_addresses_of_one_server_part_when_one_leads_elsewhere(
    supervisor: Start, two: list[RedisServer], process: Processes
) -> None:
    """What is open goes on: nobody closes it, so nobody is told. Then the supervisor begins anew."""
    running = supervisor(BUDGET, HASTY=QUICK)
    ours = process()
    with proxy_to(two[0].port) as moves:
        stays, goes = (ours.pool(port, timeout=5) for port in (two[0].port, moves.port))
        kept = take(stays, 3) + take(goes, 3)
        assert len(servers(running)) == 1
        moves.target = two[1].port
        wait_for(lambda: are_two(running), 15, what="they part")
        assert {server["budget"] for server in running.status()["servers"]} == {BUDGET}
        new = take(goes, 8)  # with the three that lead to the first one
        more = take(stays, 4)
        assert len(running.events("server.parted")) == 1
        running.kill()
        running.start()
        wait_for(lambda: are_two(running), 10, what="they are still two")
        give(goes, new)
        give(stays, more)
        assert client_of(goes).ping()
        assert client_of(stays).ping()
        assert not running.events("snapshot.unusable")
        for connection in kept:
            connection.disconnect()
        assert not running.events("server.united")


def test_a_member_that_does_not_know_of_it_states_all_by_both(supervisor: Start, two: list[RedisServer]) -> None:
    """One of an earlier version, whose link is cut when they part."""
    running = supervisor(BUDGET, HASTY=QUICK)
    with proxy_to(two[0].port) as moves:
        member, name = joined(running, at(two[0].port))
        member.attach(at(moves.port)).until(lambda m: m.resolved.get(at(moves.port).key) == name)
        member.grow(name, 5)
        member.close()
        moves.target = two[1].port
        wait_for(lambda: are_two(running), 15, what="they part")
        member.connect().hello(at(two[0].port), at(moves.port))
        member.until(lambda m: m.resolved.get(at(moves.port).key) != name and len(m.limits) == 2, what="it is told")
        assert {server["charged"] for server in running.status()["servers"]} == {member.limit(name)}
        assert not running.events("snapshot.unusable")


def test_one_that_moves_to_a_known_server_is_united_with_that(supervisor: Start, two: list[RedisServer]) -> None:
    running = supervisor(BUDGET, HASTY=QUICK)
    with proxy_to(two[0].port) as moves:
        member, one = joined(running, at(two[0].port))
        _, other = joined(running, at(two[1].port))
        member.attach(at(moves.port)).until(lambda m: m.resolved.get(at(moves.port).key) == one)
        moves.target = two[1].port
        member.until(lambda m: m.resolved.get(at(moves.port).key) == other, 15, what="it is the other one")
        assert len(servers(running)) == 2


def test_a_first_resolution_unites_with_no_older_answer(supervisor: Start, two: list[RedisServer]) -> None:
    """The one that said so before leads elsewhere by now, and what is open to it has not ended."""
    running = supervisor(BUDGET)
    with proxy_to(two[0].port) as moves:
        joined(running, at(moves.port))
        moves.target = two[1].port
        joined(running, at(two[0].port))
        assert len(servers(running)) == 2
        assert len(set(servers(running).values())) == 2
        assert not running.events("server.united")


def test_after_a_restart_in_the_middle_they_are_still_one(supervisor: Start, two: list[RedisServer]) -> None:
    running = supervisor(BUDGET, HASTY=QUICK)
    with proxy_to(two[0].port) as other:
        member, name = joined(running, at(two[0].port))
        member.attach(at(other.port)).until(lambda m: m.resolved.get(at(other.port).key) == name)
        for _ in range(2):
            before = servers(running)[name]
            two[0].stop()
            two[0].start()
            wait_for(lambda b=before: servers(running).get(name, b) != b, 15, what="it says so")  # type: ignore[misc]
        assert len(servers(running)) == 1
        assert not running.events("server.parted")
        assert not running.events("server.several")


# ---- one that is several --------------------------------------------------------------------------------


class Balancer(Proxy):
    """Each connection goes to the next server."""

    def __init__(self, *targets: int) -> None:
        self._targets = itertools.cycle(targets)
        super().__init__(targets[0])

    def _accept(self, listener: object) -> None:
        self.target = next(self._targets)
        super()._accept(listener)


def test_a_balancer_is_one_server_and_says_so(supervisor: Start, two: list[RedisServer], process: Processes) -> None:
    running = supervisor(BUDGET, HASTY=QUICK + " upstreams.unproven.WAIT=1")
    balancer = Balancer(*(server.port for server in two))
    try:
        pool = process().pool(balancer.port, timeout=5)
        assert client_of(pool).ping()
        wait_for(lambda: running.events("server.several"), 15, what="it says so")
        assert "2 servers answer" in running.server()["health"]["unseen"]
        direct = process().pool(two[0].port, timeout=5)
        assert client_of(direct).ping()
        assert len(servers(running)) == 1, "it may be at the server that another address leads to alone"
        give(pool, take(pool, 8))
        time.sleep(1)
        assert len(running.events("server.restarted")) <= 2, "it is not told at every look"
        assert not running.events("outage.began")
    finally:
        balancer.stop()


def test_a_balancer_before_servers_that_are_known_is_resolved(
    supervisor: Start, two: list[RedisServer], process: Processes
) -> None:
    """It says something else each time, and each of the two is asked whether it is the one that was heard."""
    running = supervisor(BUDGET, HASTY=QUICK + " upstreams.unproven.WAIT=1")
    ours = process()
    for server in two:
        assert client_of(ours.pool(server.port, timeout=5)).ping()
    assert len(servers(running)) == 2
    balancer = Balancer(*(server.port for server in two))
    try:
        assert client_of(ours.pool(balancer.port, timeout=5)).ping()
        wait_for(lambda: running.events("server.several"), 15, what="it says so")
        wait_for(lambda: len(servers(running)) == 1, 15, what="nobody can say at which of them a connection is")
    finally:
        balancer.stop()


def test_a_balancer_before_servers_that_are_in_full_use_opens_nothing_past_their_budgets(
    supervisor: Start, two: list[RedisServer], process: Processes
) -> None:
    """Which of them a connection is at nobody can say. It is found out before the first one is made, and not when one
    of them refuses: then the balancer's address is no witness of that one any more."""
    running = supervisor(BUDGET)
    used: Counter[int] = Counter()
    ended = threading.Event()

    def use(pool: ConnectionPool, which: int) -> None:
        while not ended.is_set():
            with pool.connection() as connection:
                connection.send_command("PING")
                connection.read_response()
                time.sleep(0.005)
            used[which] += 1

    balancer = Balancer(*(server.port for server in two))
    callers: list[Calls] = []
    try:
        for which, port in enumerate([two[0].port, two[1].port, balancer.port]):
            pool = process().pool(port, timeout=5)
            assert client_of(pool).ping()
            callers.append(Calls(functools.partial(use, pool, which), times=12))
            wait_for(lambda which=which: used[which] >= 100, 15, what="it is in use")  # type: ignore[misc]
        assert len(running.events("server.several")) == 1
        assert len(servers(running)) == 1
        assert [server.rejected() for server in two] == [0, 0]
    finally:
        ended.set()
        for each in callers:
            each.join()
        balancer.stop()


class HalfDead(Proxy):
    """Half of all connections, drawn by lot, are closed at once or hang: one of two servers is gone, and the balancer
    does not know it."""

    def __init__(self, target: int, *, hangs: bool) -> None:
        self._lots, self._hangs = random.Random(0), hangs
        super().__init__(target)

    def _accept(self, listener: object) -> None:
        dead = self._lots.random() < 0.5
        self.stalled = dead and self._hangs
        if dead and not self._hangs:
            listener.accept()[0].close()  # type: ignore[attr-defined]
        else:
            super()._accept(listener)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_balancer_one_of_whose_servers_is_gone_is_resolved_by_the_other(
    supervisor: Start, redis_server: Servers, process: Processes, hangs: bool
) -> None:
    """redis-py's own pool has every second connect. What the supervisor would like to know keeps nobody from that."""
    server = redis_server(port=free_port())
    running = supervisor(BUDGET, HASTY=QUICK)
    balancer = HalfDead(server.port, hangs=hangs)
    try:
        pool = process().pool(balancer.port, timeout=5)
        began = time.monotonic()
        while time.monotonic() < began + 20:
            try:
                assert client_of(pool).ping()
                break
            except redis.RedisError:
                continue
        assert servers(running)
        assert time.monotonic() - began < 15
    finally:
        balancer.stop()


# ---- those that nobody uses -----------------------------------------------------------------------------


def test_addresses_that_come_and_go_do_not_fill_the_books(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, process: Processes
) -> None:
    """A name server with many addresses, each of which leads to the same server."""
    monkeypatch.setattr("poolmgr.pool.names.REMEMBERED", 0.2)
    monkeypatch.setattr("poolmgr.member.core.directory.FORGET_AFTER", 0.2)
    running, server = pair(BUDGET, maxclients=BUDGET + 2, port=free_port(), bind="0.0.0.0", HASTY=QUICK)
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
    names = Names(Path(running.path).parent / "names")
    resolver.install(str(names.path))
    ours = process()
    pool = ours.pool(server.port, host="cache", timeout=5)
    for last in range(2, 22):
        names.lead(cache=f"127.0.0.{last}")
        pool.drain()
        assert client_of(pool).ping()

    def few() -> bool:
        pool.drain()
        return bool(client_of(pool).ping()) and len(_addresses(running)) <= 2

    wait_for(few, 15, what="the others are forgotten")
    assert len(ours.member.core.directory.endpoints) == 1
    assert server.rejected() == 0


def _addresses(running: SupervisorProcess) -> list[str]:
    (server,) = running.status()["servers"]
    return [alias for alias in server["aliases"] if "//127." in alias]
