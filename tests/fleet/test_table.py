"""The fleet's table in a real server: the script answers as in the simulation, also when memory is full."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from poolmgr.fleet import gate, script, source
from poolmgr.fleet.script import Refused, Renewed
from tests.helpers import RedisServer, Servers
from tests.simulation.fleet.table import Table

KEY = script.key("web")
NAMES = [f"{n:010x}" for n in range(1, 6)]


def text_for(server: RedisServer, *, timed: bool = False) -> str:
    """The script as that server gets it. ``timed``: the time is an argument, so that two servers have the same."""
    text = source.text(server.kind.version[0])
    if not timed:
        return text
    line = "local clock = redis.call('TIME')\n"
    assert text.count(line) == 1
    return text.replace(line, "local clock = {KEYS[2], KEYS[3]}\n")


def renewal(name: str, seq: int, **changes: Any) -> script.Renewal:
    said = {
        "run": "run1",
        "table": "",
        "word": 0,
        "demand": 3,
        "floor": 1,
        "budget": 12,
        "slack": 2,
        "lease": 10_000,
        "until": 0,
        "able": True,
        "host": "a",
    }
    return script.Renewal(name=name, seq=seq, **{**said, **changes})


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


def test_what_a_host_needed_for_a_while_goes_back_to_the_reserve():
    """Else peaks would use it up one after the other, and the next host that needs more, or a new one, would wait until
    others have heard that something is missing."""
    now = 1_800_000_000_000
    table = Table(lambda: now)
    words, seqs, demands = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 40)
    number = ""

    def asks(name: str) -> Renewed:
        seqs[name] += 1
        said = renewal(name, seqs[name], table=number, word=words[name], demand=demands[name], budget=300)
        answer = script.answer(table.call(*said.arguments()))
        assert isinstance(answer, Renewed), answer
        words[name] = answer.grant
        return answer

    first = asks(NAMES[0])
    for name in NAMES[1:]:
        asks(name)
    number = first.table
    table.call(*script.census("run1", number, NAMES))
    for _ in range(3):
        for name in NAMES:
            now += 400
            asks(name)
    for turn in range(20):
        peak = NAMES[turn % len(NAMES)]
        demands[peak] = 65
        assert asks(peak).grant >= 65, f"the reserve is there at peak {turn + 1}"
        demands[peak] = 40
        for name in NAMES:
            now += 400
            answer = asks(name)
            if answer.wanted:
                words[name] = answer.target
                asks(name)
    assert {table.hash["!"].split()[8], str(sum(words.values()) <= 298)} == {"0", "True"}, "and nobody is short"


@pytest.mark.parametrize("floor", [1, 3])
def test_no_host_is_without_a_part_while_others_have_more(floor: int):
    """Who came first must not keep what even parts leave over, nor a floor where all floors do not fit."""
    now = 1_800_000_000_000
    table = Table(lambda: now)
    words, floors = dict.fromkeys(NAMES[:4], 0), dict.fromkeys(NAMES[:4], floor)
    seq, number = 0, ""

    def rounds(count: int) -> list[int]:
        nonlocal now, seq, number
        for _ in range(count):
            seq += 1
            for name in words:
                now += 400
                said = renewal(
                    name, seq, table=number if seq > 1 else "", word=words[name], demand=5, floor=floors[name], budget=8
                )
                answer = script.answer(table.call(*said.arguments()))
                assert isinstance(answer, Renewed), answer
                words[name] = min(answer.grant, answer.target) if answer.wanted else answer.grant
                number = answer.table if seq == 1 else number
            table.call(*script.census("run1", number, list(words)))
        return sorted(words.values())

    assert rounds(8) == [1, 1, 2, 2], "each has its even part, and two one more"
    floors.update(dict.fromkeys(NAMES[1:4], 1))
    floors[NAMES[0]] = 3
    assert rounds(8) == [1, 1, 1, 3], "floors that fit are met"
    assert words[NAMES[0]] == 3


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


def test_who_comes_first_after_the_server_stood_still_does_not_fence_all_others():
    now = 1_800_000_000_000
    table = Table(lambda: now)
    first = script.answer(table.call(*renewal(NAMES[0], 1).arguments()))
    assert isinstance(first, Renewed)
    table.call(*renewal(NAMES[1], 1).arguments())
    table.call(*script.census("run1", first.table, NAMES[:2]))
    for name in NAMES[:2]:
        table.call(*renewal(name, 2, table=first.table, demand=20).arguments())
    now += 30_000
    table.call(*renewal(NAMES[0], 3, table=first.table, word=1, demand=20).arguments())
    survey = script.surveyed(table.call(*script.survey("run1")))
    assert survey is not None
    assert not survey.marked, "the other one's request is on its way"
    now += 1_500
    table.call(*renewal(NAMES[0], 4, table=first.table, word=1, demand=20).arguments())
    survey = script.surveyed(table.call(*script.survey("run1")))
    assert survey is not None
    assert survey.marked == {NAMES[1]}, "it has not come"


def test_without_lists_a_part_is_freed_after_a_wait_if_the_hosts_ask_for_that():
    now = 1_800_000_000_000
    table = Table(lambda: now)

    def asks(name: str, seq: int, **changes: Any) -> Renewed:
        said = {"able": False, "unproven": 5_000, "demand": 20, **changes}
        answer = script.answer(table.call(*renewal(name, seq, **said).arguments()))
        assert isinstance(answer, Renewed), answer
        return answer

    first = asks(NAMES[0], 1)
    number = first.table
    asks(NAMES[1], 1)
    for seq in range(2, 17):
        now += 1_000
        assert asks(NAMES[0], seq, table=number, unproven=0).learning, "never, if they do not ask for that"
        asks(NAMES[1], seq, table=number, unproven=0)
    now += 1_001
    assert not asks(NAMES[0], 20, table=number).learning, "all leases of another table have ended, and more"
    other = asks(NAMES[1], 20, table=number)
    assert other.grant > 0
    held = asks(NAMES[0], 21, table=number).grant
    for seq in range(22, 38):
        now += 1_000
        held = asks(NAMES[0], seq, table=number, word=held).grant
        if seq < 33:
            assert held + other.grant <= 10, "it is charged"
    told = script.answer(table.call(*renewal(NAMES[1], 21, table=number, word=other.grant, able=False).arguments()))
    assert told == Refused("fenced", number, now), "marked"
    for seq in range(38, 42):
        now += 1_000
        answer = asks(NAMES[0], seq, table=number, word=held, able=seq == 41)
        held = answer.grant
    assert held == 10
    assert table.hash.keys() == {"!", NAMES[0]}


def test_a_host_that_may_list_is_waited_for():
    now = 1_800_000_000_000
    table = Table(lambda: now)
    first = script.answer(table.call(*renewal(NAMES[0], 1, able=False, unproven=1_000).arguments()))
    assert isinstance(first, Renewed)
    for seq in range(2, 20):
        now += 1_000
        table.call(*renewal(NAMES[1], seq, table=first.table if seq > 2 else "").arguments())
        answer = script.answer(
            table.call(*renewal(NAMES[0], seq, table=first.table, able=False, unproven=1_000).arguments())
        )
        assert isinstance(answer, Renewed)
        assert answer.learning, "it takes the census"


def test_the_real_server_answers_what_the_simulation_does(server: RedisServer, client: redis.Redis):
    """Random questions, the same time for both: each answer and each record is the same."""
    sha = client.script_load(text_for(server, timed=True))
    rng = random.Random(7)
    now = 1_800_000_000_000
    table = Table(lambda: now)
    number = ""
    for seq in range(1, 1500):
        now += rng.choice((1, 30, 500, 500, 4000))
        asked = _question(rng, seq, number)
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


def test_the_head_is_written_whenever_it_changes():
    """Most renewals leave it as it is, and do not write it. A script that always does has the same table."""
    line = "  local same = got[2] and"
    rng = random.Random(11)
    now = 1_800_000_000_000
    table = Table(lambda: now)
    always = Table(lambda: now, lambda text: text.replace(line, "  local same = false and"))
    number, spared = "", 0
    words, seqs = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    for _ in range(4000):
        now += rng.choice((0, 1, 30, 300))
        name = rng.choice(NAMES)
        seqs[name] += 1
        changes: dict[str, Any] = {
            "table": number if table.hash.get(name) else "",
            "word": rng.choice((words[name], words[name], rng.randrange(words[name] + 1))),
            "demand": rng.choice((2, 2, 2, rng.randrange(9))),
            "budget": 12 if rng.random() < 0.98 else 10,
            "slack": 2 if rng.random() < 0.98 else 3,
            "able": rng.random() < 0.5,
        }
        asked: tuple[str | int, ...] = renewal(name, seqs[name], **changes).arguments()
        if rng.random() < 0.02:
            asked = _question(rng, seqs[name], number)
        elif rng.random() < 0.02:
            asked = script.census("run1", number, NAMES)
        head = table.hash.get("!")
        answer = table.call(*asked)
        assert answer == always.call(*asked), asked
        assert table.hash == always.hash, asked
        spared += head == table.hash["!"] and asked[0] == "renew"
        if answer[0] in ("ok", "table") and asked[0] == "renew":
            number = answer[1]
        if answer[0] == "ok" and asked[0] == "renew":
            words[str(asked[3])] = answer[3]
            seqs[str(asked[3])] = max(seqs[str(asked[3])], int(asked[4]))
        elif answer[0] == "fenced":
            words[str(asked[3])] = 0
    assert spared > 400, "it was left as it is"


def _sorted(reply: list[Any]) -> list[Any]:
    """A hash has no order."""
    return [sorted(part) if isinstance(part, list) and part and isinstance(part[0], str) else part for part in reply]


def _question(rng: random.Random, seq: int, number: str) -> tuple[str | int, ...]:
    name, run = rng.choice(NAMES), rng.choice(("run1",) * 40 + ("run2",))
    some = rng.sample(NAMES, rng.randrange(4))
    match rng.randrange(12):
        case 0:
            return script.survey(run)
        case 1:
            return script.condemned(run, number, 10_000, some)
        case 2:
            return script.proven(run, number, some)
        case 3:
            return script.census(run, number, some)
        case 4:
            return script.audited(run, number, rng.randrange(99))
        case 5:
            return script.leave(run, number, name)
        case 6:
            return ("budget", run, rng.choice(("-", "9")))
        case 7:
            return ("fence", run, name)
    joins = rng.random() < 0.3
    return renewal(
        name,
        seq,
        run=run,
        table="" if joins else number or "?",
        word=0 if joins else rng.randrange(4),
        demand=rng.randrange(9),
        budget=rng.choice((12, 12, 10)),
        until=rng.choice((0, 1_900_000_000_000)),
        able=rng.random() < 0.7,
        unproven=rng.choice((0, 0, 3000)),
    ).arguments()


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
