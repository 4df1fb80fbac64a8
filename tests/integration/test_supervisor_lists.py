"""Lists of all clients: none while nothing is to be proven, one for a proof, and the rest by number."""

from __future__ import annotations

import time

import pytest

from tests.fake_member import Connection, endpoint_of
from tests.helpers import RedisServer, Servers, debian_redis_binary, free_port, wait_for
from tests.member_process import Members
from tests.supervisor_process import Pair, Start, joined


def lists(server: RedisServer) -> int:
    """How many lists have been asked for so far."""
    with server.observer() as observer:
        stats = observer.info("commandstats")
        return int(stats.get("cmdstat_client|list", {}).get("calls", 0))


def test_none_is_made_while_nothing_is_to_be_proven(pair: Pair) -> None:
    running, server = pair("auto", maxclients=100)
    member, name = joined(running, server)
    member.obey(name, in_use=1)
    member.dial(endpoint_of(server.path))
    before = lists(server)
    others = [Connection(endpoint_of(server.path), "other") for _ in range(5)]
    wait_for(lambda: "5 other clients" in running.server()["derivation"], 12, what="others are counted all the same")
    time.sleep(6.0)  # not for an effect: the time in which three lists were made
    assert lists(server) - before <= 1, "one may bear out what the first has shown"
    for other in others:
        other.close()


def test_a_server_that_is_met_is_listed_once(supervisor: Start, redis_server: Servers) -> None:
    """It is asked on several connections whether its address leads to one server; that takes no list."""
    server, running = redis_server(port=free_port(), maxclients=100), supervisor(20)
    member, _ = joined(running, endpoint_of(port=server.port))
    assert lists(server) == 1
    member.close()


def test_a_killed_process_is_proven_gone_by_a_list_at_once(pair: Pair, members: Members) -> None:
    running, server = pair(20, maxclients=100)
    dies = members(server, 5).has(5)
    before = lists(server)
    dies.kill()
    wait_for(lambda: not running.server()["members"] and not running.server()["quarantine"], 5)
    assert 1 <= lists(server) - before <= 3


@pytest.mark.parametrize("kind", ["valkey", "debian"])
def test_what_a_dead_process_has_left_is_looked_for_by_number(
    supervisor: Start, redis_server: Servers, kind: str, members: Members
) -> None:
    """Its child holds its connections: one list shows them, they are killed, and only they are asked for again."""
    binary = debian_redis_binary() if kind == "debian" else ""
    if binary is None:
        pytest.skip("redis-server is not installed")
    server = redis_server(maxclients=100, **({"binary": binary} if binary else {}))
    running = supervisor(20)
    dies = members(server, 3, "fork").has(3)
    with server.observer() as observer:
        observer.config_set("slowlog-log-slower-than", 0)
        observer.config_set("slowlog-max-len", 1000)
        observer.slowlog_reset()
        dies.kill()
        wait_for(lambda: not running.server()["members"] and not running.server()["quarantine"], 5)
        said = [entry["command"].split() for entry in observer.slowlog_get(1000)]
    asked = [words[2:] for words in said if [word.upper() for word in words[:2]] == [b"CLIENT", b"LIST"]]
    assert len([words for words in asked if not words]) == 1, asked
    assert [words for words in asked if len(words) == 5 and words[0] == b"ID"], "itself and the three"
    assert running.server()["unproven"] == 0


def test_a_difference_on_a_list_is_borne_out_soon_and_not_after_a_minute(pair: Pair, members: Members) -> None:
    """A further case: the second list that it takes to accuse anybody comes out of turn. The first was a proof's."""
    running, server = pair(20, maxclients=100, HASTY="views.audit.EVERY=0.2 upstreams.schedule.LIST_AGAIN=0.5")
    member, name = joined(running, server)
    member.report(name)
    dies = members(server, 1).has(1)
    for _ in range(40):
        member.dial(endpoint_of(server.path))
    dies.kill()
    wait_for(lambda: running.status()["differences"], 20, what="the difference is shown")
    member.close()
