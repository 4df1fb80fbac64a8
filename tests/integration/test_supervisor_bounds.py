"""What a member says it holds makes the supervisor remember no more than its bounds."""

from __future__ import annotations

from poolmgr import wire
from poolmgr.supervisor.upstreams import addresses, registry
from tests.fake_member import FakeMember, endpoint_of
from tests.supervisor_process import Start, SupervisorProcess, joined


def stating(running: SupervisorProcess, *holds: wire.Hold, link: int = 1) -> FakeMember:
    """A member that registers with that in its hands."""
    member = running.member()
    member.link = link
    member.send(wire.Hello(member.tag, link, holds=holds))
    member.until(lambda m: m.last(wire.Welcome), what="it is registered")
    return member


def made_up(count: int, first: int = 0) -> list[wire.Hold]:
    keys = [f"tcp://10.{i >> 16}.{i >> 8 & 255}.{i & 255}:1" for i in range(first, first + count)]
    return [wire.Hold(key, (key,), 1, 1) for key in keys]


def servers(running: SupervisorProcess) -> list[str]:
    return [server["id"] for server in running.status()["servers"]]


def test_a_member_that_holds_something_at_any_number_of_servers(supervisor: Start, redis_server) -> None:
    running = supervisor(12)
    server = redis_server()
    other, known = joined(running, server)
    held = wire.Hold(known, (known,), 3, 3)
    member = stating(running, *made_up(registry.MOST_SERVERS + 500), held)
    found = servers(running)
    assert len(found) == registry.MOST_SERVERS
    assert known in found
    (line,) = running.events("member.holds_too_much")
    assert line["dropped"] == 501
    charges = {m["tag"]: m["charge"] for s in running.status()["servers"] if s["id"] == known for m in s["members"]}
    assert charges[member.tag] == 3, "what it holds at a known server is charged"
    member.close()
    other.attach(endpoint_of(port=9))
    refused = other.until(lambda m: m.last(wire.Refused), what="there is no room for one more")
    assert "too many servers" in refused.reason


def test_one_server_by_any_number_of_names(supervisor: Start) -> None:
    running = supervisor(12)
    for link in range(1, 6):
        names = tuple(f"tcp://name{i}.{link}:1" for i in range(2500))
        member = stating(running, wire.Hold("tcp://name:1", names, 1, 1), link=link)
    (server,) = running.status()["servers"]
    assert "tcp://name0.1:1" in server["aliases"]
    assert addresses.MOST_NAMES - 1 <= len(server["aliases"]) <= addresses.MOST_NAMES
    member.close()
