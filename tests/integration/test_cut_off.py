"""A process that closes all its descriptors and lives on, as whoever makes a daemon of itself without a fork does."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.helpers import RedisServer, free_port, run_script

BEGIN = """
import os, sys, threading, time
import poolmgr, redis
from poolmgr.member.member import get_member

def client(**options):
    return redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"], **{"timeout": 60, **options}))

def close_all():
    os.closerange(3, 4096)

def errors(times=5):
    found = []
    for number in range(times):
        try:
            c.set("k", number)
        except redis.RedisError as error:
            found.append(error)
    return found
"""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=64)


@pytest.fixture
def run(server: RedisServer) -> Callable[..., None]:
    return lambda code, **environ: run_script(BEGIN + code, **{"URL": server.url, **environ})


def test_it_works_on_after_one_error(run, server):
    run("""
c = client()
c.ping()
close_all()
assert len(errors()) <= 1, errors()
""")
    with server.observer() as observer:
        assert observer.get("k") == "4"


def test_over_a_unix_socket_too(run, server):
    run(
        """
c = client()
c.ping()
close_all()
assert len(errors()) <= 1, errors()
""",
        URL=server.unix_url,
    )


def test_nothing_of_what_has_the_old_numbers_is_touched(run):
    run("""
import tempfile
c = client()
held = [c.connection_pool.get_connection() for _ in range(4)]
for connection in held: connection.send_command("PING"); connection.read_response()
for connection in held: c.connection_pool.release(connection)
numbers = {int(name) for name in os.listdir("/proc/self/fd")}
close_all()
files = []
while len(files) < 40:
    files.append(os.open(os.environ["POOLMGR_SOCKET"] + ".mine", os.O_RDWR | os.O_CREAT))
assert numbers - {0, 1, 2} <= set(files) | {0, 1, 2} | (numbers - set(range(3, 43))), (numbers, files)
get_member()                # what first looks at our own
found = errors()
del c, held, connection
import gc; gc.collect()
for number in files:
    os.fstat(number)        # still open
assert os.fstat(files[0]).st_size == 0, os.pread(files[0], 100, 0)
""")


def test_all_of_the_old_permits_are_free_again(run, server):
    """A budget of 2, all of it open."""
    run(
        """
c = client()
held = [c.connection_pool.get_connection() for _ in range(2)]
for connection in held: c.connection_pool.release(connection)
for _ in range(3):
    close_all()
    errors()
    pair = []
    for _ in range(2):
        try: pair.append(c.connection_pool.get_connection())
        except redis.ConnectionError: pair.append(c.connection_pool.get_connection())
    for connection in pair: c.connection_pool.release(connection)
""",
        REDIS_CONNECTION_BUDGET="2",
    )
    with server.observer() as observer:
        assert observer.info("stats")["rejected_connections"] == 0


def test_twice_and_with_threads_that_use_it_meanwhile(run):
    run("""
c = client()
stop = threading.Event()
answers = [0, 0, 0]
def work(number):
    while not stop.is_set():
        try:
            c.incr("count")
            answers[number] += 1
        except Exception:
            time.sleep(0.005)
threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
for thread in threads: thread.start()
time.sleep(0.3)
for _ in range(2):
    close_all()
    goal = [count + 20 for count in answers]
    deadline = time.monotonic() + 20
    while any(count < least for count, least in zip(answers, goal)) and time.monotonic() < deadline: time.sleep(0.01)
    assert time.monotonic() < deadline, f"no end of errors: {answers}, {goal}"
stop.set()
for thread in threads: thread.join()
found = errors(12)
assert len(found) <= 5, found  # one for each connection that there was, at most
""")
