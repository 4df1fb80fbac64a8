"""Rule M3 on real sockets: what counts as the end of a connection, and what does not."""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import ssl
import struct
import termios
import threading
import time

import pytest

from poolmgr.member import closer
from poolmgr.member.closer import Closer
from tests.certificates import certify
from tests.helpers import free_port, wait_for


class Closings:
    """A closer with a selector of its own."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.gone: list[int] = []
        self.lost: list[int] = []
        self.closer = Closer(self.selector, self.gone.append, self.lost.append)

    def turn(self, now=None):
        now = now or time.monotonic()
        for key, events in self.selector.select(0):
            key.data(events, now)
        self.closer.expire(now)
        return True


@pytest.fixture
def closings():
    made = Closings()
    yield made
    made.closer.abandon()
    made.selector.close()


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def connected(listener):
    ours = socket.create_connection(listener.getsockname())
    theirs, _ = listener.accept()
    return ours, theirs


def test_a_connection_gets_its_farewell_from_the_closer_alone(closings, listener):
    """A cancelled connect asks whether the server has seen it. If that sent the FIN, a quick server's would be there
    before the closer, which then finds a socket that is not connected, and proves nothing."""
    ours, theirs = connected(listener)
    with theirs:
        assert not closer.never_connected(ours)
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
        closings.closer.add(1, ours, time.monotonic())
        assert theirs.recv(1) == b""
    assert wait_for(lambda: closings.turn() and closings.gone == [1])
    assert not closings.lost


def test_a_socket_is_gone_only_when_the_peer_has_closed_too(closings, listener):
    ours, theirs = connected(listener)
    with theirs:
        closings.closer.add(1, ours, time.monotonic())
        assert theirs.recv(1) == b"", "the write side is shut"
        closings.turn()
        assert not closings.gone
        assert ours.fileno() >= 0, "it is not closed before the peer has closed"
    wait_for(lambda: closings.turn() and closings.gone == [1])
    assert ours.fileno() < 0
    assert not closings.lost
    assert not len(closings.closer)


def test_the_server_counts_a_client_no_more_when_its_socket_is_gone(closings, redis_server):
    port = free_port()
    server = redis_server(port=port)
    with server.observer() as observer:
        for path in (("127.0.0.1", port), server.path):
            before = observer.info("clients")["connected_clients"]
            family = socket.AF_UNIX if isinstance(path, str) else socket.AF_INET
            socks = []
            for _ in range(10):
                sock = socket.socket(family)
                sock.connect(path)
                sock.sendall(b"PING\r\n")
                assert sock.recv(7, socket.MSG_PEEK), "the server knows of it"
                socks.append(sock)
            assert observer.info("clients")["connected_clients"] == before + 10
            closings.gone.clear()
            for serial, sock in enumerate(socks):
                closings.closer.add(serial, sock, time.monotonic())
            wait_for(lambda: closings.turn() and len(closings.gone) == 10)
            assert observer.info("clients")["connected_clients"] == before
    assert not closings.lost


def test_a_full_server_takes_a_connection_as_soon_as_one_is_gone(closings, redis_server):
    server = redis_server(maxclients=2)  # the observer is one
    with server.observer() as observer:
        for serial in range(200):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(server.path)
            sock.sendall(b"PING\r\n")
            assert sock.recv(100) == b"+PONG\r\n"
            closings.closer.add(serial, sock, time.monotonic())
            wait_for(lambda: closings.turn() and len(closings.gone) == serial + 1, step=0)  # noqa: B023  (waited for)
        assert observer.info("stats")["rejected_connections"] == 0


def test_a_peer_that_never_answers_makes_the_socket_lost_after_the_bound(closings, listener):
    ours, theirs = connected(listener)
    with theirs:
        began = time.monotonic()
        closings.closer.add(1, ours, began)
        assert closings.closer.expire(began + closer.BOUND - 0.01) == pytest.approx(began + closer.BOUND)
        assert not closings.lost
        closings.turn(began + closer.BOUND)
        assert closings.lost == [1]
        assert ours.fileno() < 0
    closings.turn()
    assert not closings.gone, "nothing but the supervisor's proof counts after that"


def test_what_the_peer_still_sends_is_read_away(closings, listener):
    ours, theirs = connected(listener)
    closings.closer.add(1, ours, time.monotonic())
    theirs.settimeout(5)
    theirs.sendall(b"x" * 100_000)
    closings.turn()
    assert not closings.gone
    theirs.close()
    wait_for(lambda: closings.turn() and closings.gone == [1])


def test_a_flood_is_read_in_turns_and_is_no_end(closings, listener, monkeypatch):
    monkeypatch.setattr(closer, "_CHUNK", 10)
    ours, theirs = connected(listener)
    theirs.sendall(b"x" * 10_000)
    wait_for(lambda: len(ours.recv(10_000, socket.MSG_PEEK)) == 10_000)
    closings.closer.add(1, ours, time.monotonic())
    assert not closings.gone
    assert len(ours.recv(10_000, socket.MSG_PEEK)) > 9_000, "others have their turn first"
    theirs.close()
    wait_for(lambda: closings.turn() and closings.gone == [1])


def test_a_connection_that_is_at_its_end_already_is_gone_at_once(closings, listener):
    ours, theirs = connected(listener)
    theirs.close()
    wait_for(lambda: ours.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"")
    closings.closer.add(1, ours, time.monotonic())
    assert closings.gone == [1]


def test_a_reset_is_proof(closings, listener):
    ours, theirs = connected(listener)
    closings.closer.add(1, ours, time.monotonic())
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    wait_for(lambda: closings.turn() and closings.gone == [1])


def test_a_reset_before_it_was_handed_over_is_proof(closings, listener):
    ours, theirs = connected(listener)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    closings.closer.add(1, ours, time.monotonic())
    assert closings.gone == [1]


def test_a_reset_after_the_peers_end_of_file_is_proof(closings, listener):
    """A full server says so, closes, and answers with a reset what we have sent meanwhile. The kernel tells no reader
    of a reset that comes after the end-of-file."""
    ours, theirs = connected(listener)
    theirs.close()
    ours.send(b"HELLO 3\r\n")
    assert wait_for(lambda: ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x07")  # closed
    closings.closer.add(1, ours, time.monotonic())
    assert (closings.gone, closings.lost) == ([1], [])


def test_a_tcp_connection_that_only_our_kernel_gave_up_is_lost(closings, listener):
    """The error that would tell a reset from keepalive's last probe was eaten by whoever saw it first."""
    ours, theirs = connected(listener)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)
    closings.closer.add(1, ours, time.monotonic())
    assert closings.lost == [1]


def test_a_unix_socket_whose_peer_is_gone_is_gone(closings):
    ours, theirs = socket.socketpair()
    theirs.close()
    closings.closer.add(1, ours, time.monotonic())
    assert closings.gone == [1]


def test_a_socket_that_somebody_closed_before_is_lost(closings, listener):
    ours, theirs = connected(listener)
    with theirs:
        ours.close()
        closings.closer.add(1, ours, time.monotonic())
    assert closings.lost == [1]


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    return certify(tmp_path_factory.mktemp("tls"))


def tls(listener, certificate):
    """Both ends of a TLS connection; neither of them blocks."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, certificate.with_suffix(".key"))
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    ours, theirs = connected(listener)
    ours.setblocking(False)
    secured = client.wrap_socket(ours, do_handshake_on_connect=False)
    theirs.setblocking(False)
    secured_theirs = server.wrap_socket(theirs, server_side=True, do_handshake_on_connect=False)

    def shake(sock):
        try:
            sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    wait_for(lambda: all([shake(secured), shake(secured_theirs)]))
    return secured, secured_theirs


def test_tls_is_closed_below_the_tls_layer(closings, listener, certificate):
    secured, secured_theirs = tls(listener, certificate)
    secured_theirs.send(b"a reply that nobody reads")
    closings.closer.add(1, secured, time.monotonic())
    assert secured.fileno() < 0, "the TLS object can do nothing any more"
    closings.turn()
    assert not closings.gone
    raw = closer.bare(secured_theirs)
    wait_for(lambda: raw.recv(100) == b"", what="end-of-file without any farewell of TLS")
    closer.close(raw)
    wait_for(lambda: closings.turn() and closings.gone == [1])


def unread(number):
    (count,) = struct.unpack("i", fcntl.ioctl(number, termios.FIONREAD, bytes(4)))
    return count


def test_a_number_below_tls_is_nobody_elses_while_a_thread_is_in_the_tls_layer(closings, listener, certificate):
    """OpenSSL knows the descriptor by its number alone, and would read a reply that is somebody else's."""
    secured, secured_theirs = tls(listener, certificate)
    number = secured.fileno()
    secured.settimeout(30)
    read = []

    def hold(sock):
        try:
            read.append(sock.recv(100))
        except OSError as error:
            read.append(str(error))

    holder = threading.Thread(target=hold, args=(secured,))
    holder.start()
    with secured_theirs:
        socket.socket.send(secured_theirs, b"\x17\x03\x03")  # the beginning of a record
        wait_for(lambda: not unread(number), what="the holder has read it and waits for the rest")
        began = time.monotonic()
        closings.closer.add(1, secured, began)
        closings.turn(began + closer.BOUND)
        assert closings.lost == [1]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert number not in (ours.fileno(), theirs.fileno())
            holder.join(5)
            assert not holder.is_alive(), "it need not wait for its timeout"
            assert len(read) == 1
    os.fstat(number)
    del secured
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_what_was_below_tls_is_known_until_it_is_closed(closings, listener, certificate):
    """A forked child closes its copies of what is known."""
    secured, secured_theirs = tls(listener, certificate)
    with secured_theirs:
        closings.closer.add(1, secured, time.monotonic())
        (raw,) = closer._below
        assert raw.fileno() >= 0
    wait_for(lambda: closings.turn() and closings.gone == [1])
    assert raw.fileno() >= 0, "a thread may be in its TLS layer"
    del secured
    assert (raw.fileno(), closer._below) == (-1, set())


def test_what_was_below_tls_when_all_was_closed_closes_nobody_elses_file(closings, listener, certificate):
    """As in a process that becomes a daemon."""
    secured, secured_theirs = tls(listener, certificate)
    with secured_theirs:
        closings.closer.add(1, secured, time.monotonic())
    wait_for(lambda: closings.turn() and closings.gone == [1])
    (raw,) = closer._below
    number = raw.fileno()
    others = os.pipe()
    os.dup2(others[0], number)
    closings.closer.disown()
    del secured
    for each in (*others, number):
        os.close(each)


def test_many_close_side_by_side(closings, listener):
    pairs = [connected(listener) for _ in range(50)]
    for serial, (ours, _) in enumerate(pairs):
        closings.closer.add(serial, ours, time.monotonic())
    for _, theirs in pairs:
        theirs.close()
    wait_for(lambda: closings.turn() and len(closings.gone) == 50)
