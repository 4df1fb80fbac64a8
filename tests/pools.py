"""What tests of the pool share: servers, Sentinels, pools on both, and what must hold of a pool in the end."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.sentinel import Sentinel

from poolmgr import settings
from poolmgr.member.member import Member
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.pool.sync.sentinel import SentinelConnectionPool
from tests import bridge
from tests.certificates import able_to_speak_tls, certify, over_tls
from tests.helpers import RedisServer, free_port, server_binary, wait_for
from tests.permits import FakeMember, FakePermits
from tests.proxy import Proxy


@contextlib.contextmanager
def running_server(**options: Any) -> Iterator[RedisServer]:
    """A server on a port of its own."""
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    server = RedisServer(directory, **{"port": free_port(), **options})
    try:
        yield server.start()
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_sentinel(server: RedisServer, *lines: str, binary: str = "") -> Iterator[int]:
    """A Sentinel that watches the server as ``main``, with further lines of configuration; its port."""
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    port = free_port()
    own = [
        f"port {port}", "bind 127.0.0.1", f"dir {directory}", f"sentinel monitor main 127.0.0.1 {server.port} 1",
    ]  # fmt: skip
    (directory / "sentinel.conf").write_text("\n".join([*own, *lines, ""]))
    process = subprocess.Popen(
        [binary or server_binary(), str(directory / "sentinel.conf"), "--sentinel"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:

        def knows() -> bool:
            with contextlib.suppress(redis.RedisError):
                with redis.Redis(port=port) as client:
                    return bool(client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", "main"))
            return False

        wait_for(knows, 10, what="the Sentinel answers")
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def running_secured_server() -> Iterator[tuple[int, str]]:
    """Port and certificate of a server that speaks TLS; skips where there is none."""
    able_to_speak_tls()
    with tempfile.TemporaryDirectory(prefix="pm-", dir="/tmp") as directory:
        certificate, port = certify(Path(directory)), free_port()
        server = RedisServer(Path(directory), **over_tls(certificate, port)).start()  # type: ignore[arg-type]
        try:
            yield port, str(certificate)
        finally:
            server.stop()


def direct_pool(server: RedisServer, **options: Any) -> ConnectionPool:
    return pool_with(**{"host": "127.0.0.1", "port": server.port, "member": FakeMember(), **options})


def pool_with(**options: Any) -> ConnectionPool:
    """A pool of the present flavour."""
    if bridge.present is not None:
        return bridge.present.pool(**options)  # type: ignore[no-any-return]
    return ConnectionPool(**options)


def pool_at(url: str, **options: Any) -> ConnectionPool:
    """The same for a URL."""
    if bridge.present is not None:
        return bridge.present.pool_at(url, **options)  # type: ignore[no-any-return]
    return ConnectionPool.from_url(url, **options)


def sentinel_pool(port: int, **options: Any) -> ConnectionPool:
    options.setdefault("member", FakeMember())
    if bridge.present is not None:
        return bridge.present.sentinel_pool(port, **options)  # type: ignore[no-any-return]
    sentinel = Sentinel([("127.0.0.1", port)], socket_timeout=5)
    client = sentinel.master_for("main", connection_pool_class=SentinelConnectionPool, **options)
    pool: ConnectionPool = client.connection_pool
    client.auto_close_connection_pool = False
    return pool


class Process:
    """What a process has: a member of its own, and pools."""

    def __init__(self) -> None:
        self.member = Member(settings.load())
        self.pools: list[ConnectionPool] = []

    def pool(self, port: int, **options: Any) -> ConnectionPool:
        self.pools.append(pool_with(**{"host": "127.0.0.1", "port": port, "member": self.member, **options}))
        return self.pools[-1]

    def end(self) -> None:
        for pool in self.pools:
            pool.disconnect()
        self.member.stop()


Processes = Callable[[], Process]
"""The fixture ``process``."""

KINDS = ["direct-2", "direct-3", "sentinel-2", "sentinel-3"]
"""Of pools: how the server is reached, and the version of RESP."""


def pool_of(kind: str, request: pytest.FixtureRequest, **options: Any) -> ConnectionPool:
    """A pool of one of :data:`KINDS`, on the fixtures ``server`` and ``sentinel``."""
    way, protocol = kind.split("-")
    options = {"protocol": int(protocol), **options}
    if way == "direct":
        return direct_pool(request.getfixturevalue("server"), **options)
    return sentinel_pool(request.getfixturevalue("sentinel"), **options)


def pool_on(proxy: Proxy, **options: Any) -> ConnectionPool:
    options = {"socket_timeout": 1.0, "socket_connect_timeout": 3, "timeout": 2, **options}
    return pool_with(host="127.0.0.1", port=proxy.port, member=FakeMember(), **options)


def take(pool: ConnectionPool, count: int) -> list[Any]:
    """Borrow so many, however long that takes."""
    timeout, pool.timeout = pool.timeout, 30
    try:
        return [pool.get_connection() for _ in range(count)]
    finally:
        pool.timeout = timeout


def give(pool: ConnectionPool, held: list[Any]) -> None:
    """Return all of them, the first one first."""
    while held:
        pool.release(held.pop(0))


def warm(pool: ConnectionPool, count: int) -> None:
    """Have so many idle connections."""
    held = [pool.get_connection() for _ in range(count)]
    for connection in held:
        pool.release(connection)
    assert pool.stats().idle == count


def permits(pool: ConnectionPool) -> FakePermits:
    """The fake permits behind a pool."""
    assert isinstance(pool._origin._member, FakeMember)
    (found,) = pool._origin.known  # the member may also have those of Sentinels
    assert isinstance(found, FakePermits)
    return found


def client_of(pool: ConnectionPool) -> redis.Redis:
    if isinstance(pool, bridge.Bridge):
        client: Any = pool._tasks.bridge(redis.asyncio.Redis(connection_pool=pool._thing))
        return client  # type: ignore[no-any-return]
    return redis.Redis(connection_pool=pool)


def answers_are_its_own(pool: ConnectionPool, times: int = 5) -> None:
    """Every command gets its own answer, and no connection is in a state that a caller left behind."""
    client = client_of(pool)
    for _ in range(times):
        word = uuid.uuid4().hex
        assert client.echo(word) in (word, word.encode())
        info = client.client_info()
        assert int(info["db"]) == pool.connection_kwargs.get("db", 0)
        assert "x" not in str(info["flags"]), "a transaction is open"
        assert str(info.get("watch", 0)) == "0"
        assert str(info["sub"]) == "0"


def only(lines: list[str], text: str) -> bool:
    """Whether there is one line of a connect that failed, for this reason."""
    return len(lines) == 1 and lines[0].startswith("pool.connect_failed: ") and text in lines[0]


@contextlib.contextmanager
def slow_names() -> Iterator[threading.Event]:
    """No name is resolved before the event is set, or for five seconds. An address needs no resolution: tasks connect
    to one at once."""
    resolve, go = socket.getaddrinfo, threading.Event()

    def slow(*args: Any, **kwargs: Any) -> Any:
        go.wait(5)
        return resolve(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", slow)
        try:
            yield go
        finally:
            go.set()


def nothing_is_missing(pool: ConnectionPool) -> None:
    """Every place and every permit is accounted for; nothing is out."""
    import gc

    core = pool._core

    def settled() -> bool:
        core.audit()  # as is done from time to time: a signal may have struck what hears of a place's end
        pool._advance(may_open=False)
        return not core.opening and core.lent == 0 and core.size == len(core.idle)

    gc.collect(1)  # an error's traceback may hold a connection in a circle; the young ones take a twentieth of all
    if not settled():
        gc.collect()
        settled()
    wait_for(lambda: not core.opening, what="nothing is being opened")
    assert core.lent == 0, repr(core)
    assert core.size == len(core.idle), repr(core)
    if not core.size and not pool._origin._all:
        return  # it was never connected
    out: list[Any] = []
    for found in pool._origin.known:  # a name may lead to several addresses, each with permits of its own
        assert isinstance(found, FakePermits)
        found.sweep()
        out += found.out
    assert len(out) == core.size, f"{core!r} {out}"
