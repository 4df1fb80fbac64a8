"""Forks at the moment of a process's very first checkout, when the member's code is still being loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolmgr import rendezvous
from tests.helpers import python

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


def test_a_lock_is_given_back_though_a_child_has_a_copy_of_it(short_dir: Path) -> None:
    path = str(short_dir / "lock")
    read, write = os.pipe()
    with rendezvous.locked(path, 0):
        child = os.fork()
        if not child:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
    try:
        with rendezvous.locked(path, 0):
            pass
    finally:
        os.close(read)
        os.close(write)
        os.waitpid(child, 0)
