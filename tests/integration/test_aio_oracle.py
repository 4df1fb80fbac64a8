"""The promise with tasks and threads together: the server's ``maxclients`` has room for the budget and nothing else.

Processes with tasks on both loops, of which a fifth is cancelled, and one with threads; each second one of them is
killed and started again.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers import ROOT, RedisServer, Servers, free_port, wait_for

pytestmark = pytest.mark.timing

BUDGET = 10
OBSERVERS = 1
SECONDS = float(os.environ.get("POOLMGR_ORACLE_SECONDS", "8"))

STORMS = [("storm_of_tasks", "asyncio"), ("storm_of_tasks", "uvloop"), ("storm_of_tasks", "asyncio"),
          ("storm_of_threads", "asyncio")]  # fmt: skip


@pytest.fixture
def server(redis_server: Servers) -> RedisServer:
    return redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)


def start(server: RedisServer, storm: tuple[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.aio_programs", *storm],
        env={**os.environ, "REDIS_URL": server.url, "REDIS_CONNECTION_BUDGET": str(BUDGET)},
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_no_storm_of_tasks_makes_the_server_see_one_connection_too_many(server: RedisServer):
    chance = random.Random(7)
    processes = [start(server, storm) for storm in STORMS]
    try:
        wait_for(lambda: len(server.clients()) >= len(STORMS), 30, what="all have connections")
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            time.sleep(1)
            victim = chance.randrange(len(STORMS))
            processes[victim].kill()
            processes[victim].communicate()
            processes[victim] = start(server, STORMS[victim])
        time.sleep(2)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        said = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    found = []
    for (out, err), process in zip(said, processes, strict=True):
        if process.returncode == -signal.SIGTERM and not out:
            continue  # it had just been started
        assert process.returncode == 0, err
        found.append(json.loads(out))
    assert server.rejected() == 0
    assert sum(one.get("answered", 0) for one in found) > 100 and sum(one.get("cancelled", 0) for one in found) > 10
    for one in found:
        assert not one.get("crossed") and not one["left"], found
        assert set(one) <= {"answered", "cancelled", "crossed", "left"}, found
    wait_for(lambda: server.clients() == [], 20, what="the last connection has gone")
