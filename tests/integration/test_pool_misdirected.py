"""A name that leads to another server now: a connection that still leads to the old one goes after its first error.

Two real servers, and a proxy in front that stands for the name: as with DNS, what is connected stays where it is. Then
``REPLICAOF`` makes the old one a replica of the new one.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.cache import CacheConfig
from redis.connection import Connection
from redis.retry import Retry
from redis.sentinel import Sentinel

from poolmgr import ConnectionPool
from poolmgr.pool.sync.adapters import Cached
from poolmgr.pool.sync.sentinel import SentinelConnectionPool
from tests.helpers import RedisServer, wait_for
from tests.permits import FakeMember
from tests.pools import client_of, nothing_is_missing, pool_on, running_sentinel, running_server, warm
from tests.proxy import Proxy, proxy_to
from tests.servers import let_redis_py_cache
from tests.service import Service


class Name:
    """What a name leads to: first the old server, then the new one."""

    def __init__(self, old: RedisServer, new: RedisServer, proxy: Proxy) -> None:
        self.old, self.new, self.proxy = old, new, proxy

    def fail_over(self) -> None:
        """The new one is the primary, the name leads there, and the old one follows it. Nothing is closed."""
        self.proxy.target = self.new.port
        self.demote()

    def demote(self) -> None:
        with self.old.observer() as observer:
            observer.execute_command("REPLICAOF", "127.0.0.1", self.new.port)

    def reset(self) -> None:
        self.proxy.cut()
        self.proxy.target = self.old.port
        for server in (self.old, self.new):
            with server.observer() as observer:
                observer.execute_command("REPLICAOF", "NO", "ONE")
                observer.config_set("replica-serve-stale-data", "yes")
                observer.config_set("min-replicas-to-write", 0)
                observer.config_set("proto-max-bulk-len", 512 << 20)
                observer.flushall()


@pytest.fixture(scope="module")
def both() -> Iterator[Name]:
    with contextlib.ExitStack() as stack:
        old, new = (stack.enter_context(running_server()) for _ in range(2))
        yield Name(old, new, stack.enter_context(proxy_to(old.port)))


@pytest.fixture
def name(both: Name) -> Name:
    both.reset()
    return both


class Overriding(Connection):
    """Its replies are counted on the long way."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return super().read_response(*args, **kwargs)


POOLS: dict[str, dict[str, Any]] = {
    "resp2": {"protocol": 2},
    "resp3": {"protocol": 3},
    "overriding": {"connection_class": Overriding},
    "python2": {"protocol": 2, "parser_class": redis._parsers._RESP2Parser},
    "python3": {"protocol": 3, "parser_class": redis._parsers._RESP2Parser},
    "factory": {"connection_class": functools.partial(Connection)},
    "cached": {"protocol": 3, "cache_config": CacheConfig()},
    "bounded": {"max_reply": 1 << 20},
}


class OverridingInTasks(redis.asyncio.Connection):
    async def read_response(self, *args: Any, **kwargs: Any) -> Any:
        return await super().read_response(*args, **kwargs)


FOR_TASKS: dict[str, dict[str, Any]] = {
    "overriding": {"connection_class": OverridingInTasks},
    "python2": {"protocol": 2, "parser_class": redis._parsers._AsyncRESP2Parser},
    "python3": {"protocol": 3, "parser_class": redis._parsers._AsyncRESP3Parser},
    "factory": {"connection_class": functools.partial(redis.asyncio.Connection)},
    "cached": {"protocol": 3},  # redis.asyncio has no cache
}


def misdirected(pool: ConnectionPool) -> int:
    return pool.stats().closed.get("misdirected", 0)


@pytest.mark.parametrize("kind", POOLS)
def test_one_error_and_the_next_write_arrives(
    flavour: str, name: Name, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = POOLS[kind]
    if flavour == "tasks":
        options = FOR_TASKS.get(kind, options)
    if "cache_config" in options:
        let_redis_py_cache(name.new.kind, Cached, monkeypatch)
    pool = pool_on(name.proxy, **options)
    client = client_of(pool)
    assert client.set("k", "before")
    name.fail_over()
    with pytest.raises(redis.ReadOnlyError):
        client.set("k", "lost")
    assert pool.stats().closed == {"misdirected": 1}
    assert client.set("k", "after")
    assert name.new.info("keyspace")["db0"]["keys"] == 1
    nothing_is_missing(pool)
    pool.close()


def pipeline(client: Any) -> Any:
    with client.pipeline(transaction=False) as pipe:
        return pipe.get("k").set("k", 1).execute(raise_on_error=False)


def transaction(client: Any) -> Any:
    with client.pipeline() as pipe:
        return pipe.get("k").set("k", 1).execute()


def script(client: Any) -> Any:
    return client.eval("return redis.call('set', 'k', 1)", 0)


def script_in_a_transaction(client: Any) -> Any:
    with client.pipeline() as pipe:
        return pipe.get("k").eval("return redis.call('set', 'k', 1)", 0).execute(raise_on_error=False)


def script_that_returns_its_error_in_a_list(client: Any) -> Any:
    return client.eval("return {1, redis.pcall('set', 'k', 1)}", 0)


def script_with_a_flag(client: Any) -> Any:
    return client.eval("#!lua\nreturn redis.call('set', 'k', 1)", 0)


WRITES = [
    pipeline, transaction, script, script_in_a_transaction, script_that_returns_its_error_in_a_list, script_with_a_flag,
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.usefixtures("flavour")
def test_wherever_in_a_reply_the_error_stands(name: Name, write: Callable[..., Any], protocol: int) -> None:
    pool = pool_on(name.proxy, protocol=protocol)
    client = client_of(pool)
    client.ping()
    name.fail_over()
    with contextlib.suppress(redis.ResponseError):
        write(client)
    assert pool.stats().closed == {"misdirected": 1}
    write(client)
    assert misdirected(pool) == 1
    nothing_is_missing(pool)
    pool.close()


@pytest.mark.usefixtures("flavour")
def test_a_role_that_changes_between_multi_and_exec(name: Name) -> None:
    """EXEC itself is refused then, in words of its own."""
    pool = pool_on(name.proxy)
    with pool.connection() as connection:
        for words in ("MULTI", "SET k 1"):
            connection.send_command(*words.split())
            connection.read_response()
        name.fail_over()
        connection.send_command("EXEC")
        with pytest.raises(redis.ResponseError, match="READONLY"):
            connection.read_response()
    assert pool.stats().closed == {"misdirected": 1}
    pool.close()


def cut_off(name: Name) -> None:
    """A replica without its primary, which answers nothing."""
    with name.old.observer() as observer:
        observer.config_set("replica-serve-stale-data", "no")
        observer.execute_command("REPLICAOF", "127.0.0.1", 1)
    name.proxy.target = name.new.port


def left_behind(name: Name) -> None:
    """A primary that its replicas have left: it takes no writes."""
    with name.old.observer() as observer:
        observer.config_set("min-replicas-to-write", 1)
    name.proxy.target = name.new.port


@pytest.mark.parametrize("fault", [cut_off, left_behind])
@pytest.mark.usefixtures("flavour")
def test_other_errors_by_which_a_server_says_that_it_is_the_wrong_one(name: Name, fault: Callable[..., None]) -> None:
    pool = pool_on(name.proxy)
    client = client_of(pool)
    client.ping()
    fault(name)
    with pytest.raises(redis.ResponseError):
        client.set("k", 1)
    assert pool.stats().closed == {"misdirected": 1}
    assert client.set("k", 1)
    pool.close()


OTHERS = {
    "no such command": "READONLY 1",
    "a command's name in an error": "'READONLY You' NOREPLICAS",
    "wrong type": "INCR list",
    "no script": f"EVALSHA {'0' * 40} 0",
    "not allowed": "CONFIG GET *",
    "an aborted transaction": "EXEC",
    "an error that quotes": "OBJECT READONLY k",
}


@pytest.mark.parametrize("command", OTHERS.values(), ids=OTHERS)
@pytest.mark.usefixtures("flavour")
def test_errors_that_say_nothing_of_the_connection(name: Name, command: str) -> None:
    with name.old.observer() as observer:
        observer.rpush("list", 1)
        observer.execute_command("ACL SETUSER plain on nopass ~* +@all -config")
    pool = pool_on(name.proxy, username="plain", password="x")
    client = client_of(pool)
    before = client.client_id()
    with pytest.raises(redis.ResponseError):
        client.execute_command(*command.split())
    assert client.client_id() == before
    assert misdirected(pool) == 0
    pool.close()


def test_a_command_that_blocks_meanwhile(name: Name) -> None:
    pool = pool_on(name.proxy, socket_timeout=5)
    with pool.connection() as connection:
        connection.send_command("BLPOP", "k", 0)
        wait_for(lambda: name.old.info("clients")["blocked_clients"] == 1)
        name.fail_over()
        with pytest.raises(redis.ResponseError, match="UNBLOCKED"):
            connection.read_response()
    assert client_of(pool).set("k", 1), "the old one, which its server closes now, is not lent again"
    assert pool.stats().closed == {"misdirected": 1}
    pool.close()


def test_a_reply_that_is_a_servers_last_word(name: Name) -> None:
    with name.old.observer() as observer:
        observer.config_set("proto-max-bulk-len", 1 << 20)
    pool = pool_on(name.proxy)
    client = client_of(pool)
    with pool.connection() as connection:
        connection.send_command("PING")
        connection.read_response()
        connection.send_command("ECHO", b"x" * ((1 << 20) + 1))
        with pytest.raises(redis.RedisError, match="Protocol error|onnection"):  # its end may overtake its words
            connection.read_response()
    assert client.ping()
    assert pool.stats().closed == {"broken": 1}
    client.execute_command("QUIT")
    assert client.ping()
    assert pool.stats().closed == {"broken": 1, "dirty": 1}
    pool.close()


@pytest.mark.usefixtures("flavour")
def test_one_that_is_held_meanwhile_goes_when_it_comes_back(name: Name) -> None:
    pool = pool_on(name.proxy)
    with pool.connection() as connection:
        name.fail_over()
        connection.send_command("SET", "k", 1)
        with pytest.raises(redis.ReadOnlyError):
            connection.read_response()
        connection.send_command("GET", "k")
        assert connection.read_response() is None, "its holder goes on with it"
    assert pool.stats().closed == {"misdirected": 1}
    pool.close()


def test_one_that_its_holder_has_reconnected_is_kept(name: Name) -> None:
    pool = pool_on(name.proxy)
    with pool.connection() as connection:
        name.fail_over()
        connection.send_command("SET", "k", 1)
        with pytest.raises(redis.ReadOnlyError):
            connection.read_response()
        connection.disconnect()
        connection.send_command("SET", "k", 1)
        assert connection.read_response() in ("OK", b"OK")
    assert misdirected(pool) == 0
    assert pool.stats().idle == 1
    pool.close()


def test_whoever_has_redis_py_repeat_such_errors_sees_none(name: Name) -> None:
    pool = pool_on(name.proxy, retry=Retry(NoBackoff(), 1), retry_on_error=[redis.ReadOnlyError])
    client = client_of(pool)
    client.ping()
    name.fail_over()
    assert client.set("k", 1)
    assert misdirected(pool) == 0, "the command itself has connected again"
    assert pool.stats().idle == 1
    pool.close()


@pytest.mark.usefixtures("flavour")
def test_writes_to_a_replica_that_is_read_on_purpose_make_no_storm(name: Name, said: Callable[[], list[str]]) -> None:
    """Each connection at most once in so many seconds, and one line for all of them."""
    name.demote()
    pool = pool_on(name.proxy)
    warm(pool, 3)
    client = client_of(pool)
    before, began, refused = name.proxy.accepted, time.monotonic(), 0
    while time.monotonic() - began < 2.5:
        with pytest.raises(redis.ReadOnlyError):
            client.set("k", 1)
        client.get("k")
        refused += 1
        time.sleep(0.005)  # enough errors for a storm, and time for all else
    made, windows = name.proxy.accepted - before, 1 + int(time.monotonic() - began)
    assert refused > 50
    assert 2 <= made <= 3 * windows, f"{made} connects for {refused} errors"
    assert said() == ["pool.misdirected: READONLY You can't write against a read only replica."]
    pool.close()


def test_a_new_connection_that_still_leads_to_the_old_server_is_tried_again_later(name: Name) -> None:
    """A name changes later than its servers do."""
    pool = pool_on(name.proxy)
    client = client_of(pool)
    client.ping()
    name.demote()
    for _ in range(10):
        with pytest.raises(redis.ReadOnlyError):
            client.set("k", 1)
    name.proxy.target = name.new.port

    def arrives() -> bool:
        with contextlib.suppress(redis.ReadOnlyError):
            return bool(client.set("k", 1))
        return False

    wait_for(arrives, 10, step=0.05)
    assert misdirected(pool) == 2
    pool.close()


def test_a_replica_of_sentinels_is_where_it_is_meant_to_be(name: Name) -> None:
    with running_sentinel(name.old) as port:
        client = Sentinel([("127.0.0.1", port)]).slave_for(  # none is known, so redis-py reads the master
            "main", connection_pool_class=SentinelConnectionPool, member=FakeMember()
        )
        before = client.client_id()
        name.demote()
        with pytest.raises(redis.ReadOnlyError):
            client.set("k", 1)
        assert client.client_id() == before
        client.close()


def test_the_service_answers_one_error_for_each_connection_and_goes_on(
    name: Name, make: Callable[..., Service]
) -> None:
    environ = {"REDIS_CONNECTION_BUDGET": "12"}
    service = make(redis_url=f"redis://127.0.0.1:{name.proxy.port}", environ=environ).start()

    def write() -> int:
        answer = service.ask("SET", "k", "1")
        assert answer.status == 200 or "READONLY" in answer.json["error"], answer
        return answer.status

    assert {write() for _ in range(20)} == {200}
    name.fail_over()
    connections = name.proxy.open
    statuses = [write() for _ in range(60)]
    assert 1 <= statuses.count(400) <= connections
    assert statuses[-20:] == [200] * 20
    assert service.get("/readyz").status == 200
    assert len(service.events("pool.misdirected")) in (1, 2)
