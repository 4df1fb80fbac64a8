"""What servers and networks do, and what a caller sees of it: nothing, where it can be repaired before
use, else an error that says what happened. Afterwards no place and no permit is missing."""

from __future__ import annotations

import itertools
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from poolmgr.exceptions import ConnectionPoolTimeoutError, ServerDownError
from poolmgr.member.ports import Outage
from poolmgr.pool import lifecycle
from poolmgr.pool.connection import derive
from poolmgr.pool.sync import ConnectionPool
from tests.helpers import RedisServer, debian_redis_binary, free_port, wait_for
from tests.permits import FakeMember
from tests.pools import (
    answers_are_its_own,
    client_of,
    direct_pool,
    nothing_is_missing,
    permits,
    running_sentinel,
    running_server,
    sentinel_pool,
)
from tests.proxy import Proxy, proxy_to


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_server() as server:
        yield server


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture
def pool(proxy: Proxy) -> Iterator[ConnectionPool]:
    """A pool behind the proxy, with three idle connections."""
    pool = pool_on(proxy)
    warm(pool, 3)
    yield pool
    pool.disconnect()


def pool_on(proxy: Proxy, **options: Any) -> ConnectionPool:
    options = {"socket_timeout": 1.0, "socket_connect_timeout": 3, "timeout": 2, **options}
    return ConnectionPool(host="127.0.0.1", port=proxy.port, member=FakeMember(), **options)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the pool has logged since the last time: event, and error if there is one."""

    def read() -> list[str]:
        found = [
            f"{record.getMessage()}: {getattr(record, 'error', '')}".rstrip(": ")
            for record in caplog.records
            if record.name.startswith("poolmgr")
        ]
        caplog.clear()
        return found

    return read


def only(lines: list[str], text: str) -> bool:
    """Whether there is one line of a connect that failed, for this reason."""
    return len(lines) == 1 and lines[0].startswith("pool.connect_failed: ") and text in lines[0]


def warm(pool: ConnectionPool, count: int) -> None:
    held = [pool.get_connection() for _ in range(count)]
    for connection in held:
        pool.release(connection)
    assert pool.stats().idle == count


def test_idle_connections_closed_by_the_servers_timeout(said: Callable[[], list[str]]):
    with running_server(timeout=1) as server:
        pool = direct_pool(server)
        warm(pool, 2)
        wait_for(lambda: not server.clients(), 5)
        assert client_of(pool).ping()
        assert pool.stats().closed == {"stale": 2}
        assert said() == [], "nothing that anybody has to know"
        nothing_is_missing(pool)


@pytest.mark.parametrize("abruptly", [False, True])
def test_a_proxy_cuts_idle_connections(
    pool: ConnectionPool, proxy: Proxy, abruptly: bool, said: Callable[[], list[str]]
):
    proxy.cut(abruptly=abruptly)
    time.sleep(0.02)
    assert client_of(pool).ping()
    assert pool.stats().closed == {"stale": 3}
    answers_are_its_own(pool)
    assert said() == []
    nothing_is_missing(pool)


def test_the_server_restarts(said: Callable[[], list[str]]):
    with running_server() as server:
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        warm(pool, 3)
        server.stop()
        time.sleep(0.01)
        start = time.monotonic()
        with pytest.raises(redis.ConnectionError):
            client.ping()
        assert time.monotonic() - start < 1
        assert pool._core.failed_for >= start, "the attempt began when the connection was renewed, not when it was made"
        server.start()
        assert client.ping()
        answers_are_its_own(pool)
        assert permits(pool).troubles[0][0] == "unreachable"
        assert only(said(), "Connection refused")
        nothing_is_missing(pool)


def test_a_refusing_server_is_not_hammered_and_nobody_waits_long(proxy: Proxy, said: Callable[[], list[str]]):
    """Attempts are spaced with full jitter; callers fail with what the last attempt said."""
    pool = pool_on(proxy)
    proxy.refuse()
    stop = time.monotonic() + 1.5
    slowest: list[float] = []
    errors: set[str] = set()

    def call() -> None:
        while time.monotonic() < stop:
            start = time.monotonic()
            try:
                client_of(pool).ping()
            except redis.ConnectionError as error:
                errors.add(str(error))
            slowest.append(time.monotonic() - start)

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.stats().connect_errors < 60
    assert max(slowest) < 1.2
    assert all("refused" in text for text in errors)
    assert only(said(), "refused"), "one line for an outage"
    proxy.restore()
    assert client_of(pool).ping()
    assert pool._core.failures == 0
    nothing_is_missing(pool)


def test_pauses_between_attempts_grow_with_full_jitter_and_are_kept(
    monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
):
    bounds = [min(1.0, 0.008 * 2**failures) for failures in range(1, 12)]
    for failures, bound in enumerate(bounds, 1):
        draws = [lifecycle.BACKOFF.compute(failures) for _ in range(500)]
        assert 0 <= min(draws) < 0.1 * bound
        assert 0.9 * bound < max(draws) <= bound
    pauses: list[float] = []
    told: list[int] = []

    class Noted:
        def compute(self, failures: int) -> float:
            told.append(failures)
            pauses.append(0.02 * failures)
            return pauses[-1]

    monkeypatch.setattr(lifecycle, "BACKOFF", Noted())
    with proxy_to(free_port()) as proxy:  # it accepts, finds nobody behind it, and closes
        pool = pool_on(proxy)
        for _ in range(6):
            with pytest.raises(redis.ConnectionError):
                client_of(pool).ping()
        assert told == [1, 2, 3, 4, 5, 6]
        gaps = [after - before for before, after in itertools.pairwise(proxy.accepted_at)]
        assert all(gap >= pause for gap, pause in zip(gaps, pauses, strict=False)), (gaps, pauses)
    assert len(said()) == 1
    nothing_is_missing(pool)


def test_a_half_open_connection(pool: ConnectionPool, proxy: Proxy, said: Callable[[], list[str]]):
    proxy.frozen = True
    client = client_of(pool)
    start = time.monotonic()
    with pytest.raises(redis.TimeoutError):
        client.get("k")
    assert 0.5 <= time.monotonic() - start < 2, "socket_timeout, and not that of the connect"
    proxy.restore()
    answers_are_its_own(pool)
    assert said() == [], "its caller was told"
    nothing_is_missing(pool)


def test_a_server_that_accepts_and_never_answers(proxy: Proxy, said: Callable[[], list[str]]):
    pool = pool_on(proxy, timeout=0.3, socket_timeout=1.5)
    proxy.stalled = True
    start = time.monotonic()
    outcomes: list[BaseException] = []

    def call() -> None:
        try:
            client_of(pool).ping()
        except redis.RedisError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - start < 5
    assert len(outcomes) == 5
    assert any(isinstance(e, ConnectionPoolTimeoutError) and e.reason == "server" for e in outcomes)
    proxy.cut()  # attempts that began before the server was back fail now; they do not fail us
    proxy.restore()
    pool.timeout = 5
    answers_are_its_own(pool)
    assert only(said(), "Timeout reading")
    nothing_is_missing(pool)


def test_a_caller_does_not_fail_with_an_attempt_that_began_before_it_came(proxy: Proxy):
    """As with redis-py's pools, whose callers see errors of their own connections only."""
    pool = pool_on(proxy, timeout=5, socket_timeout=5, max_connecting=1)
    proxy.stalled = True
    outcomes: dict[str, object] = {}

    def call(name: str) -> None:
        try:
            outcomes[name] = client_of(pool).ping()
        except redis.RedisError as error:
            outcomes[name] = error

    threads = [threading.Thread(target=call, args=(name,)) for name in ("first", "late")]
    threads[0].start()
    wait_for(lambda: proxy.open == 1)
    proxy.stalled = False
    threads[1].start()
    wait_for(lambda: pool.stats().waiting == 1)
    proxy.cut()
    for thread in threads:
        thread.join()
    assert isinstance(outcomes["first"], redis.ConnectionError)
    assert outcomes["late"] is True
    outcomes.clear()
    nothing_is_missing(pool)


def test_an_attempt_for_the_queue_is_one_attempt(proxy: Proxy, monkeypatch: pytest.MonkeyPatch):
    """What redis-py would repeat in silence is known after the first try; commands are repeated as they were."""

    class Long:
        def compute(self, failures: int) -> float:
            return 60.0

    retry = redis.retry.Retry(redis.backoff.NoBackoff(), 3)
    pool = pool_on(proxy, timeout=10, socket_timeout=0.2, retry=retry)
    held = pool.get_connection()
    monkeypatch.setattr(lifecycle, "BACKOFF", Long())
    proxy.stalled = True
    tried = proxy.accepted
    waiting = threading.Thread(target=lambda: client_of(pool).ping())
    waiting.start()
    wait_for(lambda: pool.stats().connect_errors)
    assert proxy.accepted == tried + 1
    assert permits(pool).troubles[0][0] == "unreachable"
    proxy.stalled = False
    pool.release(held)
    waiting.join()
    monkeypatch.undo()
    pool._core.retry_at = 0.0
    held = pool.get_connection()
    waiting = threading.Thread(target=lambda: client_of(pool).ping())
    waiting.start()
    wait_for(lambda: pool.stats().created == 2)
    waiting.join()
    pool.release(held)
    assert [connection.retry.get_retries() for connection in pool._available_connections] == [3, 3]
    nothing_is_missing(pool)


def test_slow_name_resolution_holds_up_its_own_caller_only(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
):
    pool = direct_pool(server, timeout=0.2, max_connecting=1)
    resolve = socket.getaddrinfo
    go = threading.Event()

    def slow(*args: Any) -> Any:
        go.wait(5)
        return resolve(*args)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    first = threading.Thread(target=lambda: client_of(pool).ping())
    first.start()
    wait_for(lambda: pool.stats().opening == 1)
    start = time.monotonic()
    with pytest.raises(ConnectionPoolTimeoutError, match="being opened") as caught:
        client_of(pool).ping()
    assert caught.value.reason == "server"
    assert time.monotonic() - start < 1
    go.set()
    first.join()
    assert said() == []
    nothing_is_missing(pool)


def test_a_name_that_does_not_resolve(said: Callable[[], list[str]]):
    pool = ConnectionPool(host="no-such-host.invalid", member=FakeMember(), timeout=1)
    with pytest.raises(redis.ConnectionError):
        client_of(pool).ping()
    assert only(said(), "no-such-host.invalid")
    nothing_is_missing(pool)


def test_loading(said: Callable[[], list[str]]):
    """A server that reads its data back answers everything with LOADING."""
    with running_server() as server:
        with server.observer() as observer:
            observer.execute_command("DEBUG", "POPULATE", 1000)
            observer.save()
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        warm(pool, 2)
        server.stop()
        server.options |= {"key-load-delay": "1500", "loading-process-events-interval-bytes": "1024"}
        starting = threading.Thread(target=server.start)
        starting.start()

        def loading() -> bool:
            try:
                client.get("key:1")
            except redis.BusyLoadingError:
                return True
            except redis.ConnectionError:  # it does not listen yet
                pass
            return False

        wait_for(loading)
        said()
        starting.join()
        assert client.get("key:1") == b"value:1"
        answers_are_its_own(pool)
        assert said() == []
        nothing_is_missing(pool)


def test_client_kill_of_a_connection_in_use_and_of_an_idle_one(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    warm(pool, 2)
    outcome: list[BaseException] = []

    def block() -> None:
        try:
            client_of(pool).blpop(["nothing"], timeout=5)
        except redis.RedisError as error:
            outcome.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    with server.observer() as observer:
        wait_for(lambda: observer.info("clients")["blocked_clients"] == 1)
        observer.client_kill_filter(_type="normal", skipme=True)
        thread.join()
        wait_for(lambda: len(observer.client_list(_type="normal")) == 1)
    assert isinstance(outcome[0], redis.ConnectionError), "whose command it was is told"
    outcome.clear()
    assert client_of(pool).ping(), "nobody else is"
    assert pool.stats().closed == {"broken": 1, "stale": 1}
    assert said() == []
    nothing_is_missing(pool)


def test_busy_is_an_answer(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    client = client_of(pool)
    with server.observer() as observer:
        observer.config_set("busy-reply-threshold", 10)
    running = threading.Thread(target=script, args=(server,))
    running.start()

    def busy() -> bool:
        try:
            client.get("k")
        except redis.ResponseError as error:
            return "BUSY" in str(error)
        return False

    wait_for(busy)
    client.execute_command("SCRIPT KILL")
    running.join()
    assert pool.stats().closed == {}
    assert said() == []
    answers_are_its_own(pool)


def script(server: RedisServer) -> None:
    with redis.Redis(port=server.port) as client, pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def test_maxclients_reached_by_others(said: Callable[[], list[str]]):
    with running_server(maxclients=5) as server:
        others = [redis.Redis(port=server.port, single_connection_client=True) for _ in range(4)]
        for other in others:
            other.ping()
        pool = direct_pool(server, timeout=2)
        client = client_of(pool)
        client.ping()
        held = pool.get_connection()
        pool.timeout = 0.2
        with pytest.raises(ConnectionPoolTimeoutError, match="max number of clients") as caught:
            client.ping()
        assert caught.value.reason == "server"
        assert permits(pool).troubles[0][0] == "refused"
        assert only(said(), "max number of clients")
        pool.release(held)
        assert client.ping()
        for other in others:
            other.close()
        nothing_is_missing(pool)


def test_a_wrong_password_and_a_rotated_one(said: Callable[[], list[str]]):
    with running_server(requirepass="first") as server:
        pool = direct_pool(server, password="wrong")
        with pytest.raises(redis.AuthenticationError):
            client_of(pool).ping()
        assert permits(pool).troubles[0][0] == "auth"
        assert only(said(), "invalid username-password")
        nothing_is_missing(pool)
        pool = direct_pool(server, password="first")
        client = client_of(pool)
        warm(pool, 2)
        held = pool.get_connection()
        client.config_set("requirepass", "second")
        assert client.ping(), "what is connected stays so"
        pool.connection_kwargs["password"] = "second"
        pool.drain()
        assert pool.stats().idle == 0
        pool.release(held)
        assert client.ping()
        assert pool.stats().closed == {"drained": 2}
        assert said() == []
        nothing_is_missing(pool)
        server.password = "second"


def test_a_master_that_has_become_a_replica(server: RedisServer, said: Callable[[], list[str]]):
    """Through Sentinel, the connection is closed, so that the next one asks who is master now."""
    with running_sentinel(server) as port:
        pool = sentinel_pool(port)
        client = client_of(pool)
        client.set("k", 1)
        with server.observer() as observer:
            observer.execute_command("REPLICAOF", "127.0.0.1", free_port())
            try:
                with pytest.raises(redis.ConnectionError, match="previous master"):
                    client.set("k", 2)
            finally:
                observer.execute_command("REPLICAOF", "NO", "ONE")
        client.set("k", 3)
        assert pool.stats().closed == {"broken": 1}
        assert said() == []
        nothing_is_missing(pool)


def test_read_only_is_an_answer(server: RedisServer, said: Callable[[], list[str]]):
    pool = direct_pool(server)
    client = client_of(pool)
    client.ping()
    with server.observer() as observer:
        observer.execute_command("REPLICAOF", "127.0.0.1", free_port())
        try:
            with pytest.raises(redis.ReadOnlyError):
                client.set("k", 2)
        finally:
            observer.execute_command("REPLICAOF", "NO", "ONE")
    client.set("k", 3)
    assert pool.stats().closed == {}
    assert said() == []


def test_while_the_server_is_known_to_be_down_callers_fail_at_once_and_hear_since_when(pool: ConnectionPool):
    held = [pool.get_connection() for _ in range(3)]
    waiting: list[BaseException] = []

    def wait() -> None:
        try:
            pool.get_connection()
        except redis.RedisError as error:
            waiting.append(error)

    pool.max_connections = 3
    thread = threading.Thread(target=wait)
    thread.start()
    wait_for(lambda: pool.stats().waiting == 1)
    permits(pool).outage = Outage(since=time.time() - 5, error="Connection refused")
    start = time.monotonic()
    with pytest.raises(ServerDownError, match=r"down since .* \(5 s\): Connection refused"):
        pool.get_connection()
    assert time.monotonic() - start < 0.05
    thread.join(1)
    assert isinstance(waiting[0], ServerDownError), "those who waited already fail too"
    pool.release(held.pop())
    assert client_of(pool).ping(), "who finds an idle connection tries it"
    permits(pool).outage = None
    while held:
        pool.release(held.pop())
    answers_are_its_own(pool)
    waiting.clear()
    nothing_is_missing(pool)


def test_a_reconnect_inside_a_command_waits_for_a_permit(server: RedisServer):
    """redis-py reconnects by itself on a retry; the socket before has to be gone first."""
    pool = direct_pool(server, member=FakeMember(limit=1), retry=redis.retry.Retry(redis.backoff.NoBackoff(), 2))
    client = client_of(pool)
    client.ping()
    connection = pool.get_connection()
    connection.disconnect()
    connection.send_command("PING")
    assert connection.read_response()
    pool.release(connection)
    assert permits(pool).most == 1
    nothing_is_missing(pool)


def test_a_command_that_may_have_been_executed_is_not_repeated_by_the_pool(pool: ConnectionPool, server: RedisServer):
    client = client_of(pool)
    with server.observer() as observer:
        observer.set("count", 0)
    seen = threading.Event()
    send: Any = pool._available_connections[0].__class__._look

    def cut_after_the_look(connection: Any) -> str:
        reason: str = send(connection)
        if not seen.is_set():
            seen.set()
            connection._raw.shutdown(socket.SHUT_WR)  # the command is lost on its way
        return reason

    time.sleep(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool._available_connections[0].__class__, "_look", cut_after_the_look)
        with pytest.raises(redis.ConnectionError):
            client.incr("count")
    assert client.get("count") == b"0"
    answers_are_its_own(pool)
    nothing_is_missing(pool)


@pytest.mark.parametrize("connected", [True, False])
def test_a_permit_is_free_at_once_only_if_the_server_cannot_have_seen_a_connection(
    monkeypatch: pytest.MonkeyPatch, connected: bool
):
    """An exception right after the connect leaves a connection whose end has to be proven."""

    def strike(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(derive(redis.Connection), "_name" if connected else "_prepare", strike)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it answers nothing, and closes nothing
        pool = ConnectionPool(
            host="127.0.0.1", port=silent.getsockname()[1], member=FakeMember(limit=2, tag="tag"), timeout=1
        )
        with pytest.raises(KeyboardInterrupt):
            pool.get_connection()
        found = permits(pool)
        assert len(found.closing) == connected
        assert len(found.out) == connected
        nothing_is_missing(pool)


# ---- TLS -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[int, str]]:
    """Port and certificate of a server that speaks TLS."""
    binary = debian_redis_binary()
    if binary is None or shutil.which("openssl") is None:
        pytest.skip("needs redis-server with TLS, and openssl")
    directory = Path(tempfile.mkdtemp(prefix="pm-", dir="/tmp"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, check=True, capture_output=True,
    )  # fmt: skip
    port = free_port()
    process = subprocess.Popen(
        [binary, "--port", "0", "--tls-port", str(port), "--bind", "127.0.0.1", "--save", "",
         "--tls-cert-file", "cert.pem", "--tls-key-file", "key.pem", "--tls-auth-clients", "no"],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: reachable(port), 10)
        yield port, str(directory / "cert.pem")
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


def reachable(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("protocol", [2, 3])
def test_tls(secured: tuple[int, str], protocol: int):
    port, certificate = secured
    member = FakeMember(limit=2)
    pool = ConnectionPool.from_url(
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


def test_tls_that_fails_after_the_connect_gives_its_permit_back_by_the_servers_word(
    secured: tuple[int, str], server: RedisServer
):
    port, _ = secured
    for place in (port, server.port):  # a certificate that is not trusted; a server that speaks no TLS
        member = FakeMember(limit=1)
        pool = ConnectionPool.from_url(f"rediss://127.0.0.1:{place}/0", member=member, timeout=1, socket_timeout=0.5)
        with pytest.raises(redis.RedisError):
            client_of(pool).ping()
        assert len(member.only.closing) == 1, "it was connected: its end has to be proven"
        nothing_is_missing(pool)


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
