"""A connection that another thread disconnects while it is being made has a permit, or is none."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from poolmgr.member.closer import never_connected
from poolmgr.pool.sync import connection as module
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.pools import direct_pool, nothing_is_missing, permits
from tests.threads import Calls


@pytest.mark.parametrize("at", ["socket", "settimeout"])
def test_no_connection_is_made_without_a_permit(server: RedisServer, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder reconnects in a command; each system call gives the interpreter's lock away."""
    pool: Any = direct_pool(server)
    held = pool.get_connection()
    held.disconnect()  # as redis-py does after an error
    armed = [True]

    def other() -> None:
        if armed and threading.current_thread() is threading.main_thread():
            armed.clear()
            Calls(pool.disconnect).join()

    class Socket(socket.socket):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            if at == "socket" and arguments:
                other()

        def settimeout(self, value: float | None) -> None:
            super().settimeout(value)
            if at == "settimeout":
                other()

    monkeypatch.setattr(module, "socket", type("socket", (), {**vars(socket), "socket": Socket}))
    with contextlib.suppress(redis.ConnectionError):
        held.connect()
    monkeypatch.undo()
    assert not armed
    if held._sock is not None and held._raw is not None:
        held.send_command("PING")
        assert held.read_response() in (b"PONG", "PONG")
    permits(pool).sweep()
    assert len(permits(pool).out) == (held._raw is not None), "what is open has a permit"
    pool.release(held)
    nothing_is_missing(pool)
    pool.close()


@pytest.fixture
def silent() -> Iterator[int]:
    """The port of a server that keeps every connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def is_open(sock: socket.socket) -> bool:
    """Whether its peer has not ended it, as far as our own kernel would tell."""
    try:
        sock.setblocking(False)
        return sock.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


@pytest.mark.parametrize("at", ["connected", "returned"])
def test_no_end_is_forged_of_a_socket_that_another_thread_has_handed_over(
    silent: int, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its permit is free when the server has closed it. redis-py's own SHUT_RDWR looks the same, and comes at once."""
    member = FakeMember()
    pool: Any = ConnectionPool(host="127.0.0.1", port=silent, member=member, timeout=1, socket_timeout=0.05)
    connection = pool.make_connection()
    connection._origin = pool._origin

    def other() -> None:
        Calls(connection.disconnect).join()

    shut: list[int] = []

    class Socket(socket.socket):
        def connect(self, address: Any) -> None:
            super().connect(address)
            if at == "connected":
                other()

        def shutdown(self, how: int) -> None:
            shut.append(how)
            super().shutdown(how)

    dial = type(connection)._dial

    def returned(self: Any, *arguments: Any) -> Any:
        sock = dial(self, *arguments)
        if at == "returned":
            other()
        return sock

    monkeypatch.setattr(module, "socket", type("socket", (), {**vars(socket), "socket": Socket}))
    monkeypatch.setattr(type(connection), "_dial", returned)
    with contextlib.suppress(redis.RedisError):
        connection.connect()
    connection.disconnect()
    (permit,) = member.only.closing
    assert permit.socket is not None
    assert socket.SHUT_RDWR not in shut
    assert is_open(permit.socket)
    permit.socket.close()


def test_no_end_is_forged_of_a_tls_connection_disconnected_during_its_handshake(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second descriptor of the same connection is what was handed over."""
    member = FakeMember()
    pool: Any = ConnectionPool.from_url(f"rediss://127.0.0.1:{silent}/0?ssl_cert_reqs=none", member=member, timeout=1)
    connection = pool.make_connection()
    connection._origin = pool._origin

    def wrap(self: ssl.SSLContext, sock: socket.socket, **_: Any) -> ssl.SSLSocket:
        Calls(connection.disconnect).join()
        return wrapped(self, sock, do_handshake_on_connect=False)

    wrapped = ssl.SSLContext.wrap_socket
    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    with pytest.raises(redis.ConnectionError, match="disconnected while it was being connected"):
        connection.connect()
    connection.disconnect()
    (permit,) = member.only.closing
    assert permit.socket is not None
    assert is_open(permit.socket)
    permit.socket.close()


def test_a_socket_closed_by_the_agent_says_nothing_of_what_the_server_has_seen() -> None:
    with socket.socket() as never:
        assert never_connected(never)
    assert not never_connected(never), "its number is gone, and with it what is known"
