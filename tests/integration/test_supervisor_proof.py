"""Proofs that others make hard: a server that is busy, and clients without a name that come and go (rule S3)."""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.fake_member import endpoint_of
from tests.helpers import RedisServer, wait_for
from tests.member_process import Members
from tests.supervisor_process import Pair, Start, joined
from tests.threads import meanwhile


def raw(server: RedisServer) -> socket.socket:
    """A connection without a name."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(server.path)
    return sock


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """A script runs: every command but a few is answered with ``-BUSY``."""
    with raw(server) as endless, raw(server) as other:
        endless.sendall(b"EVAL 'while true do end' 0\r\n")

        def says_busy() -> bool:
            other.sendall(b"PING\r\n")
            return other.recv(100).startswith(b"-BUSY")

        wait_for(says_busy, 10, what="the server says that it is busy")
        try:
            yield
        finally:
            other.sendall(b"SCRIPT KILL\r\n")
            assert other.recv(100) == b"+OK\r\n"


def test_a_busy_server_has_not_forbidden_to_look(pair: Pair, members: Members) -> None:
    """A child keeps the connections of a member that was killed: they are there, and cannot be seen just now."""
    running, server = pair(maxclients=15, busy_reply_threshold=50, HASTY="upstreams.unproven.WAIT=0.3")
    dies = members(server, 8, "fork").has(8)
    stays, name = joined(running, server)
    with busy(server):
        dies.kill()
        stays.report(name, waiting=11)
        wait_for(lambda: running.server()["quarantine"] >= 8, what="its permits are in quarantine")
        began = time.monotonic()
        # As long as it would take to give up, several times over.
        wait_for(lambda: time.monotonic() > began + 1.5, 5)
        assert running.server()["quarantine"] >= 8
    stays.until(lambda m: m.limit(name) == 11, what="all is proven when the server answers again")
    assert running.events("quarantine.unproven") == []
    assert running.events("server.forbids") == []
    assert server.rejected() == 0


def test_a_census_waits_for_a_busy_server(pair: Pair) -> None:
    running, server = pair(maxclients=15, busy_reply_threshold=50)
    member = running.member()
    with busy(server):
        member.hello(endpoint_of(server.path))
        wait_for(lambda: running.events("server.new"), what="it is looked at")
        began = time.monotonic()
        wait_for(lambda: time.monotonic() > began + 1, 5)
        assert not member.read()[1:], "nobody knows which server it is"
    member.until(lambda m: m.limits, what="a first limit")
    assert running.server()["run_id"]
    assert len(running.events("server.resolved")) == 1


def test_clients_that_come_and_go_without_a_name_do_not_hold_up_a_proof(pair: Pair, members: Members) -> None:
    """There is always one that is older than the newest look, and none that is older than the first."""
    running, server = pair(maxclients=60)
    dies = members(server, 8).has(8)
    ended = threading.Event()

    def churn(after: float) -> None:
        ended.wait(after)  # not all at the same time
        while not ended.is_set():
            with contextlib.suppress(OSError), raw(server) as sock:
                sock.sendall(b"PING\r\n")
                sock.recv(100)
                ended.wait(0.4)

    stays, name = joined(running, server)
    with meanwhile(*(functools.partial(churn, 0.04 * number) for number in range(10)), ended=ended):
        wait_for(lambda: len(server.clients()) >= 18, what="they are there")
        dies.kill()
        stays.report(name, waiting=11)
        stays.until(lambda m: m.limit(name) == 11, 4, what="all is proven, before any of them could be too old")
    assert running.events("quarantine.unproven") == []


def test_a_blank_in_the_path_of_the_servers_socket_hides_no_connection(
    supervisor: Start, short_dir: Path, members: Members
) -> None:
    """A child keeps the connections of a member that was killed, at ``/…/a b/redis.sock``."""
    directory = short_dir / "a b"
    directory.mkdir()
    server = RedisServer(directory, maxclients=7).start()
    supervisor(6)
    try:
        dies, grows = members(server, 5, "fork").has(5), members(server, 0)
        dies.kill()
        grows.take(5)  # what the dead one had is used again
        assert server.rejected() == 0
    finally:
        server.stop()
