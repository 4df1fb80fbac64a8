"""What servers and networks do, and what a caller sees of it: nothing, where it can be repaired before
use, else an error that says what happened. Afterwards no place and no permit is missing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core import bounds
from poolmgr.pool.sync.derivation import derive
from poolmgr.pool.sync.pool import FRESH, ConnectionPool
from tests.helpers import RedisServer, free_port, wait_for
from tests.permits import FakeMember
from tests.pools import (
    answers_are_its_own,
    client_of,
    direct_pool,
    nothing_is_missing,
    only,
    permits,
    pool_on,
    pool_with,
    running_sentinel,
    running_server,
    sentinel_pool,
    warm,
)
from tests.proxy import Proxy
from tests.stopwatch import Stopwatch
from tests.threads import Calls


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[ConnectionPool]:
    """A pool behind the proxy, with three idle connections."""
    pool = pool_on(proxy)
    warm(pool, 3)
    yield pool
    pool.disconnect()


@pytest.mark.usefixtures("flavour")
def test_idle_connections_closed_by_the_servers_timeout(said: Callable[[], list[str]]):
    with running_server(timeout=1) as server:
        pool = direct_pool(server)
        warm(pool, 2)
        wait_for(lambda: not server.clients(), 5)
        assert client_of(pool).ping()
        assert pool.stats().closed == {"stale": 2}
        assert said() == [], "nothing that anybody has to know"
        nothing_is_missing(pool)


@pytest.mark.parametrize("abruptly", [False, True])
@pytest.mark.usefixtures("flavour")
def test_a_proxy_cuts_idle_connections(
    pool: ConnectionPool, proxy: Proxy, abruptly: bool, said: Callable[[], list[str]]
):
    proxy.cut(abruptly=abruptly)
    time.sleep(0.02)
    assert client_of(pool).ping()
    assert pool.stats().closed == {"stale": 3}
    answers_are_its_own(pool)
    assert said() == []
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_the_server_restarts(said: Callable[[], list[str]]):
    with running_server() as server:
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        warm(pool, 3)
        server.stop()
        time.sleep(0.01)
        start, watch = time.monotonic(), Stopwatch()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert watch.fair() < 1
        assert pool._core.failed_for >= start, "the attempt began when the connection was renewed, not when it was made"
        server.start()
        assert client.ping()
        answers_are_its_own(pool)
        assert permits(pool).troubles[0][0] == "unreachable"
        assert only(said(), "Error 111 connecting to 127.0.0.1")
        nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_half_open_connection(pool: ConnectionPool, proxy: Proxy, said: Callable[[], list[str]]):
    proxy.frozen = True
    client = client_of(pool)
    watch = Stopwatch()
    with pytest.raises(redis.TimeoutError):
        client.get("k")
    assert watch.seconds() >= 0.5 and watch.fair() < 2, "socket_timeout, and not that of the connect"
    proxy.restore()
    answers_are_its_own(pool)
    assert said() == [], "its caller was told"
    nothing_is_missing(pool)


@pytest.mark.parametrize("idle", [0, 1], ids=["a new connection", "a stale one"])
@pytest.mark.parametrize(("within", "attempts"), [(0.1, 1), (60, 4)])
@pytest.mark.parametrize("timeout", [0, None])
@pytest.mark.usefixtures("flavour")
def test_no_attempt_to_connect_begins_when_the_time_for_it_is_up(
    proxy: Proxy, idle: int, within: float, attempts: int, timeout: float | None, monkeypatch: pytest.MonkeyPatch
):
    """redis-py's retries are within the connect: against a server that is silent they were many times its bound. The
    pool's ``timeout`` bounds the wait for others, and has no part in it."""
    monkeypatch.setitem(bounds.LONGEST, bounds.CONNECTING, within)
    retry = Retry(NoBackoff(), 3)
    pool = pool_on(proxy, timeout=timeout, socket_timeout=0.15, retry=retry)
    warm(pool, idle)
    proxy.stalled = True
    proxy.cut()
    wait_for(lambda: not idle or (pool._idle[0]._look() and time.monotonic() - pool._idle[0]._since > FRESH))
    before = proxy.accepted
    with pytest.raises(redis.TimeoutError):
        pool.get_connection()
    assert proxy.accepted - before == attempts
    proxy.stalled = False
    with pool.connection() as connection:
        assert connection.retry is not retry
        copied = connection.retry
        assert (copied._retries, copied._backoff) == (retry._retries, retry._backoff), "a copy of redis-py's own"
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_name_that_does_not_resolve(said: Callable[[], list[str]]):
    pool = pool_with(host="no-such-host.invalid", member=FakeMember(), timeout=1)
    with pytest.raises(redis.ConnectionError):
        client_of(pool).ping()
    assert only(said(), "no-such-host.invalid")
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_loading(said: Callable[[], list[str]]):
    """A server that reads its data back answers everything with LOADING."""
    with running_server() as server:
        with server.observer() as observer:
            observer.execute_command("DEBUG", "POPULATE", 1000)
            observer.save()
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        warm(pool, 2)
        server.stop()
        server.options |= {"key-load-delay": "1500", "loading-process-events-interval-bytes": "1024"}
        starting = Calls(server.start)

        def loading() -> bool:
            try:
                client.get("key:1")
            except redis.BusyLoadingError:
                return True
            except redis.ConnectionError:  # it does not listen yet
                pass
            return False

        wait_for(loading)
        said()
        starting.join()
        assert client.get("key:1") == b"value:1"
        answers_are_its_own(pool)
        assert said() == []
        nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_client_kill_of_a_connection_in_use_and_of_an_idle_one(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    warm(pool, 2)
    blocked = Calls(lambda: client_of(pool).blpop(["nothing"], timeout=5))
    with server.observer() as observer:
        wait_for(lambda: observer.info("clients")["blocked_clients"] == 1)
        observer.client_kill_filter(_type="normal", skipme=True)
        assert isinstance(blocked.errors()[0], redis.ConnectionError), "whose command it was is told"
        wait_for(lambda: len(observer.client_list(_type="normal")) == 1)
    assert client_of(pool).ping(), "nobody else is"
    assert pool.stats().closed == {"broken": 1, "stale": 1}
    assert said() == []
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_busy_is_an_answer(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    client = client_of(pool)
    with server.observer() as observer:
        observer.config_set("busy-reply-threshold", 10)
    running = Calls(lambda: script(server))

    def busy() -> bool:
        try:
            client.get("k")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    wait_for(busy)
    client.execute_command("SCRIPT KILL")
    running.join()
    assert pool.stats().closed == {}
    assert said() == []
    answers_are_its_own(pool)


def script(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


@pytest.mark.usefixtures("flavour")
def test_maxclients_reached_by_others(said: Callable[[], list[str]]):
    with running_server(maxclients=5) as server:
        others = [redis.Redis(port=server.port, single_connection_client=True) for _ in range(4)]
        for other in others:
            other.ping()
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        client.ping()
        held = pool.get_connection()
        pool.timeout = 0.2
        with pytest.raises(ConnectionPoolTimeoutError, match="max number of clients") as caught:
            client.ping()
        assert caught.value.reason == "server"
        assert str(caught.value).endswith("raise maxclients there, or close connections of its other clients")
        assert permits(pool).troubles[0][0] == "refused"
        assert only(said(), "max number of clients")
        pool.release(held)
        assert client.ping()
        for other in others:
            other.close()
        nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_wrong_password_and_a_rotated_one(said: Callable[[], list[str]]):
    with running_server(requirepass="first") as server:
        pool = direct_pool(server, password="wrong")
        with pytest.raises(redis.AuthenticationError):
            client_of(pool).ping()
        assert permits(pool).troubles[0][0] == "auth"
        assert only(said(), "invalid username-password")
        nothing_is_missing(pool)
        pool = direct_pool(server, password="first")
        client = client_of(pool)
        warm(pool, 2)
        held = pool.get_connection()
        client.config_set("requirepass", "second")
        assert client.ping(), "what is connected stays so"
        pool.connection_kwargs["password"] = "second"
        pool.drain()
        assert pool.stats().idle == 0
        pool.release(held)
        assert client.ping()
        assert pool.stats().closed == {"drained": 2}
        assert said() == []
        nothing_is_missing(pool)
        server.password = "second"


@pytest.mark.usefixtures("flavour")
def test_a_master_that_has_become_a_replica(server: RedisServer, said: Callable[[], list[str]]):
    """Through Sentinel, the connection is closed, so that the next one asks who is master now."""
    with running_sentinel(server) as port:
        pool = sentinel_pool(port)
        client = client_of(pool)
        client.set("k", 1)
        with server.observer() as observer:
            observer.execute_command("REPLICAOF", "127.0.0.1", free_port())
            try:
                with pytest.raises(redis.ConnectionError, match="previous master"):
                    client.set("k", 2)
            finally:
                observer.execute_command("REPLICAOF", "NO", "ONE")
        client.set("k", 3)
        assert pool.stats().closed == {"broken": 1}
        assert said() == []
        nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_read_only_is_an_answer_and_the_connection_is_replaced(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    client = client_of(pool)
    client.ping()
    with server.observer() as observer:
        observer.execute_command("REPLICAOF", "127.0.0.1", free_port())
        try:
            with pytest.raises(redis.ReadOnlyError):
                client.set("k", 2)
        finally:
            observer.execute_command("REPLICAOF", "NO", "ONE")
    client.set("k", 3)
    assert pool.stats().closed == {"misdirected": 1}
    assert [line.partition(":")[0] for line in said()] == ["pool.misdirected"]
    nothing_is_missing(pool)


@pytest.mark.usefixtures("flavour")
def test_a_reconnect_inside_a_command_waits_for_a_permit(server: RedisServer):
    """redis-py reconnects by itself on a retry; the socket before has to be gone first."""
    pool = direct_pool(server, member=FakeMember(limit=1), retry=redis.retry.Retry(redis.backoff.NoBackoff(), 2))
    client = client_of(pool)
    client.ping()
    connection = pool.get_connection()
    connection.disconnect()
    connection.send_command("PING")
    assert connection.read_response()
    pool.release(connection)
    assert permits(pool).most == 1
    nothing_is_missing(pool)


def test_a_command_that_may_have_been_executed_is_not_repeated_by_the_pool(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    with server.observer() as observer:
        observer.set("count", 0)
    seen = threading.Event()
    send: Any = pool._available_connections[0].__class__._look

    def cut_after_the_look(connection: Any) -> str:
        reason: str = send(connection)
        if not seen.is_set():
            seen.set()
            connection._raw.shutdown(socket.SHUT_WR)  # the command is lost on its way
        return reason

    time.sleep(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._available_connections[0].__class__, "_look", cut_after_the_look)
        with pytest.raises(redis.ConnectionError):
            client.incr("count")
    assert client.get("count") == b"0"
    answers_are_its_own(pool)
    nothing_is_missing(pool)


@pytest.mark.parametrize("connected", [True, False])
def test_a_permit_is_free_at_once_only_if_the_server_cannot_have_seen_a_connection(
    monkeypatch: pytest.MonkeyPatch, connected: bool
):
    """An exception right after the connect leaves a connection whose end has to be proven."""

    def strike(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(derive(redis.Connection), "_name" if connected else "_prepare", strike)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it answers nothing, and closes nothing
        pool = ConnectionPool(
            host="127.0.0.1", port=silent.getsockname()[1], member=FakeMember(limit=2, tag="tag"), timeout=1
        )
        with pytest.raises(KeyboardInterrupt):
            pool.get_connection()
        found = permits(pool)
        assert len(found.closing) == connected
        assert len(found.out) == connected
        nothing_is_missing(pool)
