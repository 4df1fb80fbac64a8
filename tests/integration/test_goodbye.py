"""A goodbye ends a membership, not a process: a pool that is used afterwards works as before it.

Each script is a process of its own that uses its pool when it has said goodbye: in ``atexit``'s functions, in a
destructor while the interpreter ends, in a log handler that is flushed at the end, after gunicorn's hook.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.helpers import RedisServer, run_script

BEGIN = """
import atexit, logging, os, sys, threading, time
import poolmgr, redis
from poolmgr.member.member import get_member

def client(**options):
    return redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"], **{"timeout": 60, **options}))

def tag():
    return get_member().tag
"""

NO_THREADS = """
def forbid(self):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def without_threads():
    threading.Thread.start = forbid  # as Python 3.12 and later in atexit's functions
"""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(maxclients=64)


@pytest.fixture
def run(server: RedisServer) -> Callable[..., float]:
    """Runs a script to its end; seconds that it took."""

    def run(code: str, **environ: str) -> float:
        began = time.monotonic()
        run_script(BEGIN + NO_THREADS + code, **{"URL": server.url, **environ})
        return time.monotonic() - began

    return run


def written(server: RedisServer, key: str = "bye") -> str | None:
    with server.observer() as observer:
        return observer.get(key)  # type: ignore[return-value]


def rejected(server: RedisServer) -> int:
    with server.observer() as observer:
        return int(observer.info("stats")["rejected_connections"])


LIMIT = 45.0
"""Seconds that a script may take; an idle machine needs one, and one that waits in vain the pool's 60 s."""


def test_a_function_of_atexit_that_was_registered_first_runs_last(run, server):
    seconds = run("""
atexit.register(lambda: c.set("bye", 1))
c = client()
c.ping()
""")
    assert written(server) == "1"
    assert seconds < LIMIT


def test_the_first_use_of_all_is_in_atexit(run, server):
    run("""
c = client()
atexit.register(lambda: c.set("bye", 1))
""")
    assert written(server) == "1"


def test_a_destructor_while_the_interpreter_ends(run, server):
    seconds = run("""
class Last:
    def __del__(self):
        assert sys.is_finalizing()
        self.client.set("bye", 1)
last = Last()
last.client = client()
last.client.ping()
""")
    assert written(server) == "1"
    assert seconds < LIMIT


def test_a_destructor_whose_supervisor_has_ended_meanwhile_starts_another_one(run, server):
    run("""
class Last:
    def __del__(self):
        deadline = time.monotonic() + 10
        while os.path.exists(os.environ["POOLMGR_SOCKET"]) and time.monotonic() < deadline:
            time.sleep(0.01)
        self.client.set("bye", 1)
last = Last()
last.client = client()
last.client.ping()
""")
    assert written(server) == "1"


def test_a_log_handler_that_is_flushed_at_the_end(run, server):
    """logging registers its shutdown when it is loaded, and so before any pool."""
    run(
        """
class Handler(logging.handlers.MemoryHandler):
    def flush(self):
        for record in self.buffer:
            c.rpush("lines", record.getMessage())
        self.buffer.clear()
import logging.handlers
""".replace("class Handler", "import logging.handlers\nclass Handler", 1)
        + """
c = client()
c.ping()
log = logging.getLogger("app")
log.setLevel(logging.INFO)
log.addHandler(Handler(100))
log.info("one")
log.info("two")
"""
    )
    with server.observer() as observer:
        assert observer.lrange("lines", 0, -1) == ["one", "two"]


def test_after_a_goodbye_it_joins_again_under_a_new_tag(run, server):
    run("""
c = client()
c.ping()
first = get_member()
first.leave(3)
assert first.over and first.core.open == 0
c.set("bye", 1)
assert tag() != first.tag
assert get_member().core.open == 1
named = c.client_getname() or ""
assert tag() in named, named
""")
    assert written(server) == "1"


def test_ten_goodbyes_give_every_permit_back_once(run, server):
    """A budget of 3, a server that takes no more than it and its observer."""
    run(
        """
pools = [client(max_connections=3) for _ in range(2)]
for round in range(10):
    held = [pools[n % 2].connection_pool.get_connection() for n in range(3)]
    for n, connection in enumerate(held):
        pools[n % 2].connection_pool.release(connection)
    get_member().leave(5)
pools[0].set("bye", 1)
print(len(os.listdir("/proc/self/fd")))
""",
        REDIS_CONNECTION_BUDGET="3",
    )
    assert written(server) == "1"
    assert rejected(server) == 0


def test_nothing_is_kept_of_memberships_that_have_ended(run):
    run("""
import gc
c = client()
def once():
    c.ping()
    get_member().leave(5)
    gc.collect()
once(); once()
deadline = time.monotonic() + 10
def files():
    return sorted(os.readlink(f.path) for f in os.scandir("/proc/self/fd") if os.path.islink(f.path))
def counts():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()
before, was = counts(), files()
for _ in range(10):
    once()
while (now := counts()) > before and time.monotonic() < deadline:
    time.sleep(0.01)
assert now <= before, (before, now, was, files())
""")


def test_what_is_lent_at_the_goodbye_works_on_and_so_does_the_pool(run, server):
    seconds = run("""
c = client()
with c.connection_pool.connection() as lent:
    get_member().leave()
    lent.send_command("SET", "lent", "1")
    assert lent.read_response() == b"OK"
    c.set("bye", 1)
c.set("after", 1)
""")
    assert (written(server, "lent"), written(server), written(server, "after")) == ("1", "1", "1")
    assert seconds < LIMIT


def test_threads_that_go_on_lose_nothing(run, server):
    run("""
c = client()
stop = threading.Event()
failed = []
def work():
    while not stop.is_set():
        try:
            c.incr("count")
        except Exception as error:
            failed.append(error)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for _ in range(20):
    time.sleep(0.02)
    get_member().leave()
stop.set()
for thread in threads: thread.join()
assert not failed, failed[0]
c.set("bye", 1)
""")
    assert written(server) == "1"


def test_others_have_its_permits_at_once(run, server):
    """The process that has said goodbye and lives on holds none."""
    run(
        """
import subprocess
c = client(timeout=5)
held = [c.connection_pool.get_connection() for _ in range(2)]
for connection in held: c.connection_pool.release(connection)
get_member().leave(5)
subprocess.run([sys.executable, "-c", '''
import os, poolmgr, redis
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"])
for connection in [pool.get_connection() for _ in range(2)]: pool.release(connection)
'''], check=True)
c.set("bye", 1)
""",
        REDIS_CONNECTION_BUDGET="2",
    )
    assert written(server) == "1"
    assert rejected(server) == 0


@pytest.mark.parametrize("before", ["c.ping()", ""], ids=["joined", "never-joined"])
def test_where_no_thread_can_be_had_the_caller_does_its_work(run, server, before):
    seconds = run(f"""
def last():
    without_threads()
    c.set("bye", 1)
atexit.register(last)
c = client()
{before}
""")
    assert written(server) == "1"
    assert seconds < LIMIT


def test_without_threads_a_second_connection_is_opened_while_the_first_is_lent(run, server):
    run("""
without_threads()
c = client()
with c.connection_pool.connection(), c.connection_pool.connection():
    c.set("bye", 1)
get_member().leave(3)
assert get_member().over or get_member().core.open == 0
""")
    assert written(server) == "1"


def test_without_threads_a_full_pool_times_out_and_says_why(run, server):
    run(
        """
without_threads()
c = client(timeout=0.5)
with c.connection_pool.connection(), c.connection_pool.connection():
    began = time.monotonic()
    try:
        c.set("bye", 1)
    except poolmgr.ConnectionPoolTimeoutError as error:
        assert error.reason == "budget", error
        assert 0.4 < time.monotonic() - began < 3
    else:
        raise SystemExit("nothing was raised")
c.set("bye", 2)
""",
        REDIS_CONNECTION_BUDGET="2",
    )
    assert written(server) == "2"


def test_a_connection_that_broke_is_replaced_without_threads(run, server):
    run("""
c = client()
c.ping()
without_threads()
get_member().leave(3)
c.set("bye", 1)
other = redis.Redis.from_url(os.environ["URL"])
other.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
from poolmgr.native import monotonic
from poolmgr.pool.admission import FRESH
(last,) = c.connection_pool._idle
while monotonic() - last._since < FRESH:
    pass  # until then a checkout does not look (P4)
c.set("bye", 2)
""")
    assert written(server) == "2"
