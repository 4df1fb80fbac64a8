"""The pool over TLS: what TLS itself sends is no data, and a connection that fails in it was connected."""

from __future__ import annotations

import os
import ssl
import time

import pytest
import redis

from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer
from tests.permits import FakeMember
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing, pool_at


@pytest.mark.usefixtures("flavour")
@pytest.mark.parametrize("protocol", [2, 3])
def test_tls(secured: tuple[int, str], protocol: int):
    port, certificate = secured
    member = FakeMember(limit=2)
    pool = pool_at(
        f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", protocol=protocol, member=member, timeout=5
    )
    client = client_of(pool)
    client.set("k", "mine")
    time.sleep(0.01)  # session tickets have arrived; they are no reason to close
    for _ in range(5):
        assert client.get("k") == b"mine"
        time.sleep(0.002)
    assert pool.stats().created == 1
    answers_are_its_own(pool)
    with pool.connection() as connection:
        connection.send_command("CLIENT", "ID")
        number = connection.read_response()
    with redis.Redis.from_url(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}") as killer:
        killer.client_kill_filter(_id=number)
    time.sleep(0.01)
    assert client.get("k") == b"mine"
    assert pool.stats().closed == {"stale": 1}
    nothing_is_missing(pool)
    assert member.endpoints[0].tls is not None


@pytest.mark.usefixtures("flavour")
def test_tls_that_fails_after_the_connect_gives_its_permit_back_by_the_servers_word(
    secured: tuple[int, str], server: RedisServer
):
    port, _ = secured
    for place in (port, server.port):  # a certificate that is not trusted; a server that speaks no TLS
        member = FakeMember(limit=1)
        pool = pool_at(f"rediss://127.0.0.1:{place}/0", member=member, timeout=1, socket_timeout=0.5)
        with pytest.raises(redis.RedisError):
            client_of(pool).ping()
        assert len(member.only.closing) == 1, "it was connected: its end has to be proven"
        nothing_is_missing(pool)


def test_a_tls_connection_is_handed_over_with_its_tls_layer(secured: tuple[int, str]):
    """Another thread may be in it: whoever closes the socket has to know when it is not."""
    port, certificate = secured
    member = FakeMember()
    pool = ConnectionPool.from_url(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", member=member)
    with pool.connection() as connection:
        sock = connection._sock
        connection.disconnect()
    assert [permit.socket for permit in member.only.closing] == [sock]
    nothing_is_missing(pool)


def test_a_tls_connection_without_a_permit_keeps_its_number_while_it_may_be_in_use(secured: tuple[int, str]):
    port, certificate = secured
    pool = ConnectionPool.from_url(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}", member=FakeMember())
    connection = pool.make_connection()
    connection.connect()
    sock = connection._sock
    number = sock.fileno()
    connection.disconnect()
    assert sock.fileno() < 0
    os.fstat(number)
    del sock
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


@pytest.mark.parametrize(
    ("read", "reason"),
    [(ssl.SSLWantReadError(), ""), (b"", "stale"), (OSError(), "stale"), (b"+OK\r\n", "dirty"), (b">2\r\n", "")],
)
def test_what_waits_on_an_idle_tls_connection(read: bytes | OSError, reason: str, server: RedisServer):
    """A record of TLS's own is no data; a push is kept for the next read; the rest is a reason to close."""

    class Socket:
        def settimeout(self, seconds: float | None) -> None: ...

        def recv(self, count: int) -> bytes:
            if isinstance(read, bytes):
                return read
            raise read

    pool = direct_pool(server, protocol=3)
    with pool.connection() as connection:
        assert connection._peek_secured(Socket()) == reason
        assert connection._parser._reader.has_data() == (read == b">2\r\n")
        connection.disconnect()
