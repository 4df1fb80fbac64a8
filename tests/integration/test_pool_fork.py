"""A fork at any instant: the child has an empty pool, and the parent notices nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poolmgr import forklock
from poolmgr.member import closer
from poolmgr.pool.sync.pool import ConnectionPool
from tests.helpers import RedisServer, python, wait_for
from tests.pools import answers_are_its_own, client_of, direct_pool, nothing_is_missing
from tests.stopwatch import Stopwatch
from tests.threads import Calls, meanwhile


@pytest.fixture
def pool(server: RedisServer) -> Iterator[ConnectionPool]:
    pool = direct_pool(server, max_connections=4, timeout=5)
    yield pool
    pool.disconnect()


def in_child(work: Callable[[], object]) -> int:
    """Run it in a forked child; the child's pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended_well(pid: int, timeout: float = 10) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def test_parent_and_child_use_the_pool_at_once(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    children = [in_child(lambda: answers_are_its_own(pool, 50)) for _ in range(3)]
    answers_are_its_own(pool, 50)
    for child in children:
        ended_well(child)
    answers_are_its_own(pool)
    assert pool.stats().created == 1
    nothing_is_missing(pool)


def test_a_connection_lent_at_the_fork_is_not_shared(pool: ConnectionPool):
    """The child goes on with the same object, on a socket of its own, and gives it back without harm."""
    connection = pool.get_connection()
    connection.send_command("CLIENT", "ID")
    mine = connection.read_response()

    def work() -> None:
        connection.send_command("CLIENT", "ID")
        assert connection.read_response() != mine
        pool.release(connection)
        assert pool.stats().in_use == 0
        answers_are_its_own(pool)

    child = in_child(work)
    connection.send_command("CLIENT", "ID")
    assert connection.read_response() == mine
    ended_well(child)
    connection.send_command("CLIENT", "ID")
    assert connection.read_response() == mine
    pool.release(connection)
    nothing_is_missing(pool)


def test_fork_while_another_thread_holds_every_lock_and_the_turn(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    ready, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with pool._lock:
            pool._owner[0] = time.monotonic() + 1000
            ready.set()
            leave.wait()
            pool._owner.clear()

    thread = Calls(hold)
    ready.wait()

    def work() -> None:
        Calls(lambda: answers_are_its_own(pool), times=8).join()
        with pool._lock:
            pool.disconnect()

    try:
        ended_well(in_child(work))
    finally:
        leave.set()
        thread.join()
    answers_are_its_own(pool)


def test_fork_while_others_wait_and_connect(pool: ConnectionPool):
    held = [pool.get_connection() for _ in range(4)]
    waiting = Calls(lambda: client_of(pool).ping(), times=4)
    wait_for(lambda: pool.stats().waiting == 4)

    def work() -> None:
        found = pool.stats()
        assert (found.in_use, found.idle, found.waiting, found.opening) == (0, 0, 0, 0)
        answers_are_its_own(pool)
        nothing_is_missing_in_child(pool)

    child = in_child(work)
    for connection in held:
        pool.release(connection)
    held.clear()
    waiting.join()
    ended_well(child)
    nothing_is_missing(pool)


def nothing_is_missing_in_child(pool: ConnectionPool) -> None:
    assert pool.stats().in_use == 0
    assert pool._core.size == pool.stats().idle


def test_forks_under_load_at_random_instants(pool: ConnectionPool):
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            answers_are_its_own(pool, 1)

    with meanwhile(load, ended=stop, times=6):
        for _ in range(25):
            ended_well(in_child(lambda: answers_are_its_own(pool, 2)))
    nothing_is_missing(pool)


def test_a_child_that_closes_its_pool_or_ends_closes_nothing_of_the_parent(pool: ConnectionPool):
    client = client_of(pool)
    client.ping()
    held = pool.get_connection()
    ended_well(in_child(pool.disconnect))
    ended_well(in_child(lambda: pool.close(timeout=1)))
    held.send_command("PING")
    held.read_response()
    pool.release(held)
    assert pool.stats().closed == {}
    assert pool.stats().created == 1


def test_close_in_the_parent_while_the_child_lives(pool: ConnectionPool):
    client_of(pool).ping()
    go, done = os.pipe()

    def work() -> None:
        answers_are_its_own(pool)
        os.read(go, 1)
        answers_are_its_own(pool)

    child = in_child(work)
    pool.disconnect()
    os.write(done, b"x")
    ended_well(child)
    answers_are_its_own(pool)


def test_a_pool_made_before_the_fork_like_under_preload(server: RedisServer):
    pool = direct_pool(server, min_idle=2)
    children = [in_child(lambda: answers_are_its_own(pool, 10)) for _ in range(4)]
    for child in children:
        ended_well(child)
    assert pool.stats().created == 0


def test_a_child_inherits_no_counters_and_no_holder(pool: ConnectionPool):
    held: list[Any] = [pool.get_connection()]

    def work() -> None:
        found = pool.stats()
        assert (found.checkouts, found.created, found.longest_held) == (0, 0, 0.0)
        assert pool._created_connections == 0
        assert pool.pid == os.getpid()

    ended_well(in_child(work))
    pool.release(held.pop())


def test_a_pool_made_before_gevent_patches_works_in_greenlets(server: RedisServer):
    result = python(
        f"""
import sys
sys.path.insert(0, {os.getcwd()!r})
from poolmgr.pool import fork
from poolmgr.pool.sync.pool import ConnectionPool
from tests.permits import FakeMember
pool = ConnectionPool(host="127.0.0.1", port={server.port}, max_connections=3, member=FakeMember(), timeout=5)
from gevent import monkey
monkey.patch_all()
import gevent, redis, time
client = redis.Redis(connection_pool=pool)
client.set("k", "mine")
start = time.monotonic()
jobs = [gevent.spawn(client.blpop, ["nothing"], 0.2) for _ in range(3)]
jobs += [gevent.spawn(client.get, "k") for _ in range(20)]
gevent.joinall(jobs, timeout=5, raise_error=True)
assert all(job.value == b"mine" for job in jobs[3:]), [job.value for job in jobs]
assert time.monotonic() - start < 2
# a greenlet killed in the middle of a command leaves nothing behind
for _ in range(50):
    job = gevent.spawn(client.blpop, ["nothing"], 5)
    gevent.sleep(0.002)
    job.kill()
    assert client.get("k") == b"mine"
import gc
gc.collect()
assert pool.stats().in_use == 0, pool
print("fine")
""",
        timeout=30,
        check=False,
    )
    assert result.stdout.strip() == "fine", result.stderr


COPIES = """
import os, socket, sys, threading
from poolmgr import ConnectionPool
from tests.permits import FakeMember

pool = ConnectionPool.from_url(os.environ["URL"], max_connections=8)
ended = threading.Event()

def reconnect():
    while not ended.is_set():
        with pool.connection() as connection:
            for _ in range(3):
                connection.disconnect()
                connection.connect()
                connection.send_command("PING")
                connection.read_response()

def servers(found):
    # Where the descriptors of this process lead to that lead to the server, once all that was under way has come about.
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as sock:
                yield from [number] if sock.getpeername() == found else []
        except OSError:
            pass

with pool.connection() as connection:
    there = connection._sock.getpeername()
threads = [threading.Thread(target=reconnect) for _ in range(4)]
for thread in threads:
    thread.start()
copies = 0
for _ in range(int(os.environ["FORKS"])):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        found = list(servers(there))
        os.write(writer, b"%d" % len(found))
        os._exit(0)
    os.close(writer)
    copies += os.read(reader, 10) != b"0"
    os.close(reader)
    os.waitpid(child, 0)
ended.set()
for thread in threads:
    thread.join()
print(copies)
"""


def copies(url: str, isolated: Path, forks: int = 60) -> int:
    """How many of the children that were forked in the middle of reconnects had a copy of a parent's connection."""
    environ = {"URL": url, "FORKS": str(forks), "REDIS_CONNECTION_BUDGET": "12", "POOLMGR_SOCKET": str(isolated)}
    return int(python(COPIES, environ=environ, timeout=100).stdout)


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_no_child_keeps_a_copy_of_a_socket_that_its_parent_connects(server: RedisServer, isolated: Path, way: str):
    assert copies(server.url if way == "tcp" else server.unix_url, isolated) == 0


def test_nor_of_one_that_is_being_closed(server: RedisServer):
    """CPython sets the number of a descriptor to -1, lets other threads run, and then closes the descriptor."""
    begun = threading.Event()
    numbers: list[int] = []

    class Slow(socket.socket):
        def close(self) -> None:
            numbers.append(self.detach())
            begun.set()
            time.sleep(0.2)  # another thread runs meanwhile
            os.close(numbers[0])

    sock = Slow()
    sock.connect(("127.0.0.1", server.port))
    closes = Calls(lambda: closer.end(sock, sock))
    assert begun.wait(30)

    def has_no_copy() -> None:
        with pytest.raises(OSError):
            os.fstat(numbers[0])

    ended_well(in_child(has_no_copy))
    closes.join()


def test_nor_of_one_that_is_shaking_hands_in_tls(secured: tuple[int, str], isolated: Path):
    assert copies(f"rediss://127.0.0.1:{secured[0]}?ssl_cert_reqs=none", isolated, 20) == 0


KEPT = """
import os, threading, weakref
from poolmgr import ConnectionPool
from poolmgr.member import closer

added = threading.Semaphore(0)
add = closer.Closer.add

def add_and_wait(self, *arguments):
    if self._closing:
        added.release()
        threading.Event().wait()
    add(self, *arguments)
    added.release()

closer.Closer.add = add_and_wait
closer.Closer._read = lambda self, closing: False  # no proof has come yet
pool = ConnectionPool.from_url(os.environ["URL"], max_connections=8)
connections = [pool.get_connection() for _ in range(5)]
found = [weakref.ref(connection._sock) for connection in connections]
idle, lent, *ended = connections
pool.release(idle)
for connection in ended:  # one at the closer, one on its way to it, one that the member has not seen
    connection.disconnect()
if os.environ["REDIS_CONNECTION_BUDGET"] != "off":
    added.acquire()
    added.acquire()
before = [ref() is not None for ref in found]
child = os.fork()
if not child:
    after = [ref() is not None for ref in found]
    print(before, after, flush=True)
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""


@pytest.mark.parametrize("budget", ["12", "off"])
def test_a_child_frees_no_tls_object_of_its_parent(secured: tuple[int, str], isolated: Path, budget: str):
    """OpenSSL takes locks of the whole process for that. Another thread may hold one in the middle of a handshake or
    while it reads certificates, and the child, where this thread does not exist, would wait for it within the fork."""
    url = f"rediss://127.0.0.1:{secured[0]}?ssl_cert_reqs=none"
    environ = {"URL": url, "REDIS_CONNECTION_BUDGET": budget, "POOLMGR_SOCKET": str(isolated)}
    printed = python(KEPT, environ=environ, timeout=60).stdout
    there = [True, True, *[budget != "off"] * 3]  # without a budget what ends is closed at once
    assert printed == f"{there} {there}\n", "in the parent, in the child"


@pytest.mark.parametrize("then", ["a fork", "a connection"])
def test_a_thread_that_was_torn_away_while_it_made_a_socket_holds_up_others_for_a_moment(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch, then: str
):
    """An exception of a signal handler can strike between the acquisition of a lock and the block that it guards."""
    monkeypatch.setattr(forklock, "MOMENT", 0.3)
    Calls(forklock.whole().__enter__).join()
    start = time.monotonic()
    pool = direct_pool(server)
    if then == "a fork":
        ended_well(in_child(lambda: client_of(pool).ping()))
    else:
        assert client_of(pool).ping()
    assert time.monotonic() - start >= 0.3, "it was waited for"
    monkeypatch.undo()
    watch = Stopwatch()
    for _ in range(5):
        ended_well(in_child(lambda: client_of(pool).ping()))
        pool.disconnect()
        assert client_of(pool).ping()
    assert watch.fair() < 5 * forklock.MOMENT, "only once"
    pool.disconnect()


def test_threads_that_make_sockets_one_after_the_other_are_waited_for_and_not_taken_for_torn(
    monkeypatch: pytest.MonkeyPatch,
):
    """On a busy machine the one that forks may get no turn between them for long: each of them is well."""
    monkeypatch.setattr(forklock, "MOMENT", 0.2)
    ended = threading.Event()

    def make() -> None:
        while not ended.is_set():
            with forklock.whole():
                time.sleep(0.03)

    lock = forklock._noting
    with meanwhile(make, ended=ended, times=4):
        for _ in range(20):
            forklock._before()
            held = forklock._waited[-1]
            forklock._in_parent()
            assert held is lock, "another lock has taken the place of one that is in use"
