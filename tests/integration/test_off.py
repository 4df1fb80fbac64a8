"""``REDIS_CONNECTION_BUDGET=off``: no supervisor, no thread of ours, and each pool bounded by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, RedisServer, Servers, free_port, python
from tests.service import LOAD_APP, Service

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server(port=free_port(), maxclients=200)


@pytest.fixture
def run(server: RedisServer, isolated: Path) -> Run:
    """Run a program in a process of its own that finds ``pool`` and ``client``; what it puts into ``found``."""

    def run(program: str, **environ: str) -> dict[str, Any]:
        head = f"""
            import json, os, sys, threading, time
            import redis, poolmgr
            found = {{}}
            pool = poolmgr.ConnectionPool.from_url({server.unix_url!r}, timeout=1)
            client = redis.Redis(connection_pool=pool)
        """
        code = "\n".join(textwrap.dedent(part) for part in (head, program, "print(json.dumps(found))"))
        done = python(code, environ={"REDIS_CONNECTION_BUDGET": "off", **environ}, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return {**json.loads(done.stdout.splitlines()[-1]), "log": done.stderr}

    return run


def test_there_is_no_supervisor_no_thread_and_no_name(run: Run, isolated: Path) -> None:
    found = run(
        """
        assert client.set("k", "v")
        found |= {"threads": [thread.name for thread in threading.enumerate()], "name": client.client_getname()}
        """
    )
    assert set(found["threads"]) <= {"MainThread", "poolmgr-log"}, "the log's ends with what it has to say"
    assert found["name"] is None
    (line,) = found["log"].splitlines()
    assert line.startswith("budget.off (reason: REDIS_CONNECTION_BUDGET=off, remedy: "), "it is said once, and in full"
    assert not isolated.exists()


def test_each_pool_is_bounded_by_itself(run: Run, server: RedisServer) -> None:
    """As redis-py's: by 100, if nothing else is said; and a caller waits for its turn."""
    found = run(
        """
        taken = [pool.get_connection() for _ in range(100)]
        try:
            pool.get_connection()
        except poolmgr.ConnectionPoolTimeoutError as error:
            found["error"], found["reason"] = str(error), error.reason
        threading.Timer(0.2, pool.release, [taken[0]]).start()
        found["served"] = pool.get_connection() is taken[0]
        found["bound"] = pool.max_connections
        small = poolmgr.ConnectionPool(max_connections=3, timeout=0, **pool.connection_kwargs)
        found["small"] = small.max_connections
        """
    )
    assert (found["bound"], found["small"], found["reason"], found["served"]) == (100, 3, "pool", True)
    assert "budget" not in found["error"], found["error"]
    assert server.rejected() == 0


def test_a_connection_that_breaks_makes_room_for_the_next(run: Run) -> None:
    found = run(
        """
        kind, arguments = pool.connection_class, pool.connection_kwargs
        pool = poolmgr.ConnectionPool(connection_class=kind, max_connections=1, timeout=5, **arguments)
        connection = pool.get_connection()
        waiting = threading.Thread(target=lambda: found.update(got=bool(redis.Redis(connection_pool=pool).ping())))
        waiting.start()
        time.sleep(0.1)
        connection.disconnect()
        pool.release(connection)
        waiting.join(10)
        """
    )
    assert found["got"]


def test_a_forked_child_has_none_of_the_parents_connections(run: Run) -> None:
    found = run(
        """
        mine = client.client_id()
        kept = pool.get_connection()
        descriptor = kept._sock.fileno()
        reading, writing = os.pipe()
        if os.fork() == 0:
            try:
                os.fstat(descriptor)
                open_still = os.readlink(f"/proc/self/fd/{descriptor}")
            except OSError:
                open_still = ""
            os.write(writing, json.dumps([client.client_id(), open_still]).encode())
            os._exit(0)
        os.close(writing)
        theirs, open_still = json.loads(os.read(reading, 1000))
        os.wait()
        kept.send_command("PING")
        found |= {"apart": mine != theirs, "open": open_still, "pong": kept.read_response().decode()}
        """
    )
    assert found["apart"]
    assert found["pong"] == "PONG"
    assert not found["open"], "the child has a copy of a socket of its parent"


def test_what_is_dropped_is_closed(run: Run) -> None:
    found = run(
        """
        import gc
        path = pool.connection_kwargs["path"]
        lost = pool.get_connection()
        del lost
        client.close()
        del client, pool
        gc.collect()
        for _ in range(100):
            info = redis.Redis(unix_socket_path=path).info("clients")["connected_clients"]
            if info == 1:
                break
            time.sleep(0.05)
        found["clients"] = info
        """
    )
    assert found["clients"] == 1


def test_fakeredis_needs_no_setting_and_is_bounded_as_by_redis_py(run: Run, isolated: Path) -> None:
    found = run(
        """
        import fakeredis
        fake = poolmgr.ConnectionPool(connection_class=fakeredis.FakeRedisConnection)
        found["bound"], found["answer"] = fake.max_connections, redis.Redis(connection_pool=fake).ping()
        """,
        REDIS_CONNECTION_BUDGET="",
    )
    assert (found["bound"], found["answer"]) == (100, True)
    assert not isolated.exists()


LACKING = """
import os, select, signal, socket, sys
import asyncio, collections, logging, multiprocessing, random, ssl, threading, urllib.parse, weakref
import redis
for module, names in (
    (os, ("register_at_fork", "fork", "getuid", "geteuid", "getgid", "pidfd_open")),
    (socket, ("AF_UNIX",)),
    (select, ("poll",)),
    (signal, ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "SIGCHLD")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
sys.platform = "win32"
"""
"""Takes away what Windows does not have. No Windows is at hand; this finds what is used in spite of that."""


def test_a_system_without_forks_has_pools_and_no_budget(server: RedisServer, isolated: Path) -> None:
    program = f"""
import poolmgr
pool = poolmgr.ConnectionPool.from_url({server.url!r})
client = redis.Redis(connection_pool=pool)
assert client.ping()
assert pool.max_connections == 100
client.close()
"""
    done = subprocess.run(
        [sys.executable, "-c", LACKING + program],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "POOLMGR_SOCKET": str(isolated)},
    )
    assert done.returncode == 0, done.stderr
    assert "a budget needs Linux, and this is win32" in done.stderr
    assert not isolated.exists()


def test_gunicorn_serves_without_a_supervisor(server: RedisServer, make: Callable[..., Service]) -> None:
    service = make(app=LOAD_APP, redis_url=server.unix_url, environ={"REDIS_CONNECTION_BUDGET": "off"})
    service.start(path="/get")
    assert service.get("/get").json["value"] == "value"
    assert not service.supervisor()
    assert "budget.off" in service.log


def test_who_asks_for_its_status_or_starts_one_is_told_why_there_is_none(isolated: Path) -> None:
    environ = {**os.environ, "POOLMGR_SOCKET": str(isolated), "REDIS_CONNECTION_BUDGET": "off"}
    for module in ("poolmgr.cli", "poolmgr.supervisor"):
        arguments = ["status"] if module == "poolmgr.cli" else ["--socket", str(isolated)]
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            capture_output=True,
            text=True,
            env=environ,
            timeout=60,
            cwd=ROOT,
        )
        assert done.returncode != 0
        assert "REDIS_CONNECTION_BUDGET=off" in done.stderr + done.stdout
