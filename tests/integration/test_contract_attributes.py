"""What others read of connections and pools is the truth: the same as of redis-py's own, side by side."""

from __future__ import annotations

import functools
import json
import os
import re
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.cache import CacheConfig
from redis.connection import CacheProxyConnection, Connection, UnixDomainSocketConnection
from redis.credentials import UsernamePasswordCredentialProvider
from redis.sentinel import Sentinel, SentinelConnectionPool

from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.pool.sync.sentinel import SentinelConnectionPool as OurSentinelConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember

OPTIONS: dict[str, Any] = {
    "db": 2, "client_name": "me", "socket_timeout": 7, "socket_connect_timeout": 3, "health_check_interval": 30,
    "credential_provider": UsernamePasswordCredentialProvider(None, "none"), "encoding": "latin-1",
    "decode_responses": True, "max_connections": 5,
}  # fmt: skip


class Own(Connection):
    """A user's."""

    flavour = "own"

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        return super().send_command(*args, **kwargs)


def factory(**options: Any) -> Own:
    return Own(**options)


READ: dict[str, Callable[[Any], Any]] = {
    "class": lambda c: (type(c).__module__, type(c).__name__, type(c).__qualname__),
    "pid": lambda c: c.pid == os.getpid(),
    "repr": lambda c: re.sub(r"0x\w+", "", repr(c)),
    "connected": lambda c: c.is_connected,
    "sock": lambda c: type(c._sock).__name__,
    "same sock": lambda c: c._get_socket() is c._sock,
    "peer": lambda c: c._sock and c._sock.getpeername(),
    "sock timeout": lambda c: c._sock and c._sock.gettimeout(),
    "options": lambda c: c._sock and [c._sock.getsockopt(6, 1), c._sock.getsockopt(1, 9)],
    "peername": lambda c: c.getpeername(),
    "resolved": lambda c: c.get_resolved_ip(),
    "details": lambda c: re.sub(r"port: \S+", "", c.extract_connection_details()),
    "where": lambda c: c._host_error(),
    "parser": lambda c: type(c._parser).__name__,
    "the parser": lambda c: c._get_parser() is c._parser,
    "encoder": lambda c: vars(c.encoder),
    "packer": lambda c: type(c._command_packer).__name__,
    "packed": lambda c: [b"".join(c.pack_command("GET", "k")), b"".join(c.pack_commands([("GET", "k")]))],
    "retry": lambda c: (type(c.retry), c.retry.get_retries(), type(c.retry._backoff)),
    "proto": lambda c: (c.handshake_metadata or {}).get("proto", (c.handshake_metadata or {}).get(b"proto")),
    "checked": lambda c: c.next_health_check > 0,
    "driver": lambda c: c.driver_info.formatted_name,
    "library": lambda c: c.driver_info.lib_version,
    "reconnect": lambda c: c.should_reconnect(),
    "maintenance": lambda c: (c.maintenance_state, c.maintenance_notification_hash),
    "notifications": lambda c: c.maint_notifications_config and c.maint_notifications_config.enabled,
    "is a": lambda c: (isinstance(c, Connection), isinstance(c, UnixDomainSocketConnection)),
    "get_protocol": lambda c: c.get_protocol(),
    "callbacks": lambda c: len(c._connect_callbacks),
    "hashable": lambda c: hash(c) == hash(c) and c == c,
}
for _name in (
    "host", "port", "path", "db", "username", "password", "client_name", "socket_timeout", "socket_connect_timeout",
    "socket_keepalive", "socket_type", "retry_on_timeout", "retry_on_error", "health_check_interval",
    "redis_connect_func", "protocol", "legacy_responses", "_buffer_cutoff", "_socket_read_size",
    "_re_auth_token", "orig_host_address", "orig_socket_timeout", "orig_socket_connect_timeout", "flavour",
    "credential_provider", "_himport_prepared", "ssl_ciphers",
):  # fmt: skip
    READ[_name] = functools.partial(lambda name, c: getattr(c, name), _name)

POOL: dict[str, Callable[[Any], Any]] = {
    "pid": lambda p: p.pid == os.getpid(),
    "class": lambda p: p.connection_class,
    "max": lambda p: p.max_connections,
    "arguments": lambda p: sorted(p.connection_kwargs),
    "created": lambda p: p._created_connections,
    "available": lambda p: len(p._available_connections),
    "in use": lambda p: len(p._in_use_connections),
    "free": lambda p: len(p._get_free_connections()),
    "lent": lambda p: len(p._get_in_use_connections()),
    "counts": lambda p: [count for count, _ in p.get_connection_count()],
    "encoder": lambda p: vars(p.get_encoder()),
    "protocol": lambda p: p.get_protocol(),
    "cache": lambda p: type(p.cache).__name__,
    "lock": lambda p: (p._lock.acquire(timeout=1), p._lock.release(), p._fork_lock.acquire(timeout=1)),
    "unlock": lambda p: p._fork_lock.release(),
    "registry": lambda p: type(p.himport_registry),
    "dispatcher": lambda p: type(p._event_dispatcher),
    "id": lambda p: len(p._pool_id),
    "notifications": lambda p: p.maint_notifications_enabled(),
    "repr": lambda p: repr(p).partition("(<")[2].split(",")[:3],  # what redis-py keeps for itself follows
    "all": lambda p: sorted(c.is_connected for c in [*p._available_connections, *p._in_use_connections]),
}


def observed(thing: Any, readers: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            found[name] = read(thing)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {type(thing).__name__ and error}"
    return found


def story(pool: Any) -> list[dict[str, Any]]:
    """What is seen at every stage of a pool's life."""
    seen = []

    def look(connection: Any = None) -> None:
        seen.append(observed(pool, POOL))
        if connection is not None:
            seen.append(observed(connection, READ))
            inner = getattr(connection, "_conn", None)
            if inner is not None:
                seen.append(observed(inner, READ))

    def use(connection: Any) -> None:
        connection.send_command("SET", "k", "v", keys=["k"])
        connection.read_response()

    look()
    made = pool.make_connection()
    seen.append(observed(made, READ))
    made.disconnect()
    del made
    pool._created_connections = 0  # in redis-py's it counts, and no one has it
    first = pool.get_connection()
    look(first)
    use(first)
    look(first)
    second = pool.get_connection()
    look(second)
    pool.release(second)
    look(first)
    first.disconnect()
    look(first)
    use(first)  # connects again
    look(first)
    first.mark_for_reconnect()
    look(first)
    first.reset_should_reconnect()
    with pytest.raises(redis.ResponseError):
        first.send_command("LPUSH", "k", "x", keys=["k"])
        first.read_response()
    look(first)
    pool.release(first)
    look()
    held: list[Any] = []

    def later() -> list[dict[str, Any]]:
        held.append(pool.get_connection())
        return [observed(held[0], READ), observed(pool, POOL)]

    seen += in_child(later)
    pool.disconnect()
    return seen


def in_child(what: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What is seen in a forked child, as text."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            seen = [{name: re.sub(r"0x\w+", "", repr(value)) for name, value in one.items()} for one in what()]
            os.write(writing, json.dumps(seen).encode())
        except BaseException:
            os.write(writing, json.dumps([{"failed": traceback.format_exc()}]).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    found: list[dict[str, Any]] = json.loads(said)
    return found


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> list[tuple[int, str, Any, Any]]:
    return [
        (stage, name, mine[name], other[name])
        for stage, (mine, other) in enumerate(zip(ours, theirs, strict=True))
        for name in other
        if mine[name] != other[name] and "AttributeError" not in str(other[name])
    ]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", ["tcp", "unix", "own", "factory", "sentinel", "cache"])
def test_what_is_read_is_what_is_so(
    server: RedisServer, sentinel: int, kind: str, protocol: int, monkeypatch: pytest.MonkeyPatch
):
    if kind == "cache" and protocol == 2:
        pytest.skip("redis-py caches under RESP3 only")
    options = {**OPTIONS, "protocol": protocol}
    with server.observer() as observer:
        observer.execute_command("ACL", "SETUSER", "default", "on", ">none", "allcommands", "allkeys", "allchannels")
    try:
        stories = []
        for pool_class, sentinel_class in (
            (ConnectionPool, OurSentinelConnectionPool),
            (redis.ConnectionPool, SentinelConnectionPool),
        ):
            own: dict[str, Any] = {"member": FakeMember()} if pool_class is ConnectionPool else {}
            if kind == "sentinel":
                manager = Sentinel([("127.0.0.1", sentinel)], socket_timeout=5)
                pool: Any = sentinel_class("main", manager, **options, **own)
            else:
                place: dict[str, Any] = (
                    {"path": server.path} if kind == "unix" else {"host": "127.0.0.1", "port": server.port}
                )
                classes: dict[str, Any] = {"unix": UnixDomainSocketConnection, "own": Own, "factory": factory}
                more: dict[str, Any] = {"cache_config": CacheConfig()} if kind == "cache" else {}
                monkeypatch.setattr(CacheProxyConnection, "DEFAULT_SERVER_NAME", "valkey")
                pool = pool_class(
                    connection_class=classes.get(kind, Connection),
                    **place,
                    **options,
                    **more,
                    **own,
                )
            stories.append(story(pool))
    finally:
        with redis.Redis(port=server.port, password="none") as client:
            client.execute_command("ACL", "SETUSER", "default", "nopass")
    found = differences(*stories)
    assert not found, "\n".join(map(str, found))


def test_the_name_that_a_connection_bears_is_the_one_that_the_server_knows(server: RedisServer):
    """Where permits have names, ``client_name`` says so, after the user's own."""
    pool = ConnectionPool(host="127.0.0.1", port=server.port, client_name="me", member=FakeMember(tag="tag"))
    with pool.connection() as held:
        held.send_command("CLIENT", "GETNAME")
        assert held.read_response().decode() == held.client_name == "me:tag-1"
        held.disconnect()
        held.connect()
        assert held.client_name == "me:tag-2"
    pool.close()


def drained_by_hand(pool: Any) -> int:
    """As in programs that want all idle connections closed."""
    count = 0
    while pool._available_connections:
        pool._available_connections.pop().disconnect()
        count += 1
    return count


@pytest.fixture
def pools(server: RedisServer) -> list[Any]:
    place: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "max_connections": 3}
    return [ConnectionPool(member=FakeMember(), timeout=0.1, **place), redis.ConnectionPool(**place)]


@pytest.mark.timeout(60)
def test_code_that_takes_idle_connections_by_hand_comes_to_an_end_and_has_them_to_itself(pools: list[Any]):
    for pool in pools:
        held = [pool.get_connection() for _ in range(3)]
        for connection in held:
            pool.release(connection)
        taken = pool._available_connections.pop()
        assert taken not in pool._available_connections
        others = [pool.get_connection(), pool.get_connection()]
        assert taken not in others
        with pytest.raises(redis.ConnectionError):
            pool.get_connection()  # the third is taken
        pool._available_connections.append(taken)
        assert pool.get_connection() is taken
        pool._in_use_connections.discard(taken)
        for connection in others:
            pool.release(connection)
        del held, connection
        assert drained_by_hand(pool) == 2


def test_what_somebody_puts_there_is_there_and_is_not_lent(pools: list[Any], server: RedisServer):
    for pool in pools:
        idle, used = pool.make_connection(), Connection(host="127.0.0.1", port=server.port)
        pool._available_connections.append(idle)
        pool._in_use_connections.add(used)
        assert [count for count, _ in pool.get_connection_count()] == [1, 1]
        pool._in_use_connections.remove(used)
        with pytest.raises(KeyError):
            pool._in_use_connections.remove(used)
        idle.connect()
        pool.disconnect()
        assert not idle.is_connected
        if isinstance(pool, ConnectionPool):
            assert pool.get_connection() is not idle, "no permit of the pool's is for it"
        pool._available_connections.clear()
        assert pool._available_connections == []
