"""What a user's class, a mixin or an agent overrides of redis-py's connections is called, in redis-py's order; and what
is owed stays right. Each case runs with redis-py's own pool beside ours."""

from __future__ import annotations

import contextlib
import functools
import subprocess
import sys
import textwrap
from typing import Any

import pytest
import redis
from redis.connection import AbstractConnection, Connection

from tests.helpers import RedisServer
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing

NAMES = (
    "connect", "can_read", "send_command", "send_packed_command", "read_response", "pack_command", "pack_commands",
    "check_health", "on_connect_check_health", "connect_check_health", "_connect", "disconnect",
)  # fmt: skip


def spy(name: str, calls: list[str]) -> Any:
    """A wrapper around a method, as agents make them."""

    def decorate(method: Any) -> Any:
        @functools.wraps(method)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(f"{name} {args[0]}" if name == "send_command" else name)
            return method(self, *args, **kwargs)

        return wrapper

    return decorate


class Wrapper:
    """What wrapt puts in the place of a function: an object that binds, and is no function."""

    def __init__(self, wrapped: Any, call: Any) -> None:
        self.__wrapped__ = wrapped
        self._call = call

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        return functools.partial(self._call, self.__wrapped__.__get__(instance, owner), instance)


def spied(calls: list[str], base: type = Connection) -> type:
    return type("Spied", (base,), {name: spy(name, calls)(getattr(base, name)) for name in NAMES})


def theirs(server: RedisServer, **options: Any) -> redis.ConnectionPool:
    return redis.ConnectionPool(host="127.0.0.1", port=server.port, **options)


def work(client: Any, calls: list[str]) -> list[str]:
    """What a client does of everything; what was called for it."""
    client.set("k", "v")
    assert client.get("k") == b"v"
    with client.pipeline(transaction=True) as pipe:
        assert pipe.incr("n").delete("n").execute()[1] == 1
    with client.pipeline(transaction=False) as pipe:
        assert pipe.get("k").get("k").execute() == [b"v", b"v"]
    with pytest.raises(redis.ResponseError):
        client.lpush("k", "x")
    subscriber = client.pubsub()
    subscriber.subscribe("c")
    assert subscriber.get_message(timeout=2)
    seen = list(calls)
    subscriber.close()
    client.connection_pool.disconnect()
    assert "disconnect" in calls[len(seen) :]
    return seen


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("options", [{}, {"db": 3, "client_name": "me", "health_check_interval": 60}], ids=["", "more"])
def test_everything_that_a_class_overrides_is_called_in_the_order_of_redis_py(
    server: RedisServer, protocol: int, options: dict[str, Any]
):
    seen = []
    for make in (theirs, direct_pool):
        calls: list[str] = []
        pool = make(server, connection_class=spied(calls), protocol=protocol, **options)
        seen.append(work(client_of(pool), calls))  # type: ignore[arg-type]
    seen[0].remove("can_read")  # redis-py asks this right after the connect, too
    assert seen[1] == seen[0]


def on_a_subclass(calls: list[str], patch: pytest.MonkeyPatch) -> type:
    return spied(calls)


def on_a_mixin(calls: list[str], patch: pytest.MonkeyPatch) -> type:
    base: Any = object

    class Mixin(base):  # type: ignore[misc]
        def send_command(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(f"send_command {args[0]}")
            return super().send_command(*args, **kwargs)

    return type("Mixed", (Mixin, Connection), {})


def on_redis_py(owner: type, calls: list[str], patch: pytest.MonkeyPatch) -> type:
    patch.setattr(owner, "send_command", spy("send_command", calls)(owner.send_command))  # type: ignore[attr-defined]
    return Connection


def by_an_object(calls: list[str], patch: pytest.MonkeyPatch) -> type:
    def call(wrapped: Any, instance: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(f"send_command {args[0]}")
        return wrapped(*args, **kwargs)

    patch.setattr(Connection, "send_command", Wrapper(Connection.send_command, call), raising=False)
    return Connection


def in_place(calls: list[str], patch: pytest.MonkeyPatch) -> type:
    """The function itself is given other code, as some tracers do."""
    function: Any = AbstractConnection.send_command
    before = function.__code__
    copy = type(function)(before, function.__globals__)
    patch.setitem(function.__globals__, "_spied", lambda name: calls.append(f"send_command {name}"))
    patch.setitem(function.__globals__, "_original", copy)
    space: dict[str, Any] = {}
    exec("def send_command(self, *a, **k):\n    _spied(a[0])\n    return _original(self, *a, **k)\n", space)
    patch.setattr(function, "__code__", space["send_command"].__code__)
    return Connection


WAYS: dict[str, Any] = {
    "subclass": on_a_subclass,
    "mixin": on_a_mixin,
    "patch on Connection": functools.partial(on_redis_py, Connection),
    "patch on AbstractConnection": functools.partial(on_redis_py, AbstractConnection),
    "wrapper object": by_an_object,
    "other code": in_place,
}


@pytest.mark.parametrize("way", WAYS)
def test_however_it_is_overridden(server: RedisServer, way: str, monkeypatch: pytest.MonkeyPatch):
    warm: Any = direct_pool(server)
    held = warm.get_connection()  # of the class as it was before the patch
    calls: list[str] = []
    kind = WAYS[way](calls, monkeypatch)
    pool = direct_pool(server, connection_class=kind, max_connections=1)
    client = client_of(pool)
    assert client.set("k", "v")
    assert [call for call in calls if call.endswith(" SET")] == ["send_command SET"]
    answers_are_its_own(pool)
    nothing_is_missing(pool)
    if "patch" in way:
        monkeypatch.undo()
        pool.drain()
        del calls[:]
        assert client.get("k") == b"v"
        assert not calls, "the patch is taken back, and so is what it did to us"
    warm.release(held)
    warm.close()
    pool.close()


def test_a_patch_counts_for_all_connections_after_it_and_drain_replaces_the_others(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    pool = direct_pool(server, max_connections=1)
    client = client_of(pool)
    client.set("k", "v")
    calls: list[str] = []
    on_redis_py(AbstractConnection, calls, monkeypatch)
    pool.drain()
    assert client.get("k") == b"v"
    assert calls[-1] == "send_command GET"
    pool.close()


def test_an_agent_that_was_there_before_us_is_called(server: RedisServer):
    """In a process of its own: it wraps redis-py's class, and then our package is imported."""
    program = f"""
        import functools, redis.connection, sys
        calls = []
        def wrap(owner, name):
            method = getattr(owner, name)
            @functools.wraps(method)
            def wrapper(self, *args, **kwargs):
                calls.append((name, self.host, self.port))
                return method(self, *args, **kwargs)
            setattr(owner, name, wrapper)
        wrap(redis.connection.Connection, "send_command")
        wrap(redis.connection.Connection, "send_packed_command")
        wrap(redis.connection.AbstractConnection, "read_response")
        wrap(redis.connection.Connection, "_connect")
        import poolmgr.pool.sync.pool
        from tests.permits import FakeMember
        pool = poolmgr.pool.sync.pool.ConnectionPool(host="127.0.0.1", port={server.port}, member=FakeMember(limit=1))
        client = redis.Redis(connection_pool=pool)
        client.ping()
        del calls[:]
        client.ping()
        names = [name for name, *address in calls if address == ["127.0.0.1", {server.port}]]
        assert names == ["send_command", "send_packed_command", "read_response"], calls
        pool.close()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- what is owed ----------------------------------------------------------------------------------------------------


class Prefixed(Connection):
    """Changes the arguments."""

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        if args[0] in ("GET", "SET"):
            args = (args[0], f"prefix:{args[1]}", *args[2:])
        return super().send_command(*args, **kwargs)


class Packing(Connection):
    """Packs by itself, as redis-py's own did once."""

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        self.send_packed_command(self.pack_command(*args), check_health=kwargs.get("check_health", True))


class Renaming(Connection):
    """Sends other bytes than it was given."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        command = [command] if isinstance(command, str) else command
        super().send_packed_command([chunk.replace(b"ECHO", b"PING") for chunk in command], check_health)


class Chatty(Connection):
    """Says something of its own before each command."""

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        super().send_command("TIME", check_health=False)
        super().read_response()
        return super().send_command(*args, **kwargs)


class Verbose(Connection):
    """Packs one command more than it was asked for, and reads its reply."""

    def pack_commands(self, commands: Any) -> Any:
        return super().pack_commands([("TIME",), *commands])

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        super().send_packed_command(command, check_health)
        if b"TIME" in b"".join(command):
            super().read_response()


class Direct(Connection):
    """Writes to the socket and reads from the parser by itself."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        if self._sock is None:
            self.connect_check_health(check_health=False)
        self._sock.sendall(b"".join(command))  # type: ignore[attr-defined]

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        response = self._parser.read_response(disable_decoding=bool(args and args[0]))
        if isinstance(response, Exception):
            raise response
        return response


class Answering(Connection):
    """Knows some answers without the server."""

    _answer: Any = None

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        self._answer = b"mine" if args[:2] == ("GET", "known") else None
        if self._answer is None:
            super().send_command(*args, **kwargs)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        answer, self._answer = self._answer, None
        return super().read_response(*args, **kwargs) if answer is None else answer


class Guarding(Connection):
    """Refuses a command."""

    def send_command(self, *args: Any, **kwargs: Any) -> Any:
        if args[0] == "FLUSHALL":
            raise PermissionError("not here")
        return super().send_command(*args, **kwargs)


CLASSES = [Prefixed, Packing, Renaming, Chatty, Verbose, Direct, Answering, Guarding]


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_is_counted_once_and_keeps_its_connection(server: RedisServer, kind: type, protocol: int):
    pool = direct_pool(server, connection_class=kind, max_connections=1, protocol=protocol)
    client: Any = client_of(pool)
    own = theirs(server, connection_class=kind, protocol=protocol)
    beside: Any = redis.Redis(connection_pool=own)
    for each in (beside, client):
        assert each.set("k", "v")
        assert each.get("k") == b"v"
        assert each.get("known") == (b"mine" if kind is Answering else None)
        assert each.echo("word") == b"word"
        with each.pipeline(transaction=False) as pipe:
            assert pipe.get("k").ping().execute()[1] is True
        with pytest.raises(redis.ResponseError):
            each.execute_command("LPUSH", "prefix:k" if kind is Prefixed else "k", "x")
        with pytest.raises(redis.DataError):
            each.set("k", object())
        if kind is Guarding:
            with pytest.raises(PermissionError):
                each.flushall()
        with contextlib.suppress(redis.ResponseError):
            each.delete("prefix:k", "k")
    assert pool.stats().created == 1, pool.stats().closed
    (idle,) = pool._idle
    assert idle._owed == 0
    with pool.connection() as held:
        held.send_command("PING")
        assert held._owed == 1
        held.read_response()
        assert held._owed == 0
        held.send_command("PING")
    assert pool.stats().closed == {"dirty": 1}, "the reply is owed, whatever the class does"
    own.disconnect()
    nothing_is_missing(pool)
    pool.close()


@pytest.mark.parametrize("kind", CLASSES)
def test_a_reply_that_was_not_read_goes_to_nobody(server: RedisServer, kind: type):
    class Torn(kind):  # type: ignore[misc]
        struck = False

        def read_response(self, *args: Any, **kwargs: Any) -> Any:
            if Torn.struck:
                Torn.struck = False
                raise KeyboardInterrupt
            return super().read_response(*args, **kwargs)

    pool = direct_pool(server, connection_class=Torn, max_connections=1)
    client = client_of(pool)
    client.set("k", "v")
    Torn.struck = True
    with pytest.raises(KeyboardInterrupt):
        client.get("k")
    assert client.echo("mine") == (b"mine")
    assert pool.stats().created == 2
    pool.close()
