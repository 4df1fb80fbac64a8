"""The handshake of a new connection: few round trips, and nothing of it is lost."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis

import poolmgr
from tests.flavours import FLAVOURS, client_on
from tests.helpers import RedisServer
from tests.permits import FakeMember

Reply = Callable[[list[bytes]], bytes]


def ok(words: list[bytes]) -> bytes:
    return b"%1\r\n+proto\r\n:3\r\n" if words[0] == b"HELLO" else b"+OK\r\n"


@contextlib.contextmanager
def server(reply: Reply, withhold: int) -> Iterator[tuple[int, list[list[bytes]]]]:
    """A server that answers HELLO, and all else only when ``withhold`` further commands have arrived."""
    heard: list[list[bytes]] = []
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[socket.socket] = []

    def serve() -> None:
        with contextlib.suppress(OSError):
            sock, _ = listener.accept()
            accepted.append(sock)
            with sock:
                reader = hiredis.Reader()
                waiting: list[list[bytes]] = []
                while data := sock.recv(65536):
                    reader.feed(data)
                    while (words := reader.gets()) is not False:
                        heard.append(words)
                        waiting.append(words)
                    if heard[0] == waiting[0] or len(waiting) >= withhold:
                        sock.sendall(b"".join(reply(words) for words in waiting))
                        waiting.clear()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], heard
    finally:
        for sock in (listener, *accepted):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # ends what waits on it
        listener.close()
        thread.join(5)


@contextlib.contextmanager
def connected(flavour: str, port: int, protocol: int = 3, **arguments: Any) -> Iterator[Any]:
    options = {"socket_timeout": 1, "member": FakeMember(tag="pm1"), "retry": None, **arguments}
    with client_on(flavour, f"redis://127.0.0.1:{port}?protocol={protocol}", **options) as client:
        yield client.connection_pool.get_connection()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_everything_after_hello_is_one_round_trip(flavour: str):
    with server(ok, withhold=5) as (port, heard), connected(flavour, port, db=2) as connection:
        assert connection._owed == 0
    assert [words[0] for words in heard] == [b"HELLO", b"CLIENT", b"CLIENT", b"CLIENT", b"CLIENT", b"SELECT"]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("db", [0, 2])
@pytest.mark.parametrize("refused", [b"SETINFO", b"MAINT_NOTIFICATIONS", b"SETNAME"])
def test_what_a_server_need_not_know_may_fail(flavour: str, db: int, refused: bytes):
    def reply(words: list[bytes]) -> bytes:
        return b"-ERR unknown subcommand\r\n" if refused in words else ok(words)

    withhold = 5 if db else 4
    with server(reply, withhold) as (port, heard), connected(flavour, port, db=db) as connection:
        assert connection._owed == 0
        assert ([b"SELECT", b"2"] in heard) == bool(db)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("refused", [b"SETNAME", b"SELECT"])  # a name that the user gave
def test_what_must_not_fail_fails_the_connect(flavour: str, refused: bytes):
    def reply(words: list[bytes]) -> bytes:
        return b"-ERR not here\r\n" if refused in words else ok(words)

    with (
        server(reply, withhold=5) as (port, _),
        pytest.raises(redis.ResponseError, match="not here"),
        connected(flavour, port, db=2, client_name="mine"),
    ):
        pytest.fail("it is connected")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("protocol", [2, 3])
def test_the_first_reply_is_read_before_more_is_sent(flavour: str, protocol: int):
    def reply(words: list[bytes]) -> bytes:
        return b"-ERR max number of clients reached\r\n"

    with (
        server(reply, withhold=1) as (port, heard),
        pytest.raises(redis.ConnectionError, match="max number"),
        connected(flavour, port, protocol),
    ):
        pytest.fail("it is connected")
    assert len(heard) == 1


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("protocol", [2, 3])
def test_a_real_server_has_heard_all_of_it(
    short_dir: Path, redis_server: Callable[..., RedisServer], protocol: int, flavour: str
):
    server = redis_server()
    options: Any = {"protocol": protocol, "db": 3, "client_name": "mine", "member": FakeMember(tag="pm1")}
    with client_on(flavour, server.unix_url, **options) as client:
        found = client.client_info()
        assert str(found["name"]).startswith("mine:pm1-")
        if server.kind.names_libraries:
            assert str(found["lib-name"]).startswith("redis-py")
            assert "pm1-" in str(found["lib-name"])
        assert (found["db"], found["resp"]) == (3, str(protocol))
        assert client.set("key", "value") and client.get("key") == b"value"


def test_half_a_handshake_leaves_no_connection(monkeypatch: pytest.MonkeyPatch):
    """An exception from outside (a signal handler's) between HELLO and SELECT: redis-py would go on, on database 0."""
    with server(ok, withhold=5) as (port, _):
        pool = poolmgr.ConnectionPool(host="127.0.0.1", port=port, protocol=3, db=2, member=FakeMember(), retry=None)
        connection = pool.make_connection()

        def strike(connection: Any, command: Any, **options: Any) -> None:
            assert ("SELECT", 2) in command.commands
            raise KeyboardInterrupt

        monkeypatch.setattr(type(connection), "send_packed_command", strike)
        with pytest.raises(KeyboardInterrupt):
            connection.connect()
        assert connection._sock is None
        assert "read_response" not in vars(connection)


def test_what_is_put_off_is_one_packet(monkeypatch: pytest.MonkeyPatch):
    """Each packet of its own would cost a system call, and wake the server once more."""
    with server(ok, withhold=0) as (port, _):
        pool = poolmgr.ConnectionPool(host="127.0.0.1", port=port, protocol=3, db=2, member=FakeMember(), retry=None)
        connection = pool.make_connection()
        packets: list[int] = []
        transmit = type(connection)._transmit

        def count(connection: Any, chunks: Any) -> None:
            packets.append(len(list(chunks)))
            transmit(connection, chunks)

        monkeypatch.setattr(type(connection), "_transmit", count)
        connection.connect()
        assert packets == [1]
        connection.disconnect()


def test_what_stands_for_a_socket_gets_one_command_at_a_time(monkeypatch: pytest.MonkeyPatch):
    """As from redis-py: a stand-in of a test may answer one command for each call (redis-py's own tests have one)."""
    with server(ok, withhold=0) as (port, _):
        pool = poolmgr.ConnectionPool(host="127.0.0.1", port=port, protocol=3, db=2, member=FakeMember(), retry=None)
        connection = pool.make_connection()
        sent: list[bytes] = []

        class Standing:
            def __init__(self, sock: Any) -> None:
                self._sock = sock

            def __getattr__(self, name: str) -> Any:
                return getattr(self._sock, name)

            def sendall(self, data: bytes) -> None:
                sent.append(bytes(data))
                self._sock.sendall(data)

        dial = type(connection)._connect
        monkeypatch.setattr(type(connection), "_connect", lambda connection: Standing(dial(connection)))
        connection.connect()
        assert len(sent) > 3
        assert {data[:1] for data in sent} == {b"*"} and all(data.count(b"\r\n*") == 0 for data in sent)
        connection.disconnect()
