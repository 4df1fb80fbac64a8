"""A supervisor that hangs, or whose starter was stopped in the middle of it, while no caller lives for long: what has
been silent is seen by all, so that nobody has to have waited for it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr.kernel.lockfile import holder, silence
from tests.debugger import held
from tests.helpers import RedisServer, alive, free_port, python, wait_for
from tests.program import Programs
from tests.stopwatch import Stopwatch
from tests.supervisor_process import Start

CALLER = """
import os, threading
import poolmgr, redis
pool = poolmgr.ConnectionPool.from_url(os.environ["URL"])
redis.Redis(connection_pool=pool, protocol=3)
import poolmgr.member.member
threading.Timer(float(os.environ["LIFE"]), os._exit, (7,)).start()
redis.Redis(connection_pool=pool).incr("done")
os._exit(0)
"""

SCRIPT = """
import os, sys
import poolmgr, redis
import poolmgr.member.member
client = redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"]))
print(".", flush=True)
sys.stdin.readline()
client.ping()
"""
"""It ends in good order, so with a goodbye."""

LIFE = "3.5"
"""Seconds that a caller lives. Who counts for itself never comes to an end with it."""

PATIENCE = 60.0

STOPPED_STARTER = """
import os, signal, sys, time
from poolmgr.launch.dial import locked
with locked(sys.argv[1] + ".launch", time.monotonic() + 5):
    print("has it", flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)
"""


ONE = """
import os, poolmgr
poolmgr.ConnectionPool.from_url(os.environ["URL"]).get_connection()
"""

FREEZER = Path("/sys/fs/cgroup/freezer")
"""Version 1: what it has frozen dies when it is thawed."""


@pytest.fixture
def server(redis_server: Callable[..., RedisServer]) -> RedisServer:
    return redis_server(port=free_port(), maxclients=16)


@pytest.fixture
def call(server: RedisServer) -> Callable[..., bool]:
    def call(life: str = LIFE) -> bool:
        return python(CALLER, environ={"URL": server.url, "LIFE": life}, check=False).returncode == 0

    return call


def test_one_that_hangs_is_replaced_though_no_caller_lives_for_long(supervisor: Start, call, server) -> None:
    running = supervisor(8, POOLMGR_LINGER="60")
    assert call("60")
    os.kill(running.pid, signal.SIGSTOP)
    wait_for(call, PATIENCE, what="a caller that is served")
    assert not running.running
    assert server.rejected() == 0


def test_one_that_a_debugger_holds_is_replaced_as_soon(supervisor: Start, call, server) -> None:
    """It has ended as soon as all its threads have, though its debugger has not taken note of it."""
    running = supervisor(8, POOLMGR_LINGER="60")
    assert call("60")
    with held(running.pid):
        assert call("60"), "a pool's caller waits for ten seconds"
    assert server.rejected() == 0


@pytest.mark.skipif(not os.access(FREEZER, os.W_OK), reason="there is no freezer of cgroups version 1")
def test_one_that_is_frozen_is_named_while_nobody_can_replace_it(supervisor: Start, call, server) -> None:
    running = supervisor(8, POOLMGR_LINGER="60")
    group = FREEZER / f"poolmgr-{os.getpid()}"
    group.mkdir()
    state = group / "freezer.state"
    try:
        (group / "cgroup.procs").write_text(str(running.pid))
        state.write_text("FROZEN")
        wait_for(lambda: state.read_text().strip() == "FROZEN")
        said = python(ONE, environ={"URL": server.url}, timeout=60, check=False).stderr.splitlines()[-1]
        assert f"(process {running.pid}) did not answer, was killed and does not end: it is frozen" in said
        state.write_text("THAWED")
        wait_for(lambda: not running.running, 20)
        assert call("60")
    finally:
        state.write_text("THAWED")
        running.stop()
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 20)
        group.rmdir()
    assert server.rejected() == 0


def test_whoever_was_stopped_while_it_started_one_keeps_nobody_out(isolated: Path, call, program: Programs) -> None:
    starter = program("-c", STOPPED_STARTER, isolated)
    assert starter.says() == "has it"
    wait_for(call, PATIENCE, what="a caller that is served")
    assert alive(starter.pid)


def test_scripts_one_after_the_other_find_the_same_one_and_nothing_is_left(
    isolated: Path, server, program: Programs
) -> None:
    """All are loaded before the first one begins: on a busy machine that takes longer than a supervisor lingers."""
    found = set()
    scripts = [program("-c", SCRIPT, URL=server.url) for _ in range(4)]
    assert all(script.says() == "." for script in scripts)
    for script in scripts:
        script.ends("\n")
        found.add(holder(f"{isolated}.lock"))
    assert len(found) == 1 and 0 not in found, "each pays for a start"
    (pid,) = found
    watch = Stopwatch()
    wait_for(lambda: not alive(pid), 20)
    assert watch.fair() < 5 + 5, "it lingers for three seconds"
    assert not [name for name in os.listdir(isolated.parent) if name.startswith("s")]


def test_signs_of_life_are_given_by_a_supervisor_that_has_nothing_to_do(supervisor: Start) -> None:
    running = supervisor(8, POOLMGR_LINGER="60")
    file = f"{running.path}.lock"
    os.utime(file, (0, 0))
    wait_for(lambda: silence(file) < 2, 10, what="another sign")
