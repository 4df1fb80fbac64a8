"""A permit is for an address: what is dialled is what it was taken for, wherever the name leads by now."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.asyncio.connection import Connection as TaskConnection
from redis.connection import Connection

from poolmgr import ServerDownError
from poolmgr.member.ports import Outage
from tests import names as resolver
from tests.helpers import free_port, wait_for
from tests.names import Names
from tests.permits import FakeMember, FakePermits
from tests.pools import client_of, give, pool_with, running_server, take

pytestmark = pytest.mark.usefixtures("flavour")

ONE, TWO, NOWHERE = "127.0.0.2", "127.0.0.3", "127.0.0.4"


@pytest.fixture
def names(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Names:
    monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)  # it is put back after the test
    found = Names(short_dir / "names")
    resolver.install(str(found.path))
    return found


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of two servers, at two addresses."""
    port = free_port()
    with running_server(port=port, bind=ONE) as one, running_server(port=port, bind=TWO) as two:
        for server, address in ((one, ONE), (two, TWO)):
            with server.observer() as admin:
                admin.set("who", address)
        yield port


class House:
    """A pool that calls its server ``cache``, and the permits of its addresses."""

    def __init__(self, port: int, **options: Any) -> None:
        self.member = FakeMember(options.pop("limit", 10**6))
        self.port = port
        self.pool = pool_with(host="cache", port=port, member=self.member, **options)

    def at(self, address: str) -> FakePermits:
        return self.member.all[f"tcp://{address}:{self.port}"]

    def held(self, address: str) -> int:
        permits = self.member.all.get(f"tcp://{address}:{self.port}")
        if permits is None:
            return 0
        permits.sweep()
        return len(permits.out)

    def who(self) -> str:
        value = client_of(self.pool).get("who")
        assert isinstance(value, bytes)
        return value.decode()

    def serves(self, address: str) -> bool:
        with contextlib.suppress(ServerDownError):
            return self.who() == address
        return False


def test_the_supervisor_is_told_the_address_and_the_name(names: Names, port: int) -> None:
    names.lead(cache=ONE)
    house = House(port)
    assert house.who() == ONE
    (endpoint,) = house.member.endpoints
    assert (endpoint.key, endpoint.host, endpoint.address) == (f"tcp://{ONE}:{port}", "cache", ONE)
    assert str(endpoint) == f"tcp://cache:{port} ({ONE})"


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_an_address_is_no_name(port: int, host: str) -> None:
    member = FakeMember()
    pool = pool_with(host=host, port=port, member=member)
    with contextlib.suppress(redis.ConnectionError):
        client_of(pool).ping()
    (endpoint,) = member.endpoints
    assert (endpoint.key, endpoint.address) == (f"tcp://{host}:{port}", "")


def test_a_permit_is_exchanged_when_the_name_leads_elsewhere(names: Names, port: int) -> None:
    names.lead(cache=ONE)
    house = House(port)
    give(house.pool, take(house.pool, 2))
    names.lead(cache=TWO)
    held = take(house.pool, 4)
    assert (house.held(ONE), house.held(TWO)) == (2, 2)
    give(house.pool, held)
    house.pool.drain()
    assert house.who() == TWO
    assert (house.held(ONE), house.held(TWO)) == (0, 1)


def test_no_connection_is_made_before_there_is_a_permit_for_it(names: Names, port: int) -> None:
    """All that the other address has are in use elsewhere."""
    names.lead(cache=ONE)
    house = House(port, timeout=0.2)
    assert house.who() == ONE
    names.lead(cache=TWO)
    house.pool.drain()
    assert house.who() == TWO
    house.pool.drain()
    house.at(TWO).sweep()
    house.at(TWO).limit = 0
    with pytest.raises(redis.TimeoutError):
        house.who()
    assert house.held(TWO) == house.held(ONE) == 0
    house.at(TWO).limit = 1
    assert house.who() == TWO
    assert house.at(TWO).most == 1


def test_a_reconnect_inside_of_a_command_follows_the_name(names: Names, port: int) -> None:
    names.lead(cache=ONE)
    house = House(port)
    connection = house.pool.get_connection()
    connection.disconnect()
    names.lead(cache=TWO)
    connection.send_command("GET", "who")
    assert connection.read_response() == TWO.encode()
    assert (house.held(ONE), house.held(TWO)) == (0, 1)
    house.pool.release(connection)


def test_of_several_addresses_the_one_with_the_permit_is_dialled(names: Names, port: int) -> None:
    """Name servers give them in another order each time: that is no reason to exchange permits."""
    names.lead(cache=(ONE, TWO))
    house = House(port)
    held = take(house.pool, 1)
    names.lead(cache=(TWO, ONE))
    held += take(house.pool, 2)
    assert (house.held(ONE), house.held(TWO)) == (2, 1), "and the next one goes where the name leads first"
    give(house.pool, held)


def test_an_address_at_which_nobody_listens_costs_no_permit(names: Names, port: int) -> None:
    names.lead(cache=(NOWHERE, TWO))
    house = House(port)
    assert house.who() == TWO
    assert (house.held(NOWHERE), house.held(TWO)) == (0, 1)


def test_an_address_that_is_down_is_left_for_the_next_one(names: Names, port: int) -> None:
    names.lead(cache=(ONE, TWO))
    house = House(port)
    assert house.who() == ONE
    house.at(ONE).outage = Outage(time.time(), "gone")
    house.pool.drain()
    assert house.who() == TWO
    assert house.held(ONE) == 0
    house.at(TWO).outage = Outage(time.time(), "gone")
    house.pool.drain()
    with pytest.raises(ServerDownError):
        house.who()
    house.at(ONE).outage = None
    assert house.who() == ONE


def test_nothing_is_kept_for_an_address_at_which_nobody_was_ever_reached(names: Names, port: int) -> None:
    names.lead(cache=(ONE, TWO))
    house = House(port)
    assert house.who() == ONE
    dead = house.at(ONE)
    dead.outage, dead.unreached = Outage(time.time(), "nobody listens"), True
    house.pool.drain()
    assert house.who() == TWO
    assert dead.left
    assert [permits.endpoint.address for permits in house.pool._origin.known] == [TWO]
    house.pool.drain()
    assert house.who() == TWO, "it is not tried again"
    assert [endpoint.address for endpoint in house.member.endpoints] == [ONE, TWO]
    house.at(TWO).outage = Outage(time.time(), "gone")
    dead.outage, dead.unreached = None, False
    house.pool.drain()
    wait_for(lambda: house.serves(ONE), 5, what="it is tried again when all others are down")


def test_while_it_is_down_the_name_is_looked_up_again(names: Names, port: int) -> None:
    names.lead(cache=ONE)
    house = House(port)
    assert house.who() == ONE
    house.at(ONE).outage = Outage(time.time(), "gone")
    house.pool.drain()
    with pytest.raises(ServerDownError):
        house.who()
    names.lead(cache=TWO)
    wait_for(lambda: house.serves(TWO), 5, what="it serves")


def test_a_name_that_leads_nowhere_is_redis_pys_error(names: Names, port: int) -> None:
    names.lead(cache=())
    house = House(port)
    with pytest.raises(redis.ConnectionError, match="Name or service not known"):
        house.who()
    assert house.member.endpoints == []
    names.lead(cache=ONE)
    assert house.who() == ONE


class Tunnel(Connection):
    def _connect(self) -> Any:
        return socket.create_connection((TWO, self.port))


class Mixin(Connection):
    def _connect(self) -> Any:
        return super()._connect()


class TunnelOfTasks(TaskConnection):
    async def _connect(self) -> None:
        self._reader, self._writer = await asyncio.open_connection(TWO, self.port)
        await self.on_connect()


class MixinOfTasks(TaskConnection):
    async def _connect(self) -> None:
        await super()._connect()


WAYS: dict[str, dict[str, type]] = {
    "threads": {"tunnel": Tunnel, "mixin": Mixin},
    "tasks": {"tunnel": TunnelOfTasks, "mixin": MixinOfTasks},
}


@pytest.mark.parametrize("way", ["tunnel", "mixin"])
def test_a_class_with_a_way_of_its_own_stays_known_by_its_name(names: Names, port: int, flavour: str, way: str) -> None:
    names.lead(cache=(NOWHERE, TWO))
    house = House(port, connection_class=WAYS[flavour][way])
    assert house.who() == TWO
    (endpoint,) = house.member.endpoints
    assert (endpoint.key, endpoint.address) == (f"tcp://cache:{port}", "")


def test_two_threads_that_change_the_address_at_the_same_time_leave_no_other_one_behind(
    names: Names, port: int
) -> None:
    """One has asked for the permits of the old address before, and notes them after the other one's choice."""
    names.lead(cache=(ONE, TWO))
    house = House(port)
    assert house.who() == ONE
    house.at(ONE).outage = Outage(time.time(), "gone")
    house.pool.drain()
    assert house.who() == TWO
    house.pool._origin._own = house.at(ONE)
    assert house.pool._origin.attach() is house.at(TWO)
