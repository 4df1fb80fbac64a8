"""Nothing of ours keeps a user's objects alive: connection classes made on the way (kombu makes one for each channel),
pools, providers, hooks, names of commands."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.connection import Connection, SSLConnection
from redis.credentials import CredentialProvider

from poolmgr.pool.session_state import KINDS
from poolmgr.pool.stats import Hooks
from poolmgr.pool.sync.derivation import derive
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import ROOT, RedisServer
from tests.permits import FakeMember


class Channel:
    """As kombu's: its connections are of a class of their own, which refers to it."""

    def __init__(self, server: RedisServer, base: type = Connection) -> None:
        channel = self
        self.ended = 0

        class ChannelConnection(base):  # type: ignore[misc]
            def disconnect(self, *args: Any, **kwargs: Any) -> None:
                super().disconnect(*args, **kwargs)
                channel.ended += 1

        self.kind = ChannelConnection
        self.pool = ConnectionPool(
            connection_class=ChannelConnection, host="127.0.0.1", port=server.port, member=FakeMember()
        )
        self.client = redis.Redis(connection_pool=self.pool)


class Refusing(type(Connection)):  # type: ignore[misc]
    """Classes that take no attributes."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(f"{cls.__name__} is closed")


Closed: Any = Refusing("Closed", (Connection,), {})


def alive(references: list[weakref.ref[Any]]) -> int:
    gc.collect()
    return sum(reference() is not None for reference in references)


@pytest.mark.parametrize("base", [Connection, SSLConnection, Closed])
def test_a_class_for_each_channel_goes_with_its_channel(server: RedisServer, base: type):
    references: list[weakref.ref[Any]] = []
    for _ in range(20):
        channel = Channel(server, base)
        if base is not SSLConnection:
            channel.client.ping()
            assert channel.pool.stats().created == 1
        derived = derive(channel.kind)
        references += [weakref.ref(channel), weakref.ref(channel.kind), weakref.ref(derived)]
        channel.pool.disconnect()
        del channel, derived
    assert alive(references) == 0


def test_a_derived_class_is_the_same_each_time_and_no_ancestors():
    class Parent(Connection):
        pass

    class Child(Parent):
        pass

    assert derive(Parent) is derive(Parent)
    assert derive(Child) is derive(Child)
    assert issubclass(derive(Child), Child)
    assert derive(derive(Child)) is derive(Child)
    assert not issubclass(derive(Parent), Child)


def test_a_class_that_registers_its_subclasses_hears_of_none_of_ours(server: RedisServer):
    registered: list[str] = []

    class Registering(Connection):
        def __init_subclass__(cls, *, label: str) -> None:
            registered.append(label)

    class Labelled(Registering, label="theirs"):
        def connect(self) -> None:
            super().connect()

    for kind in (Registering, Labelled):
        pool = ConnectionPool(connection_class=kind, host="127.0.0.1", port=server.port, member=FakeMember())
        assert redis.Redis(connection_pool=pool).ping()
        pool.close()
    assert registered == ["theirs"]


def test_kombus_own_channels_go_with_their_connection(server: RedisServer, monkeypatch: pytest.MonkeyPatch):
    kombu: Any = pytest.importorskip("kombu")
    transport: Any = pytest.importorskip("kombu.transport.redis")

    class Pool(ConnectionPool):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{"member": FakeMember(), **options})

    monkeypatch.setattr(transport.redis, "ConnectionPool", Pool)

    def use(references: list[weakref.ref[Any]]) -> None:
        with kombu.Connection(f"redis://127.0.0.1:{server.port}/0") as connection:
            queue = connection.SimpleQueue("q")
            queue.put({"n": 1})
            message = queue.get(timeout=5)
            assert message.payload == {"n": 1}
            message.ack()
            queue.close()
            channel = connection.default_channel
            pool = channel._get_pool(asynchronous=True)  # as in a Celery worker: with a class of its own
            assert isinstance(pool, Pool)
            assert pool.connection_class is not Connection
            assert redis.Redis(connection_pool=pool).ping()
            references += [weakref.ref(one) for one in (channel, pool, pool.connection_class)]
            pool.disconnect()

    references: list[weakref.ref[Any]] = []
    for _ in range(5):
        use(references)
    assert alive(references) == 0


def test_the_name_of_a_command_is_not_kept_but_as_text(server: RedisServer):
    class Name(str):
        """A user's: it may refer to anything."""

        __slots__ = ("__weakref__", "owner")

    names = [Name(f"get{number}") for number in range(50)]
    references = [weakref.ref(name) for name in names]
    pool = ConnectionPool(host="127.0.0.1", port=server.port, member=FakeMember())
    with pool.connection() as held:
        for name in names:
            held.send_command(name, "k")
            with pytest.raises(redis.ResponseError):
                held.read_response()
    pool.close()
    del name, names
    assert alive(references) == 0
    assert not [name for name in KINDS if isinstance(name, str) and name.startswith("get")]


@pytest.mark.parametrize("how", ["closed", "disconnected", "dropped"])
def test_a_pool_and_all_that_it_was_given_go_together(server: RedisServer, how: str):
    class Provider(CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            return "default", "any"

    class Listening:
        def created(self, connection: Any) -> None: ...

    provider, listening = Provider(), Listening()
    hooks = Hooks(created=listening.created)
    pool = ConnectionPool(
        host="127.0.0.1", port=server.port, member=FakeMember(), hooks=hooks, credential_provider=provider
    )
    client = redis.Redis(connection_pool=pool)
    client.ping()
    connection = pool.get_connection()
    references: list[weakref.ref[Any]] = [weakref.ref(o) for o in (pool, client, listening, connection, provider)]
    pool.release(connection)
    if how != "dropped":
        getattr(pool, {"closed": "close", "disconnected": "disconnect"}[how])()
    del pool, client, listening, hooks, connection, provider
    assert alive(references) == 0


def test_with_a_real_member_they_go_too(redis_server: Callable[..., RedisServer], isolated: Path):
    """The member lives as long as the process: it keeps the address and the login, and none of the objects."""
    server = redis_server()
    program = f"""
        import gc, weakref, redis
        from redis.credentials import CredentialProvider
        from poolmgr import ConnectionPool
        class Provider(CredentialProvider):
            def get_credentials(self):
                return ("default", "")
        def use():
            class Own(redis.connection.UnixDomainSocketConnection):
                def send_command(self, *args, **kwargs):
                    return super().send_command(*args, **kwargs)
            provider = Provider()
            pool = ConnectionPool(connection_class=Own, path={server.path!r}, credential_provider=provider)
            client = redis.Redis(connection_pool=pool)
            assert client.ping()
            return [weakref.ref(one) for one in (Own, provider, pool, client)]
        references = [one for _ in range(5) for one in use()]
        gc.collect()
        left = [one() for one in references if one() is not None]
        assert not left, left
    """
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "POOLMGR_SOCKET": str(isolated)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, env=environ, timeout=60
    )
    assert done.returncode == 0, done.stderr
