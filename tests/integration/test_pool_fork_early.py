"""Forks at the moment when a process first uses a pool, while its code is still being loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolmgr.launch import dial
from tests.helpers import free_port, python

CODE = """
import faulthandler, os, threading, time
from poolmgr import ConnectionPool
from redis import Redis
ready = threading.Event()
def use():
    ready.set()
    Redis(connection_pool=ConnectionPool.from_url(os.environ["URL"])).ping()
thread = threading.Thread(target=use)
thread.start()
ready.wait()
time.sleep(float(os.environ["PAUSE"]))
child = os.fork()
if not child:
    faulthandler.dump_traceback_later(5, exit=True)
    Redis(connection_pool=ConnectionPool.from_url(os.environ["URL"], timeout=8)).ping()
    os._exit(0)
status = os.waitpid(child, 0)[1]
thread.join()
print(status)
"""


@pytest.mark.parametrize("pause", ["0", "0.001", "0.005", "0.02"])
def test_a_fork_during_the_first_checkout_of_another_thread(redis_server, isolated: Path, pause: str) -> None:
    server = redis_server(maxclients=9)
    environ = {"URL": server.unix_url, "PAUSE": pause, "REDIS_CONNECTION_BUDGET": "8", "POOLMGR_SOCKET": str(isolated)}
    ended = python(CODE, environ=environ, timeout=60)
    assert ended.stdout.strip() == "0", ended.stderr
    assert server.rejected() == 0


LOADING = """
import faulthandler, os, signal, sys, threading
import poolmgr
signal.alarm(20)
reached, forked = threading.Event(), threading.Event()
def pause(event, arguments):
    if event == "exec" and arguments[0].co_filename.endswith(os.environ["AT"]) and not reached.is_set():
        reached.set()
        forked.wait(0.5)  # a fork that does not wait for this import happens meanwhile
sys.addaudithook(pause)
def use():
    poolmgr.get_client().ping()
thread = threading.Thread(target=use)
thread.start()
if not reached.wait(10):
    sys.exit("it was loaded already")
child = os.fork()
if not child:
    faulthandler.dump_traceback_later(10, exit=True)
    use()
    os._exit(0)
forked.set()
status = os.waitpid(child, 0)[1]
thread.join()
print(status)
"""


@pytest.mark.parametrize(
    "module",
    [
        "redis/connection.py", "pool/sync/pool.py", "poolmgr/embedded/__init__.py", "member/member.py",
        "encodings/idna.py", "email/feedparser.py",
    ],
)  # fmt: skip
def test_a_fork_while_another_thread_loads_what_both_need(redis_server, isolated: Path, module: str) -> None:
    """The lock of an import that is under way at a fork stays taken in the child."""
    server = redis_server(maxclients=9, port=free_port())
    environ = {"AT": module, "REDIS_CONNECTION_BUDGET": "8", "POOLMGR_SOCKET": str(isolated)}
    if module != "poolmgr/embedded/__init__.py":
        environ["REDIS_URL"] = server.url
    ended = python(LOADING, environ=environ, timeout=60, check=False)
    assert ended.stdout.strip() == "0", ended.stderr
    assert server.rejected() == 0


GUARDED = """
import os, sys
import poolmgr, redis
found = set()
def look(event, arguments):
    if event != "import":
        return
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_qualname != "load":
        frame = frame.f_back
    if frame is None:
        found.add(arguments[0])
sys.addaudithook(look)
def use(url):
    pool = poolmgr.ConnectionPool.from_url(url, timeout=2)
    try:
        redis.Redis(connection_pool=pool).ping()
        with pool.connection() as connection:
            connection.disconnect()
            connection.connect()
    except redis.RedisError:
        pass
use(os.environ["URL"])
use("redis://127.0.0.1:1")
use("redis://no-such-host.invalid")
print(sorted(found))
"""


@pytest.mark.parametrize("way", ["tcp", "tls", "unix"])
def test_nothing_is_loaded_outside_of_the_guard(
    redis_server, secured: tuple[int, str], isolated: Path, way: str
) -> None:
    """From the first use on, each import is one that a fork waits for."""
    server = redis_server(port=free_port())
    urls = {
        "tcp": server.url,
        "unix": server.unix_url,
        "tls": f"rediss://localhost:{secured[0]}?ssl_ca_certs={secured[1]}",
    }
    environ = {"URL": urls[way], "REDIS_CONNECTION_BUDGET": "8", "POOLMGR_SOCKET": str(isolated)}
    assert python(GUARDED, environ=environ, timeout=60).stdout.strip() == "[]"


def test_a_lock_is_given_back_though_a_child_has_a_copy_of_it(short_dir: Path) -> None:
    path = str(short_dir / "lock")
    read, write = os.pipe()
    with dial.locked(path, 0):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with dial.locked(path, 0):
            pass
    finally:
        os.close(read)
        os.close(write)
        os.waitpid(child, 0)
