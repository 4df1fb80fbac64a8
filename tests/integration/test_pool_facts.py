"""What redis-py 8.1's own pools get wrong, or what traps a subclass: one test for each fact. Fact 14 is in
:mod:`tests.integration.test_pool_telemetry`."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.connection import Connection
from redis.event import (
    AfterConnectionReleasedEvent,
    AsyncAfterConnectionReleasedEvent,
    AsyncEventListenerInterface,
    EventDispatcher,
    EventListenerInterface,
)
from redis.sentinel import Sentinel

from poolmgr.pool.sync.pool import UNBOUNDED, ConnectionPool
from poolmgr.pool.sync.sentinel import SentinelConnectionPool
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember
from tests.pools import (
    answers_are_its_own,
    client_of,
    direct_pool,
    nothing_is_missing,
    permits,
    running_sentinel,
    sentinel_pool,
)
from tests.threads import Calls


class Interrupted(BaseException):
    pass


@pytest.fixture
def pool(server: RedisServer) -> Iterator[ConnectionPool]:
    pool = direct_pool(server)
    yield pool
    pool.disconnect()


def test_fact_1_under_resp3_an_unread_reply_goes_to_nobody(server: RedisServer):
    pool = direct_pool(server, protocol=3)
    assert pool.maint_notifications_enabled()
    client_of(pool).set("k", "mine")
    connection = pool.get_connection()
    connection.send_command("GET", "other")
    time.sleep(0.01)
    pool.release(connection)
    assert client_of(pool).get("k") == b"mine"


def test_fact_2_an_interrupted_blpop_of_a_sentinel_connection_does_not_answer_the_next_get(server: RedisServer):
    with running_sentinel(server) as port:
        client = client_of(sentinel_pool(port))
        client.set("k", "mine")
        client.delete("list")

        def handler(number: int, frame: object) -> None:
            raise Interrupted

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(Interrupted):
                client.blpop(["list"], timeout=5)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        with server.observer() as observer:
            observer.rpush("list", "not yours")
        assert client.get("k") == b"mine"


def test_fact_3_an_empty_pool_is_not_taken_for_none(pool: ConnectionPool):
    assert not hasattr(pool, "__len__")
    assert bool(pool)
    assert client_of(pool).connection_pool is pool


def test_fact_4_a_release_from_a_finalizer_never_blocks(pool: ConnectionPool):
    """Whoever has the turn, and whatever lock the thread holds: here all of them."""
    connection = pool.get_connection()
    waiting = threading.Thread(target=lambda: client_of(pool).ping())
    pool.max_connections = 1
    with pool._lock:
        pool._owner[0] = time.monotonic()  # as if this thread were interrupted inside an advance
        waiting.start()
        wait_for(lambda: pool.stats().waiting == 1)

        class Garbage:
            def __init__(self) -> None:
                self.cycle = self

            def __del__(self) -> None:
                pool.release(connection)

        Garbage()
        gc.collect()
        assert pool.stats().idle == 1
        pool._owner.clear()
        pool._advance(may_open=False)  # what the interrupted advance does when it goes on: it looks again
    waiting.join(60)
    assert not waiting.is_alive()
    nothing_is_missing(pool)


def test_fact_5_a_constructor_that_raises_costs_no_place(server: RedisServer):
    class Moody(Connection):
        broken = True

        def __init__(self, **kwargs: Any) -> None:
            if self.broken:
                raise RuntimeError("not today")
            super().__init__(**kwargs)

    pool = direct_pool(server, connection_class=Moody, max_connections=1)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="not today"):
            pool.get_connection()
    nothing_is_missing(pool)
    Moody.broken = False
    assert client_of(pool).ping()
    nothing_is_missing(pool)


def test_fact_6_a_double_release_hands_a_connection_to_one_caller(pool: ConnectionPool):
    for _ in range(20):
        connection = pool.get_connection()
        barrier = threading.Barrier(8)

        def release(connection: Any = connection, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            pool.release(connection)

        Calls(release, times=8).join()
        assert pool.stats().idle == 1
    first, second = pool.get_connection(), pool.get_connection()
    assert first is not second
    pool.release(first)
    pool.release(second)
    nothing_is_missing(pool)


def test_fact_8_a_forked_child_keeps_no_inherited_socket(server: RedisServer):
    pool = direct_pool(server, protocol=3)
    client = client_of(pool)
    client.set("k", "mine")
    held = pool.get_connection()
    other = pool.get_connection()
    numbers = [c._sock.fileno() for c in (held, other)]
    names = {os.readlink(f"/proc/self/fd/{number}") for number in numbers}
    pool.release(other)
    gc.disable()
    try:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                links = set()
                for number in os.listdir("/proc/self/fd"):
                    try:
                        links.add(os.readlink(f"/proc/self/fd/{number}"))
                    except OSError:
                        pass
                code = 0 if not links & names else 2
            finally:
                os._exit(code)
    finally:
        gc.enable()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    pool.release(held)
    assert client.get("k") == b"mine"
    assert pool.stats().created == 2, "the parent's connections were not shut down by the child"


def test_fact_9_max_connections_0_is_no_hidden_100(server: RedisServer):
    for value in (None, 0):
        pool = direct_pool(server, max_connections=value)
        assert pool.max_connections == UNBOUNDED
        assert pool.stats().max_connections is None
    with pytest.raises(ValueError, match="max_connections"):
        direct_pool(server, max_connections=-1)
    with pytest.raises(ValueError, match="max_connections"):
        direct_pool(server, max_connections="ten")


def test_fact_9_a_connection_that_is_dead_is_replaced_before_the_command_whose_retry_would_come_too_late(
    pool: ConnectionPool, server: RedisServer
):
    client = client_of(pool)
    client.ping()
    with server.observer() as observer:
        observer.client_kill_filter(_type="normal", skipme=True)
    wait_for(lambda: len(server.clients()) == 0)
    assert client.ping()  # its retry is the pool's default: none
    assert pool.stats().closed == {"stale": 1}


def test_fact_10_what_others_read_is_true(pool: ConnectionPool):
    assert (pool._created_connections, pool._available_connections, pool._in_use_connections) == (0, [], set())
    first, second = pool.get_connection(), pool.get_connection()
    assert pool._in_use_connections == {first, second}
    pool.release(first)
    assert pool._created_connections == 2
    assert pool._available_connections == [first]
    assert pool._in_use_connections == {second}
    assert pool._get_free_connections() == [first]
    assert pool.pid == os.getpid()
    with pool._lock, pool._lock:
        pass
    assert [count for count, _ in pool.get_connection_count()] == [1, 1]
    pool.max_connections = 7
    assert pool.max_connections == 7
    pool.release(second)


def test_fact_11_a_release_tells_those_who_listen(server: RedisServer, flavour: str):
    class Listener(EventListenerInterface):
        heard: list[Any] = []

        def listen(self, event: Any) -> None:
            self.heard.append(event.connection)

    class ListenerOfTasks(AsyncEventListenerInterface):
        async def listen(self, event: Any) -> None:
            Listener.heard.append(event.connection)

    release, listener = {
        "threads": (AfterConnectionReleasedEvent, Listener()),
        "tasks": (AsyncAfterConnectionReleasedEvent, ListenerOfTasks()),
    }[flavour]
    dispatcher = EventDispatcher()
    pool = direct_pool(server, event_dispatcher=dispatcher)
    client_of(pool).ping()
    dispatcher.register_listeners({release: [listener]})  # type: ignore[list-item]
    client_of(pool).ping()
    wait_for(lambda: pool.stats().idle == 1, what="all have heard of it")
    assert len(Listener.heard) == 1
    assert Listener.heard[0] is pool._available_connections[0]


def test_fact_11_a_new_token_is_sent_when_the_connection_comes_back(server: RedisServer):
    class Token:
        def try_get(self, key: str) -> str:
            return "default"

        def get_value(self) -> str:
            return "any"  # the default user without a password takes all

    pool = direct_pool(server)
    client = client_of(pool)
    lent, idle = pool.get_connection(), pool.get_connection()
    pool.release(idle)

    def auths() -> int:
        with server.observer() as observer:
            return int(observer.info("commandstats").get("cmdstat_auth", {"calls": 0})["calls"])

    before = auths()
    pool.re_auth_callback(Token())
    assert auths() == before + 1
    pool.release(lent)
    assert auths() == before + 2
    assert pool.stats().closed == {}
    assert client.ping()
    nothing_is_missing(pool)


def test_fact_12_a_constructor_makes_nothing(server: RedisServer):
    threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
    member = FakeMember()
    sentinel = Sentinel([("127.0.0.1", 1)])
    pool = SentinelConnectionPool("main", sentinel, member=member, min_idle=3)
    assert pool.connection_kwargs["connection_pool"] is pool.proxy
    plain = direct_pool(server, member=member, min_idle=3)
    assert plain.stats().idle == 0
    assert not member.endpoints
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, descriptors)


def test_a_connection_belongs_to_whoever_made_it_after_all_this(server: RedisServer):
    """The answers of many threads on few connections are their own."""
    pool = direct_pool(server, max_connections=3)
    Calls(lambda: answers_are_its_own(pool, 30), times=12).join()
    nothing_is_missing(pool)
    assert permits(pool).most <= 3
    assert isinstance(pool._available_connections[0]._sock, socket.socket)
    assert isinstance(client_of(pool), redis.Redis)
