"""Interpreters that are not the main one, and processes that may start no thread."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from tests.helpers import free_port, python

USE = """
import logging, os, threading
import poolmgr, redis
hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], max_connections=2, hooks=hooks)
client = redis.Redis(connection_pool=pool)
client.set("key", 1)
"""

ENDS = {
    "idle": "",
    "with a connection out": "held = pool.get_connection()",
    "with a subscription": "pubsub = client.pubsub(); pubsub.subscribe('channel')",
    "with another server away": (
        "try: poolmgr.ConnectionPool(port=1, timeout=0.1).get_connection()\nexcept redis.RedisError: pass"
    ),
    "used by atexit": "import atexit; atexit.register(client.incr, 'key')",
    "used by a destructor": ("class Last:\n    def __del__(self, client=client): client.incr('key')\nlast = Last()"),
}

ALL = """
import os, sys
try:
    import _xxsubinterpreters as interpreters
    create = lambda: interpreters.create(isolated={alone})
except ImportError:  # from Python 3.13 on
    import _interpreters as interpreters
    own = dict(allow_fork=False, allow_exec=False, allow_threads=False) if {alone} else dict()
    create = lambda: interpreters.create(interpreters.new_config("legacy", **own))
keepers = []
for end, use in {uses!r}.items():
    sub = create()
    assert interpreters.run_string(sub, use) is None
    keepers.append(create())
    assert interpreters.run_string(keepers[-1], "import hiredis") is None
    interpreters.destroy(sub)
    import poolmgr, redis  # the first one of them has loaded these before
    pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], timeout=20)
    held = [pool.get_connection() for _ in range(6)]  # nobody else has any
    while held:
        pool.release(held.pop())
    print(end, int(redis.Redis(connection_pool=pool).get("key")), flush=True)
    pool.disconnect()
for keeper in keepers:
    interpreters.destroy(keeper)
"""
"""hiredis (3.5.0) reads the module of the interpreter that has loaded it last, also once that one has ended. Then the
process may end with SIGSEGV, without a pool of ours too. So another interpreter, which lives on, loads it last."""


@pytest.mark.parametrize("alone", [False, True], ids=["with threads", "isolated"])
def test_subinterpreters_end(alone: bool, redis_server, isolated: Path) -> None:
    """One after the other in one process, with all that may be in use when one ends.

    ``alone``: it may start no thread (uWSGI's and mod_wsgi's may).
    """
    if not any(map(importlib.util.find_spec, ("_xxsubinterpreters", "_interpreters"))):
        pytest.skip("this Python has another module for subinterpreters")
    server = redis_server(port=free_port(), maxclients=9)
    code = ALL.format(alone=alone, uses={end: USE + last for end, last in ENDS.items()})
    environ = {"URL": server.url, "REDIS_CONNECTION_BUDGET": "8", "PYTHONFAULTHANDLER": "1"}
    ended = python(code, environ=environ, check=False)  # six interpreters take a busy machine more than a minute
    said = dict(line.rsplit(maxsplit=1) for line in ended.stdout.splitlines())
    assert list(said) == list(ENDS), (said, ended.returncode, ended.stderr[-3000:])
    assert said.pop("used by atexit") == "2", ended.stderr
    assert said.pop("used by a destructor") in ("1", "2"), ended.stderr
    assert set(said.values()) == {"1"}, (said, ended.stderr)
    assert ended.returncode == 0, ended.stderr
    assert server.rejected() == 0


LIMITS = {
    "memory": """
threading.stack_size(1 << 30)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (512 << 20),) * 2)
""",
    "processes": """
from poolmgr.member.member import get_member
get_member()  # its tag says whose it is
os.setresuid(54321, 0, 0)  # whose processes are counted; those of root are not
libc = ctypes.CDLL(None, use_errno=True)
header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert libc.capset(header, none) == 0, ctypes.get_errno()
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
""",
}


@pytest.mark.parametrize(
    "limit",
    ["memory", pytest.param("processes", marks=pytest.mark.skipif(os.getuid() != 0, reason="needs to be root"))],
)
def test_a_process_that_may_start_no_thread_works(limit: str, redis_server, supervisor, isolated: Path) -> None:
    server = redis_server(port=free_port(), maxclients=9)
    supervisor(8, POOLMGR_LINGER="60")
    code = f"""
import ctypes, faulthandler, logging, os, resource, threading
faulthandler.dump_traceback_later(40, exit=True)
import poolmgr, redis
{LIMITS[limit]}
try:
    threading.Thread(target=print).start()
except RuntimeError as error:
    print(error)
class Handler(logging.Handler):
    def emit(self, record):
        print(record.getMessage())
logging.getLogger("poolmgr").addHandler(Handler())
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"], max_connections=3, timeout=1)
client = redis.Redis(connection_pool=pool)
print(client.set("key", 1), client.get("key"))
held = [pool.get_connection() for _ in range(3)]
try:
    pool.get_connection()
except redis.TimeoutError:
    print("no more")
while held:
    pool.release(held.pop())
pool.hooks = poolmgr.Hooks(created=lambda connection: 1 / 0)
pool.drain()
print(client.get("key"))
print(client.get("key"), flush=True)
"""
    environ = {"URL": server.url, "REDIS_CONNECTION_BUDGET": "8"}
    ended = python(code, environ=environ, timeout=60, check=False)
    said = ["can't start new thread", "True b'1'", "no more", "b'1'", "b'1'", "pool.hook_failed"]
    assert ended.stdout.splitlines() == said, ended.stderr
    assert server.rejected() == 0
