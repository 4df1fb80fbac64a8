"""One budget over several hosts, each with a supervisor and workers of its own; the server has room for just that."""

from __future__ import annotations

import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.fleet import hosts as fleet
from tests.fleet.hosts import Host, connected, rejected, table, wait_for
from tests.helpers import RedisServer
from tests.pools import running_server

BUDGET = 16
OBSERVERS = 2
"""The test's own connection, and one more for a moment."""

Hosts = Callable[..., Host]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with running_server(maxclients=BUDGET + OBSERVERS) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.observer() as observer:
        yield observer


@pytest.fixture
def hosts(server: RedisServer) -> Iterator[Hosts]:
    made: list[Host] = []
    base = Path(tempfile.mkdtemp(prefix="pm-fleet-", dir="/tmp"))  # no host here finds another test's snapshot

    def host(**environ: str) -> Host:
        made.append(Host(base / str(len(made)), server.url, **{"REDIS_FLEET_BUDGET": str(BUDGET), **environ}))
        return made[-1]

    try:
        yield host
    finally:
        for each in made:
            each.stop()
        shutil.rmtree(base, ignore_errors=True)


def shares(client: redis.Redis) -> list[int]:
    found = table(client)
    return sorted(host.grant for host in found.hosts) if found is not None else []


def test_hosts_share_one_budget_evenly_and_leave_nothing(hosts: Hosts, client: redis.Redis) -> None:
    first, second = hosts().start(("sync", "asyncio")), hosts().start(("sync",))
    first.callers(20)
    second.callers(20)
    wait_for(lambda: shares(client) == [7, 7], 20, what="two hosts that want more have half each")
    wait_for(lambda: min(first.good, second.good) > 50, 20, what="both work")
    assert sum(connected(client).values()) <= BUDGET - 2
    assert not first.errors
    assert not second.errors
    for host in (first, second):
        host.end()
    found = table(client)
    assert found is not None
    assert not found.hosts
    assert not connected(client)
    assert rejected(client) == 0


def test_a_killed_host_gives_its_part_to_the_others_once_it_is_proven_gone(hosts: Hosts, client: redis.Redis) -> None:
    first, second = hosts().start(), hosts().start()
    first.callers(20)
    second.callers(20)
    wait_for(lambda: shares(client) == [7, 7], 20, what="they share")
    began = time.monotonic()
    first.kill()
    wait_for(lambda: shares(client) == [BUDGET - 2], 30, what="the other one has all")
    assert time.monotonic() - began < 30
    wait_for(lambda: sum(connected(client).values()) >= BUDGET - 3, 20, what="and uses it")
    assert not second.errors
    assert rejected(client) == 0


def test_a_host_that_was_stopped_for_long_comes_back_with_nothing(hosts: Hosts, client: redis.Redis) -> None:
    first, second = hosts().start(), hosts().start()
    first.callers(20)
    second.callers(20)
    wait_for(lambda: shares(client) == [7, 7], 20, what="they share")
    before = first.lease["name"]
    with first.paused():
        wait_for(lambda: shares(client) == [BUDGET - 2], 30, what="the other one has all")
        good = second.good
        wait_for(lambda: second.good > good + 20, 20, what="it works on")
    wait_for(lambda: first.lease["name"] not in ("", before), 20, what="it joins under another name")
    wait_for(lambda: shares(client) == [7, 7], 30, what="they share again")
    good = first.good
    wait_for(lambda: first.good > good + 20, 20, what="it works again")
    assert first.lease["fenced"] >= 1
    assert before not in connected(client)
    assert not second.errors
    assert rejected(client) == 0


def test_a_lost_table_is_made_again_from_what_hosts_hold(hosts: Hosts, client: redis.Redis) -> None:
    first, second = hosts().start(), hosts().start()
    first.callers(20)
    second.callers(20)
    wait_for(lambda: shares(client) == [7, 7], 20, what="they share")
    names = {first.lease["name"], second.lease["name"]}
    number = first.lease["table"]
    client.flushall()
    wait_for(
        lambda: (found := table(client)) is not None and not found.learning and found.table != number,
        20,
        what="another table is there, and has counted all",
    )
    wait_for(lambda: shares(client) == [7, 7], 20, what="nobody has lost anything")
    assert {first.lease["name"], second.lease["name"]} == names
    good = first.good, second.good
    wait_for(lambda: first.good > good[0] + 20 and second.good > good[1] + 20, 20, what="both work on")
    assert not first.errors
    assert not second.errors
    assert rejected(client) == 0


def test_a_restarted_server_has_another_table(hosts: Hosts, server: RedisServer) -> None:
    first, second = hosts().start(), hosts().start()
    first.callers(20)
    second.callers(20)
    with server.observer() as client:
        wait_for(lambda: shares(client) == [7, 7], 20, what="they share")
    server.stop()
    server.start()
    with server.observer() as client:
        wait_for(lambda: shares(client) == [7, 7], 30, what="they share again")
        assert rejected(client) == 0
    good = first.good, second.good
    wait_for(lambda: first.good > good[0] + 20 and second.good > good[1] + 20, 20, what="both work again")


@pytest.mark.parametrize("forgets", [False, True], ids=["snapshot", "no snapshot"])
def test_a_supervisors_successor_goes_on_with_the_lease(hosts: Hosts, client: redis.Redis, forgets: bool) -> None:
    lease = "20"  # half of it is left for a start on a busy machine: the other host wants the part
    first, second = hosts(REDIS_FLEET_LEASE=lease).start(), hosts(REDIS_FLEET_LEASE=lease).start()
    first.callers(20)
    second.callers(20)
    wait_for(lambda: shares(client) == [7, 7], 40, what="they share")
    name = first.lease["name"]
    wait_for(lambda: connected(client).get(name, 0) > 1, 20, what="its members' connections bear it, too")
    if forgets:
        first.supervisor.forgets()
    else:
        first.supervisor.kill()
        first.supervisor.start()
    wait_for(lambda: first.lease["renewals"].get("ok"), 20, what="it renews")
    assert (first.lease["name"], first.errors) == (name, {}), "the same one"
    good = first.good
    wait_for(lambda: first.good > good + 20, 20, what="it works on")
    assert sum(connected(client).values()) <= BUDGET - 2
    assert not first.errors
    assert not second.errors
    assert rejected(client) == 0


def test_what_one_host_does_not_need_another_one_has(hosts: Hosts, client: redis.Redis) -> None:
    first = hosts().start()
    first.callers(20)
    wait_for(lambda: first.lease["grant"] >= BUDGET - 5, 20, what="one host has nearly all")
    second = hosts().start()
    second.callers(20)
    began = time.monotonic()
    wait_for(lambda: shares(client) == [7, 7], 20, what="the other one gets its part")
    assert time.monotonic() - began < 20
    assert not second.supervisor.status()["notes"], "that they share this machine is no fault"
    first.callers(0)
    wait_for(lambda: second.lease["grant"] >= BUDGET - 5, 20, what="and then what the first one does not need any more")
    assert not first.errors
    assert not second.errors
    assert rejected(client) == 0


def test_a_host_that_has_nothing_renews_all_the_same(hosts: Hosts, client: redis.Redis) -> None:
    """Its supervisor has no connection to look at the server's limits with, and must not wait for one meanwhile."""
    few = {"REDIS_FLEET_BUDGET": "3"}  # one connection beside the slack
    first = hosts(**few).start()
    first.callers(2)
    wait_for(lambda: first.lease["grant"] == 1, 20, what="one host has all there is")
    second = hosts(PATIENCE="1", **few).start()
    second.callers(2)
    name = wait_for(lambda: second.lease["name"], 20, what="another one joins")
    wait_for(lambda: second.lease["renewals"].get("ok", 0) > 35, 60, what="a look was due, every ten seconds")
    assert second.lease["name"] == name
    assert second.lease["fenced"] == 0
    assert first.lease["freed"] == 0
    note = "the budget 3 of fleet web has no connection left for this host"
    assert any(note in text for text in second.supervisor.status()["notes"]), second.supervisor.status()["notes"]


def test_a_worker_without_the_rights_says_what_to_allow(hosts: Hosts, server: RedisServer, client: redis.Redis) -> None:
    client.execute_command("ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", "-hmget")
    host = hosts().start()
    host.callers(1)
    wait_for(lambda: host.good, 20, what="another one works, whose credentials the supervisor uses")
    host.url = server.url.replace("redis://", "redis://worker:x@")
    for worker in (host.add("sync"), host.add("asyncio")):
        worker.ask("callers 1")
        text = wait_for(lambda worker=worker: fleet_errors(worker), 20, what="it fails")  # type: ignore[misc]
        assert "FleetRightsError" in text
        assert "ACL SETUSER worker +evalsha" in text
    client.execute_command("ACL", "SETUSER", "worker", "+hmget")
    wait_for(lambda: all(stats["good"] for stats in host.stats()), 20, what="they work once that is allowed")


def fleet_errors(worker: object) -> str:
    import json

    return "".join(json.loads(worker.ask("stats"))["errors"])  # type: ignore[attr-defined]


@pytest.mark.parametrize("right", ["evalsha", "info", "client|setname"])
def test_a_supervisor_without_the_rights_says_what_to_allow(
    hosts: Hosts, server: RedisServer, client: redis.Redis, right: str
) -> None:
    if "|" in right and server.kind.version < (7, 0, 0):
        pytest.skip("a subcommand cannot be taken away before 7.0")
    client.execute_command("ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", f"-{right}")
    host = hosts(PATIENCE="1")
    host.supervisor.start()
    host.url = server.url.replace("redis://", "redis://worker:x@")
    worker = host.add("sync")
    worker.ask("callers 1")
    wait_for(lambda: "+evalsha" in fleet_errors(worker), 20, what="it fails, and says why")
    assert any("+evalsha" in note for note in host.supervisor.status()["notes"])
    client.execute_command("ACL", "SETUSER", "worker", f"+{right}")
    wait_for(lambda: host.good, 20, what="it works once that is allowed")


def test_a_host_that_may_not_kill_leaves_that_to_another_one(
    hosts: Hosts, server: RedisServer, client: redis.Redis
) -> None:
    client.execute_command("ACL", "SETUSER", "weak", "on", "nopass", "~*", "&*", "+@all", "-client|kill")
    weak = hosts()
    weak.url = server.url.replace("redis://", "redis://weak:x@")
    weak.start()
    weak.callers(20)
    wait_for(lambda: shares(client) == [BUDGET - 2], 20, what="it is there first, and has the duty")
    able, stopped = hosts().start(), hosts().start()
    able.callers(20)
    stopped.callers(20)
    wait_for(lambda: shares(client) in ([4, 5, 5], [4, 4, 5], [4, 4, 4]), 20, what="they share")
    before = stopped.lease["name"]
    with stopped.paused():
        wait_for(lambda: shares(client) == [7, 7], 30, what="the others have its part")
        assert before not in connected(client)
    assert weak.status()["lease"]["killed"] == 0
    assert rejected(client) == 0


def test_where_no_host_may_list_clients_the_hosts_say_after_how_long_a_part_is_free(
    hosts: Hosts, server: RedisServer, client: redis.Redis
) -> None:
    client.execute_command(
        "ACL", "SETUSER", "blind", "on", "nopass", "~*", "&*", "+@all", "-client|list", "-client|kill"
    )

    def blind(**environ: str) -> Host:
        host = hosts(**environ)
        host.url = server.url.replace("redis://", "redis://blind:x@")
        host.start()
        host.callers(20)
        return host

    never = blind()
    note = "by a host that may list clients, as this one may not. Allow it: ACL SETUSER blind"
    wait_for(lambda: any(note in text for text in never.supervisor.status()["notes"]), 20, what="it says so")
    assert shares(client) == [0]
    never.stop()
    first, second = (blind(REDIS_FLEET_UNPROVEN="1") for _ in "12")
    wait_for(lambda: shares(client) == [7, 7], 30, what="they share")
    second.kill()
    wait_for(lambda: shares(client) == [BUDGET - 2], 30, what="the other one has its part")
    wait_for(lambda: first.lease["unproven"] >= 1, 10, what="it has heard that this was without a proof")
    assert rejected(client) == 0


def test_a_host_that_cannot_renew_keeps_what_it_has_and_opens_nothing(hosts: Hosts, client: redis.Redis) -> None:
    first = hosts(HOLD="0.01").start()
    first.callers(3)
    wait_for(lambda: first.good > 20, 20, what="it works")
    client.execute_command("ACL", "SETUSER", "default", "-evalsha", "-eval")
    wait_for(lambda: first.lease["trouble"], 20, what="it cannot renew")
    assert "+evalsha" in first.lease["trouble"]
    wait_for(lambda: first.lease["seconds_left"] < 0, 20, what="its lease has ended")
    good = first.good
    wait_for(lambda: first.good > good + 20, 20, what="what is open goes on")
    before = sum(connected(client).values())
    opened = int(client.info("stats")["total_connections_received"])
    first.callers(8)
    wait_for(lambda: first.status()["members"][0]["waiting"] >= 4, 20, what="more callers wait")
    assert sum(connected(client).values()) == before
    assert int(client.info("stats")["total_connections_received"]) - opened <= 3, "the supervisor's own"
    client.execute_command("ACL", "SETUSER", "default", "+@all")
    wait_for(lambda: first.lease["grant"] >= 8, 20, what="it renews, and has more")
    wait_for(lambda: sum(connected(client).values()) >= 8, 20, what="which is opened")
    assert not first.errors


def test_hosts_without_a_fleet_are_other_clients(hosts: Hosts, server: RedisServer, client: redis.Redis) -> None:
    first = hosts(REDIS_FLEET_BUDGET="8").start()
    second = hosts(REDIS_FLEET="", REDIS_CONNECTION_BUDGET="4").start()
    first.callers(20)
    second.callers(20)
    wait_for(lambda: first.lease["grant"] == 6, 20, what="the fleet has its budget")
    wait_for(lambda: second.good > 20, 20, what="the other host works")
    assert second.status()["lease"] is None
    assert not first.errors
    assert not second.errors
    assert rejected(client) == 0


def ours(client: redis.Redis) -> int:
    """Connections with names of ours, of whatever host."""
    return sum("pm1." in row["name"] for row in client.client_list())


def test_a_fleet_is_turned_on_and_off_host_by_host(hosts: Hosts, client: redis.Redis) -> None:
    """A restarted supervisor tells its members to reopen what bears the wrong name; no request is lost. Its socket
    stays, as systemd's: a pool that has nothing open at that moment would report that no supervisor is listening."""
    host = hosts(REDIS_FLEET="", REDIS_CONNECTION_BUDGET="6", HOLD="0.01")
    host.supervisor.stays_listening()
    host.start(("sync", "asyncio"))
    host.callers(6)
    wait_for(lambda: host.good > 50, 20, what="it works without a fleet")
    assert not connected(client)

    def named(*, leased: bool) -> bool:
        return ours(client) == sum(connected(client).values()) > 2 if leased else not connected(client)

    for word in (fleet.FLEET, ""):
        host.supervisor.process.send_signal(signal.SIGTERM)  # type: ignore[union-attr]
        host.supervisor.process.wait(10)  # type: ignore[union-attr]
        host.supervisor.start(REDIS_FLEET=word)
        wait_for(lambda word=word: named(leased=bool(word)), 20, what="all names are right")  # type: ignore[misc]
        good = host.good
        wait_for(lambda good=good: host.good > good + 50, 20, what="it works on")  # type: ignore[misc]
        assert ours(client) <= BUDGET
    assert not host.errors
    assert rejected(client) == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_fleet_is_turned_on_while_all_that_the_host_may_have_is_in_use(hosts: Hosts, number: signal.Signals) -> None:
    """The next supervisor knows the server from the snapshot, but not whether it takes part, and has no connection to
    ask with."""
    host = hosts(REDIS_FLEET="", REDIS_CONNECTION_BUDGET="6", HOLD="0.01").start(("sync", "asyncio"))
    host.callers(6)
    wait_for(lambda: host.good > 50, 20, what="it works without a fleet")
    host.supervisor.process.send_signal(number)  # type: ignore[union-attr]
    host.supervisor.process.wait(10)  # type: ignore[union-attr]
    host.supervisor.start(REDIS_FLEET=fleet.FLEET)
    wait_for(lambda: host.lease["name"], 10, what="it joins")
    good = host.good
    wait_for(lambda: host.good > good + 50, 20, what="it works on")
