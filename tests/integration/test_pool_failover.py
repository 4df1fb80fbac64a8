"""A master that is replaced, through Sentinel: who is master is asked anew, and permits move with the connections."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import redis

from poolmgr import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.pools import answers_are_its_own, client_of, running_sentinel, running_server, sentinel_pool, warm


class House:
    """Two servers, and a Sentinel that is told which of them is master."""

    def __init__(self, old: RedisServer, new: RedisServer, sentinel: int) -> None:
        self.old, self.new, self.sentinel = old, new, sentinel
        self.member = FakeMember()
        self.pool: ConnectionPool = sentinel_pool(sentinel, member=self.member)

    def demote(self) -> None:
        """The old master becomes a replica of the new one, and Sentinel knows."""
        with redis.Redis(port=self.sentinel) as sentinel:
            sentinel.execute_command("SENTINEL REMOVE", "main")
            sentinel.execute_command("SENTINEL MONITOR", "main", "127.0.0.1", self.new.port, 1)
        with self.old.observer() as observer:
            observer.execute_command("REPLICAOF", "127.0.0.1", self.new.port)

    def held(self, server: RedisServer) -> int:
        """Permits of that server that are out; what was handed over to be closed has been."""
        permits = self.member.all.get(f"tcp://127.0.0.1:{server.port}")
        if permits is None:
            return 0
        permits.sweep()
        return len(permits.out)


@pytest.fixture
def house() -> Iterator[House]:
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(running_server()) for _ in range(2))
        yield House(old, new, stack.enter_context(running_sentinel(old)))


@pytest.mark.usefixtures("flavour")
def test_a_write_to_the_old_master_fails_once_and_the_next_one_goes_to_the_new(
    house: House, said: Callable[[], list[str]]
) -> None:
    client = client_of(house.pool)
    client.set("k", 1)
    assert (house.held(house.old), house.held(house.new)) == (1, 0)
    house.demote()
    with pytest.raises(redis.ConnectionError, match="previous master"):
        client.set("k", 2)
    assert house.pool.stats().closed == {"broken": 1}
    assert house.held(house.old) == 0, "its permit is free before anybody asks for another"
    client.set("k", 3)
    assert (house.held(house.old), house.held(house.new)) == (0, 1)
    with house.new.observer() as observer:
        assert observer.get("k") in ("3", b"3")
    answers_are_its_own(house.pool)
    assert said() == []


@pytest.mark.usefixtures("flavour")
def test_idle_connections_to_the_old_master_go_with_the_first_that_learns_of_the_new(house: House) -> None:
    pool = house.pool
    warm(pool, 4)
    assert house.held(house.old) == 4
    house.demote()
    held = pool.get_connection()
    held.disconnect()
    held.connect()
    assert pool.stats().closed == {"pool": 3}
    assert (house.held(house.old), house.held(house.new)) == (0, 1)
    pool.release(held)
    assert client_of(pool).set("k", 1)
    assert pool.stats().idle == 1


@pytest.mark.usefixtures("flavour")
def test_a_connection_in_use_at_the_old_master_is_closed_when_it_comes_back(house: House) -> None:
    held = house.pool.get_connection()
    house.demote()
    client_of(house.pool).set("k", 1)
    assert (house.held(house.old), house.held(house.new)) == (1, 1)
    house.pool.release(held)
    assert house.pool.stats().closed == {"marked": 1}
    assert (house.held(house.old), house.held(house.new)) == (0, 1)
