"""However a class makes, wraps or closes its sockets, each has a permit from before its connect to its proven
end."""

from __future__ import annotations

import functools
import os
import socket
from typing import Any

import pytest
import redis
from redis.connection import Connection

from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing, permits
from tests.threads import Calls


class Tunnelled(Connection):
    """Makes its sockets by itself."""

    made = 0

    def _connect(self) -> socket.socket:
        type(self).made += 1
        return socket.create_connection((self.host, self.port), timeout=5)


class Past(Connection):
    """Its ``connect`` goes past ``_connect``."""

    def connect(self) -> None:
        if self._sock is None:
            self._sock: Any = socket.create_connection((self.host, self.port), timeout=5)
            self.on_connect()


class Wrapped(Connection):
    """Puts something around the socket that takes the descriptor over."""

    def _connect(self) -> socket.socket:
        sock = super()._connect()
        taken = socket.socket(fileno=sock.detach())
        taken.settimeout(5)
        return taken


class Around:
    """Not a socket, and not to be told from one by what it does: a proxy that logs, a channel of an SSH library."""

    def __init__(self, sock: socket.socket) -> None:
        self._around = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._around, name)


class Proxied(Connection):
    def _connect(self) -> Any:
        return Around(socket.create_connection((self.host, self.port), timeout=5))


@pytest.mark.parametrize("base", [Tunnelled, Proxied])
def test_another_threads_disconnect_in_the_middle_of_it_frees_no_permit_too_early(server: RedisServer, base: Any):
    class Disturbed(base):  # type: ignore[misc]
        disturbed = False

        def _connect(self) -> Any:
            if Disturbed.disturbed:
                Calls(self.disconnect).join()
                Disturbed.disturbed = False
                assert len(permits(pool).out) == 1, "it is about to be connected"
            return super()._connect()

    pool = direct_pool(server, connection_class=Disturbed, member=FakeMember(limit=1), timeout=0.2)
    with pool.connection() as held:
        held.disconnect()
        permits(pool).sweep()
        Disturbed.disturbed = True
        with pytest.raises(redis.ConnectionError, match="disconnected while it was being connected"):
            held.connect()
        assert held._sock is None
        permits(pool).sweep()
        assert not permits(pool).out
        held.connect()
    answers_are_its_own(pool)
    nothing_is_missing(pool)
    pool.close()


def test_what_is_no_socket_keeps_its_permit_until_the_class_has_closed_it(server: RedisServer):
    pool = direct_pool(server, connection_class=Proxied, member=FakeMember(limit=1, tag="tag"), timeout=0.2)
    with pool.connection() as held:
        around = held._sock._around
        held.send_command("CLIENT", "GETNAME")
        assert held.read_response() in (b"tag-1", "tag-1")
        with pytest.raises(redis.RedisError):
            pool.get_connection()
        held.disconnect()
        assert around.fileno() < 0
        assert not permits(pool).out
        held.send_command("PING")
        assert held.read_response() in (b"PONG", "PONG")
        assert len(permits(pool).out) == 1
    answers_are_its_own(pool)
    assert permits(pool).most == 1
    nothing_is_missing(pool)
    pool.close()


@pytest.fixture
def patched_dialling(monkeypatch: pytest.MonkeyPatch) -> type:
    """As an agent does it."""
    dial = Connection._connect

    @functools.wraps(dial)
    def patched(self: Any) -> Any:
        return dial(self)

    monkeypatch.setattr(Connection, "_connect", patched)
    return Connection


@pytest.mark.parametrize("kind", [Tunnelled, Past, Wrapped, "patched_dialling"])
def test_a_socket_of_somebody_elses_has_a_permit_from_before_its_connect_to_its_end(
    server: RedisServer, kind: Any, request: pytest.FixtureRequest
):
    kind = request.getfixturevalue(kind) if isinstance(kind, str) else kind
    pool = direct_pool(server, connection_class=kind, member=FakeMember(limit=1, tag="tag"), timeout=0.2)
    with pool.connection() as held:
        found = permits(pool)
        assert len(found.out) == 1
        raw = held._raw
        assert raw.fileno() == held._sock.fileno() >= 0
        with pytest.raises(redis.RedisError):
            pool.get_connection()
        held.disconnect()
        assert [permit.socket for permit in found.closing] == [raw]
        assert raw.fileno() >= 0, "the permit's holder closes it"
        held.connect()
        if kind is not Past:  # its handshake is over before we know of its socket
            held.send_command("CLIENT", "GETNAME")
            assert held.read_response() in (b"tag-2", "tag-2")
    assert found.most == 1
    nothing_is_missing(pool)
    pool.close()


def test_no_permit_no_socket(server: RedisServer):
    """Also where a holder connects again, in a command."""
    pool = direct_pool(server, connection_class=Tunnelled, timeout=0.1)
    with pool.connection() as held:
        held.disconnect()
        permits(pool).limit = 0
        before = Tunnelled.made
        with pytest.raises(redis.RedisError):
            held.send_command("PING")
        assert Tunnelled.made == before
    nothing_is_missing(pool)


def test_an_overridden_disconnect_has_the_living_socket(server: RedisServer):
    said: list[Any] = []

    class Polite(Connection):
        def disconnect(self, *args: Any, **kwargs: Any) -> None:
            if self._sock is not None:
                said.append(self._sock.getpeername()[1])
                self._sock.sendall(b"QUIT\r\n")
            super().disconnect(*args, **kwargs)

    pool = direct_pool(server, connection_class=Polite)
    client_of(pool).ping()
    pool.disconnect()
    assert said == [server.port]
    nothing_is_missing(pool)


def test_the_end_of_a_connection_is_not_forged_by_redis_pys_disconnect(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
):
    """The process is the same, and redis-py shuts such a socket down; here it does not get that far."""
    shut: list[int] = []
    shutdown = socket.socket.shutdown

    def spied_on(self: socket.socket, how: int) -> None:
        shut.append(how)
        shutdown(self, how)

    monkeypatch.setattr(socket.socket, "shutdown", spied_on)
    pool = direct_pool(server)
    with pool.connection() as held:
        assert held.pid == os.getpid()
        sock = held._sock

        def in_between() -> None:
            """Another thread's connect is over, at the last moment before redis-py looks at the socket."""
            held._sock = sock

        monkeypatch.setattr(held._parser, "on_disconnect", in_between)
        held.disconnect()
        monkeypatch.undo()
        assert held.pid == os.getpid()
    assert socket.SHUT_RDWR not in shut
    pool.close()
