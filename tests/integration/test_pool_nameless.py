"""A server that takes no names from us serves us all the same; what a name would prove, a wait stands in for."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from poolmgr import ConnectionPool, settings, status, wire
from poolmgr.cli.ask import ask
from poolmgr.member.member import Member
from tests.helpers import RedisServer, free_port, wait_for

USERS = {
    "reads-and-writes": "+@read +@write",
    "no-client": "+@all -client",
    "two-commands": "-@all +get +set +incr",
    "no-setname": "+@all -client|setname -client|setinfo",
    "no-list": "+@all -client|list",
    "not-dangerous": "+@all -@dangerous",
    "nothing-to-ask": "+@all -client -info -ping -config",
}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    from tests.pools import running_server

    with running_server() as server:
        with server.observer() as admin:
            for name, rights in USERS.items():
                admin.execute_command("ACL", "SETUSER", name, "on", ">p", "~*", *rights.split())
        yield server


class Encrypted(redis.Connection):
    """Sends one by one, since it overrides how commands are sent."""

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        super().send_packed_command(command, check_health)


@contextlib.contextmanager
def client(url: str, **options: Any) -> Iterator[Any]:
    member = Member(settings.load())
    pool = ConnectionPool.from_url(url, **{"timeout": 20, "member": member, **options})
    try:
        yield redis.Redis(connection_pool=pool)
    finally:
        pool.disconnect()
        member.leave(1)
        member.stop()


def ask_status() -> status.Status:
    return status.load_status(ask(settings.load(), wire.Query("status")).body)


def notes() -> list[str]:
    return list(ask_status().notes)


@pytest.mark.parametrize("kind", [redis.Connection, Encrypted], ids=["together", "one-by-one"])
@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("user", USERS)
def test_a_user_with_few_rights_works_as_with_redis_py(
    server: RedisServer, isolated: Any, user: str, protocol: int, kind: type
) -> None:
    url = f"redis://{user}:p@127.0.0.1:{server.port}/0"
    assert redis.Redis.from_url(url, protocol=protocol).set("k", 1) is True
    with client(url, protocol=protocol, connection_class=kind) as ours:
        assert ours.set("k", 1) is True
        with ours.connection_pool.connection(), ours.connection_pool.connection():
            assert ours.get("k") in (b"1", "1")
        assert ours.connection_pool.stats().connect_errors == 0
    if "setname" in USERS[user] or user == "no-client":
        wait_for(lambda: any("bear no name" in note for note in notes()), 10)
    if user in ("no-list", "not-dangerous"):
        assert not any("bear no name" in note for note in notes())


def test_a_name_that_the_user_gave_and_may_not_have_is_an_error_as_with_redis_py(server: RedisServer) -> None:
    url = f"redis://no-setname:p@127.0.0.1:{server.port}/0"
    with pytest.raises(redis.exceptions.NoPermissionError):
        redis.Redis.from_url(url, client_name="mine").ping()
    with client(url, client_name="mine") as ours, pytest.raises(redis.exceptions.NoPermissionError):
        ours.ping()


def test_a_right_that_is_taken_away_later_costs_no_call(server: RedisServer) -> None:
    with server.observer() as admin, client(f"redis://late:p@127.0.0.1:{server.port}/0") as ours:
        admin.execute_command("ACL", "SETUSER", "late", "on", ">p", "~*", "+@all")
        ours.ping()
        admin.execute_command("ACL", "SETUSER", "late", "-client")
        with ours.connection_pool.connection():
            ours.ping()
        assert ours.connection_pool.stats().connect_errors == 0


class Renamed(RedisServer):
    """One whose CLIENT is called otherwise; its observer bears no name."""

    @contextlib.contextmanager
    def observer(self) -> Iterator[redis.Redis]:
        with contextlib.closing(redis.Redis.from_url(self.unix_url, single_connection_client=True)) as client:
            yield client


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_server_that_knows_no_client_command(short_dir: Path, protocol: int) -> None:
    (short_dir / "more.conf").write_text("rename-command CLIENT ELSE\n")
    renamed = Renamed(short_dir, port=free_port(), include=str(short_dir / "more.conf")).start()
    try:
        with client(renamed.url, protocol=protocol) as ours:
            assert ours.set("k", 1) is True
    finally:
        renamed.stop()


class Strict:
    """A proxy that closes a connection at a command that it does not know, as twemproxy does."""

    def __init__(self, target: int, *unknown: bytes) -> None:
        self._target, self._unknown = target, unknown
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.closed = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=self._forth, args=(near, far), daemon=True).start()
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()

    def _forth(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                if any(word in data.upper() for word in self._unknown):
                    self.closed += 1
                    break
                far.sendall(data)
        for sock in (near, far):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65536):
                near.sendall(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize("unknown", [(b"CLIENT",), (b"CLIENT", b"INFO", b"CONFIG")], ids=["client", "and-info"])
def test_a_proxy_that_closes_at_client(redis_server: Callable[..., RedisServer], unknown: tuple[bytes, ...]) -> None:
    server = redis_server(port=free_port())
    proxy = Strict(server.port, *unknown)
    plain = {"driver_info": None, "protocol": 2}  # else redis-py itself says CLIENT
    url = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        assert redis.Redis.from_url(url, **plain).set("k", 1) is True
        with client(url, **plain) as ours:
            assert ours.set("k", 1) is True
            for _ in range(3):
                with ours.connection_pool.connection(), ours.connection_pool.connection():
                    ours.ping()
            assert ask_status().servers[0].health.up
            assert any("CLIENT LIST" in note for note in notes())
    finally:
        proxy.end()


class Chance(Strict):
    """Closes some connections at CLIENT, whose names it takes all the same: somebody has killed them."""

    most = 1

    def _forth(self, near: socket.socket, far: socket.socket) -> None:
        if self.closed >= self.most:
            self._unknown = ()
        super()._forth(near, far)


def test_a_connection_that_is_killed_while_it_is_made_costs_no_names(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server(port=free_port())
    proxy = Chance(server.port, b".%d." % os.getpid())  # this process's own: its names have its number
    try:
        with client(f"redis://127.0.0.1:{proxy.port}/0", driver_info=None, protocol=2) as ours:
            ours.ping()
            assert proxy.closed == 1
            assert [row["name"] for row in server.clients() if row["name"].startswith("pm1.")]
            assert not [note for note in notes() if "bear no name" in note]
    finally:
        proxy.end()


class Deaf(Strict):
    """Does not pass on that its client has ended, so that no end comes back."""

    def __init__(self, target: int) -> None:
        self._far: list[socket.socket] = []
        super().__init__(target)

    def end(self) -> None:
        super().end()
        for sock in self._far:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _forth(self, near: socket.socket, far: socket.socket) -> None:
        self._far.append(far)
        with contextlib.suppress(OSError):
            while data := near.recv(65536):
                far.sendall(data)


@pytest.mark.parametrize("user", ["no-setname", "no-list"])
def test_what_a_living_process_has_lost_without_proof_is_freed_after_the_wait_and_counted(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    """Else it would have fewer permits with each, and none in the end."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "4")
    proxy = Deaf(server.port)
    try:
        with client(f"redis://{user}:p@127.0.0.1:{proxy.port}/0") as ours:
            for _ in range(2):
                ours.ping()
                ours.connection_pool.disconnect()
            wait_for(lambda: ask_status().servers[0].unproven >= 2, 60)
            wait_for(lambda: sum(member.open for member in ask_status().servers[0].members) == 0, 10)
            assert ours.ping()
    finally:
        proxy.end()


HOLD = """
import os, sys, time, poolmgr
pool = poolmgr.ConnectionPool.from_url(sys.argv[1], timeout=20)
held = [pool.get_connection() for _ in range(2)]
print("held", flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_held_without_names_is_freed_after_the_wait_and_counted(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list shows them, so that a list shows none of them proves nothing."""
    monkeypatch.setenv("REDIS_CONNECTION_BUDGET", "8")
    url = f"redis://no-setname:p@127.0.0.1:{server.port}/0"
    with client(url) as ours:
        ours.ping()
        holder = subprocess.Popen([sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, env={**os.environ})
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        wait_for(lambda: sum(member.open for member in ask_status().servers[0].members) >= 3, 10)
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        holder.stdout.close()
        began = time.monotonic()
        wait_for(lambda: ask_status().servers[0].unproven >= 2, 30)
        assert time.monotonic() - began > 3
        assert ask_status().servers[0].quarantine == 0
        assert not ask_status().differences
