"""A forked child has a copy of each descriptor of its parent: it closes those of connections, and none escapes it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr import forklock
from poolmgr.member import closer
from poolmgr.pool.aio.stream import Stream
from tests.forks import ended_well, in_child
from tests.helpers import RedisServer, python
from tests.pools import client_of, direct_pool
from tests.stopwatch import Stopwatch
from tests.threads import Calls, meanwhile

SERVERS = """
def servers(found):
    # The descriptors of this process that lead to the server.
    import os, socket
    for number in os.listdir("/proc/self/fd"):
        try:
            with socket.socket(fileno=os.dup(int(number))) as sock:
                yield from [number] if sock.getpeername() == found else []
        except OSError:
            pass
"""

COPIES = f"""{SERVERS}
import os, socket, sys, threading
from poolmgr import ConnectionPool

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


def ends(sock: socket.socket) -> None:
    closer.end(sock, sock)


def buries(sock: socket.socket) -> None:
    loop = asyncio.new_event_loop()
    stream = Stream(loop, sock)
    loop.close()
    stream._bury()


@pytest.mark.parametrize("close", [ends, buries])
def test_nor_of_one_that_is_being_closed(server: RedisServer, close: Callable[[socket.socket], None]):
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
    inode = os.fstat(sock.fileno()).st_ino  # its number may be another file's soon
    closes = Calls(lambda: close(sock))
    assert begun.wait(30)

    def has_no_copy() -> None:
        for number in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                assert os.fstat(number).st_ino != inode

    ended_well(in_child(has_no_copy))
    closes.join()


def test_nor_of_one_that_is_shaking_hands_in_tls(secured: tuple[int, str], isolated: Path):
    assert copies(f"rediss://127.0.0.1:{secured[0]}?ssl_cert_reqs=none", isolated, 20) == 0


LINE_BY_LINE = f"""{SERVERS}
import asyncio, os, queue, socket, sys, threading
from pathlib import Path
import poolmgr, poolmgr.asyncio
from poolmgr import forklock
from poolmgr.member.loop import Loop

OURS = str(Path(poolmgr.__file__).parent)
FILES = "connection.py", "sockets.py", "closer.py", "permits.py", "locked.py", "unshared.py"
asked, seen = queue.SimpleQueue(), set()

def line(frame, event, argument):
    place = os.path.basename(frame.f_code.co_filename), frame.f_lineno
    if event == "line" and place not in seen and not forklock._noting._is_owned():
        seen.add(place)
        forked = threading.Event()
        asked.put((place, forked))
        forked.wait(20)
    return line

def call(frame, event, argument):
    name = frame.f_code.co_filename
    return line if name.startswith(OURS) and name.endswith(FILES) else None

def use_threads():
    pool = poolmgr.ConnectionPool.from_url(os.environ["URL"])
    for _ in range(2):
        with pool.connection() as connection:
            connection.disconnect()
            connection.connect()
            there.append(connection._sock.getpeername())
        pool.disconnect()

async def use_tasks():
    pool = poolmgr.asyncio.ConnectionPool.from_url(os.environ["URL"])
    for _ in range(2):
        async with pool.connection() as connection:
            await connection.disconnect()
            await connection.connect()
            there.append(connection._raw.getpeername())
        await pool.aclose()

def use():
    if os.environ["FLAVOUR"] == "threads":
        use_threads()
    else:
        asyncio.run(use_tasks())

def run():
    use()
    asked.put(None)

there = []
use()  # everything is loaded, and the member's thread runs
take_turn = Loop._turn
def turn(self):
    sys.settrace(call)
    take_turn(self)
Loop._turn = turn
threading.settrace(call)
threading.Thread(target=run).start()
copies, forks = set(), 0
while found := asked.get(timeout=60):
    place, forked = found
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, b"%d" % len(list(servers(there[0]))))
        os._exit(0)
    os.close(writer)
    with open(reader) as said:
        if said.read() != "0":
            copies.add(place)
    os.waitpid(child, 0)
    forked.set()
    forks += 1
print(forks, *sorted(copies))
"""
"""A fork before each line that makes, connects, hands over or ends a connection, also in the member's thread."""


@pytest.mark.parametrize("budget", ["12", "off"])
@pytest.mark.parametrize("kind", ["threads", "tasks"])
def test_at_no_line_a_child_has_a_copy_that_it_does_not_know(
    secured: tuple[int, str], isolated: Path, kind: str, budget: str
):
    url = f"rediss://127.0.0.1:{secured[0]}?ssl_cert_reqs=none"
    environ = {"URL": url, "FLAVOUR": kind, "REDIS_CONNECTION_BUDGET": budget, "POOLMGR_SOCKET": str(isolated)}
    forks, *copies = python(LINE_BY_LINE, environ=environ, timeout=100).stdout.split(maxsplit=1)
    assert copies == [], "at these lines, or where the other thread was then"
    assert int(forks) > 50


KEPT = """
import os, threading, weakref
from poolmgr import ConnectionPool
from poolmgr.member import closer
from poolmgr.pool.aio.stream import Stream

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
