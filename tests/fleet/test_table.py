"""The fleet's table in a real server: the script answers as in the simulation, also when memory is full."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from poolmgr.fleet import gate, script, source
from poolmgr.fleet.script import Refused, Renewed
from tests.fleet.asking import NAMES, question, renewal
from tests.helpers import RedisServer, Servers
from tests.simulation.fleet.table import Table

KEY = script.key("web")


def text_for(server: RedisServer, *, timed: bool = False) -> str:
    """The script as that server gets it. ``timed``: the time is an argument, so that two servers have the same."""
    text = source.text(server.kind.version[0])
    if not timed:
        return text
    line = "local clock = redis.call('TIME')\n"
    assert text.count(line) == 1
    return text.replace(line, "local clock = {KEYS[2], KEYS[3]}\n")


def answered(client: redis.Redis, sha: str, asked: script.Renewal) -> Renewed | Refused:
    return script.answer(client.evalsha(sha, 1, KEY, *asked.arguments()))


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with server.observer() as found:
        yield found


def test_a_host_joins_waits_for_the_census_and_gets_its_part(server: RedisServer, client: redis.Redis):
    sha = client.script_load(text_for(server))
    joined = answered(client, sha, renewal(NAMES[0], 1))
    assert isinstance(joined, Renewed)
    assert (joined.grant, joined.learning, joined.duty) == (0, True, "census")
    assert client.evalsha(sha, 1, KEY, *script.census("run1", joined.table, [NAMES[0]])) == ["ok", 1]
    raised = answered(client, sha, renewal(NAMES[0], 2, table=joined.table))
    assert isinstance(raised, Renewed)
    assert raised.grant >= 3
    assert not raised.learning
    records, clock = (client.execute_command(*command) for command in gate.commands(KEY, NAMES[0]))
    assert gate.shut(records, clock, joined.table) == ""
    assert "another" in gate.shut(records, clock, "1.aaaa.1")
    records, clock = (client.execute_command(*command) for command in gate.commands(KEY, NAMES[1]))
    assert "does not have" in gate.shut(records, clock, joined.table)


def test_a_host_that_is_alone_leaves_enough_for_new_ones(server: RedisServer, client: redis.Redis):
    """It would be asked back for the rest with its next renewal only, and until then new hosts would have nothing."""
    sha = client.script_load(text_for(server))
    terms: dict[str, Any] = {"budget": 100, "demand": 2}
    table = answered(client, sha, renewal(NAMES[0], 1, **terms)).table
    client.evalsha(sha, 1, KEY, *script.census("run1", table, [NAMES[0]]))
    alone = answered(client, sha, renewal(NAMES[0], 2, table=table, **terms))
    assert isinstance(alone, Renewed)
    assert alone.grant == 2 + 8
    for n in range(40):
        new = answered(client, sha, renewal(f"{n:010x}ff", 1, **terms))
        assert isinstance(new, Renewed)
        assert new.grant == 2


def test_a_busy_host_has_as_much_again_as_it_uses(server: RedisServer, client: redis.Redis):
    sha = client.script_load(text_for(server))
    terms: dict[str, Any] = {"budget": 1000, "demand": 50}
    table = answered(client, sha, renewal(NAMES[0], 1, **terms)).table
    client.evalsha(sha, 1, KEY, *script.census("run1", table, [NAMES[0]]))
    alone = answered(client, sha, renewal(NAMES[0], 2, table=table, **terms))
    assert isinstance(alone, Renewed)
    assert alone.grant == 100


def test_a_table_that_was_lost_is_made_again_and_the_lease_is_claimed(server: RedisServer, client: redis.Redis):
    sha = client.script_load(text_for(server))
    first = answered(client, sha, renewal(NAMES[0], 1))
    assert isinstance(first, Renewed)
    client.flushall()
    said = renewal(NAMES[0], 2, table=first.table, word=3, until=first.end)
    refused = answered(client, sha, said)
    assert isinstance(refused, Refused)
    assert refused.why == "table"
    claimed = answered(client, sha, renewal(NAMES[0], 3, table=refused.table, word=3, until=first.end))
    assert isinstance(claimed, Renewed)
    assert claimed.grant == 3
    late = answered(client, sha, renewal(NAMES[1], 1, table=refused.table, word=3, until=claimed.now - 1))
    assert isinstance(late, Refused)
    assert late.why == "fenced"


def test_a_renewal_is_executed_when_memory_is_full(redis_server: Servers):
    server = redis_server()
    if server.kind.version < (7, 0, 0):
        pytest.skip("scripts have no flags before 7.0")
    with server.observer() as client:
        sha = client.script_load(text_for(server))
        first = answered(client, sha, renewal(NAMES[0], 1))
        assert isinstance(first, Renewed)
        client.config_set("maxmemory", 1)
        with pytest.raises(redis.exceptions.OutOfMemoryError):
            client.set("a", "b")
        assert isinstance(answered(client, sha, renewal(NAMES[0], 2, table=first.table)), Renewed)


def test_the_real_server_answers_what_the_simulation_does(server: RedisServer, client: redis.Redis):
    """Random questions, the same time for both: each answer and each record is the same."""
    sha = client.script_load(text_for(server, timed=True))
    rng = random.Random(7)
    now = 1_800_000_000_000
    table = Table(lambda: now)
    number = ""
    for seq in range(1, 1500):
        now += rng.choice((1, 30, 500, 500, 4000))
        asked = question(rng, seq, number)
        words = [str(word) for word in asked]
        theirs = client.evalsha(sha, 3, KEY, str(now // 1000), str(now % 1000 * 1000), *words)
        ours = table.call(*asked)
        assert _sorted(ours) == _sorted(theirs), asked
        assert table.hash == client.hgetall(KEY), asked
        if theirs[0] in ("ok", "table") and asked[0] == "renew":
            number = theirs[1]
        if rng.random() < 0.01:
            client.delete(KEY)
            table.hash.clear()


def _sorted(reply: list[Any]) -> list[Any]:
    """A hash has no order."""
    return [sorted(part) if isinstance(part, list) and part and isinstance(part[0], str) else part for part in reply]


@pytest.mark.timing
def test_a_renewal_costs_little_and_no_more_with_many_hosts(server: RedisServer, client: redis.Redis):
    """At the server, per call, the pass over all records apart: it comes once a second."""
    cost = {hosts: _cost(server, client, hosts) for hosts in (10, 3000)}
    assert cost[10] < 60, cost  # microseconds; 10 to 25 were measured on a quiet machine
    assert cost[3000] < 3 * cost[10], cost


def _cost(server: RedisServer, client: redis.Redis, hosts: int) -> float:
    client.flushall()
    sha = client.script_load(text_for(server))
    terms: dict[str, Any] = {"budget": 4 * hosts, "slack": 2, "demand": 1}
    tables = [answered(client, sha, renewal(f"{n:010x}", 1, **terms)) for n in range(hosts)]
    number = tables[0].table
    client.evalsha(sha, 1, KEY, *script.census("run1", number, []))
    found: list[float] = []
    for part in range(20):
        client.config_resetstat()
        for seq in range(50):
            answered(client, sha, renewal(f"{1:010x}", 2 + 50 * part + seq, table=number, **terms))
        found.append(float(client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]))
    return min(found)
