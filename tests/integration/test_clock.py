"""The wall clock jumps, by a day and back: nothing depends on it. Nor on a monotonic clock of one's own.

A few lines of C move the wall clock of real processes while they run. (libfaketime will not do: with it, sleeping
fails in these versions of Python.)
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import ROOT, RedisServer, alive, free_port, kill, wait_for
from tests.load import Load
from tests.service import LOAD_APP, Service
from tests.supervisor_process import SupervisorProcess

BUDGET = 12
DAY = 86_400


@pytest.fixture
def server(redis_server) -> Iterator[RedisServer]:
    made: RedisServer = redis_server(port=free_port(), maxclients=BUDGET + 1)
    yield made
    assert made.rejected() == 0, "the server has seen one connection too many"


# ---- the wall clock ----------------------------------------------------------------------------------------


SHIM = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const volatile long *offset;

__attribute__((constructor)) static void begin(void) {
    int fd = open(getenv("CLOCK_OFFSET"), O_RDONLY | O_CLOEXEC);
    offset = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += *offset;
    return failed;
}

int gettimeofday(struct timeval *at, void *zone) {
    int failed = syscall(SYS_gettimeofday, at, zone);
    at->tv_sec += *offset;
    return failed;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class Clock:
    """The wall clock, as the C library tells it, of whoever is started with its environment."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "clock"
        self.set(0)
        source, library = directory / "clock.c", directory / "clock.so"
        source.write_text(SHIM)
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
        self.environ = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self.path)}

    def set(self, seconds: int) -> None:
        """How far it is off, from now on, in all of them."""
        with self.path.open("r+b" if self.path.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))


@pytest.fixture
def metrics() -> int:
    """A port for them."""
    return free_port()


@pytest.fixture
def service(isolated: Path, server: RedisServer, metrics: int, make: Callable[..., Service]) -> tuple[Service, Clock]:
    if not shutil.which("cc"):
        pytest.skip("there is no C compiler (apt install gcc libc6-dev)")
    clock = Clock(isolated.parent)
    environ = {"REDIS_CONNECTION_BUDGET": str(BUDGET), "POOLMGR_METRICS": f"127.0.0.1:{metrics}", **clock.environ}
    found = make(app=LOAD_APP, redis_url=server.url, workers=3, threads=8, environ=environ)
    return found.start(path="/clock"), clock


def counted(port: int, name: str) -> dict[str, int]:
    """A metric's values by ``reason``."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except OSError:
        return {}  # the supervisor that serves them has just been killed, and its successor is on its way
    found: dict[str, int] = {}
    for labels, value in re.findall(rf"^{name}{{(.*)}} ([0-9.e+]+)", text, re.MULTILINE):
        reason = re.search('reason="([a-z]+)"', labels)
        found[reason[1] if reason else ""] = int(float(value))
    return found


def test_the_wall_clock_may_jump_by_a_day_and_back(
    service: tuple[Service, Clock], server: RedisServer, metrics: int
) -> None:
    gunicorn, clock = service
    kills: list[float] = []

    def crash(pid: int) -> None:
        kills.append(time.monotonic())
        kill(pid)
        wait_for(lambda: not alive(pid))
        kills.append(time.monotonic())

    def off() -> float:
        return float(gunicorn.get("/clock").json["clock"] - time.time())

    def checkouts() -> int:
        return counted(metrics, "poolmgr_checkouts_total").get("", 0)

    with Load(gunicorn, "/hold?ms=80", callers=6) as load:
        wait_for(lambda: len(load.by_worker()) == 3, 10, what="all three answer")
        for offset in (DAY, -DAY, 0):
            wait_for(checkouts, 10, step=0.1)
            clock.set(offset)
            wait_for(lambda offset=offset: abs(off() - offset) < 60)  # type: ignore[misc]
            goal = checkouts() + 150
            wait_for(lambda goal=goal: checkouts() >= goal, 15, step=0.1, what="150 more checkouts")  # type: ignore[misc]
            reasons = counted(metrics, "poolmgr_connections_closed_total")
            assert not reasons.keys() & {"expired", "idle"}, "connections are as old as they are"
            # Whoever waits for something still sees the end of it.
            crash(gunicorn.workers()[0])
            former = gunicorn.supervisor()
            kill(former)
            wait_for(lambda former=former: gunicorn.supervisor() not in (0, former), 10)  # type: ignore[misc]
            wait_for(lambda: len(gunicorn.workers()) == 3, 10)
            wait_for(lambda: set(gunicorn.workers()) <= set(load.by_worker()), 10, what="the new worker has permits")
    assert load.failures(kills) == []
    assert load.slowest() < 5


def test_nothing_but_what_people_are_told_looks_at_the_wall_clock() -> None:
    """How long an outage has lasted, since when an audit has seen something, and when a line was logged."""
    wall = re.compile(
        r"\btime\.time(_ns)?\(|\bdatetime\.|\btime\.(local|gm)time|from (time|poolmgr\.native) import .*\btime"
    )
    found = {str(path.relative_to(ROOT)) for path in (ROOT / "poolmgr").rglob("*.py") if wall.search(path.read_text())}
    assert found == {
        "poolmgr/cli/status.py",
        "poolmgr/logs/journal.py",
        "poolmgr/native.py",
        "poolmgr/pool/membership.py",
        "poolmgr/supervisor/views/audit.py",
        "poolmgr/supervisor/upstreams/outages.py",
    }


# ---- a time namespace ---------------------------------------------------------------------------------------

MEMBER = """
    import sys, time
    import poolmgr
    try:
        print(time.monotonic(), poolmgr.get_client().ping())
    except poolmgr.ConnectionPoolTimeoutError as error:
        print(time.monotonic(), error)
"""


@pytest.fixture
def in_time_namespace() -> Callable[..., str]:
    if os.getuid() != 0:
        pytest.skip("needs root, to make a time namespace")
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")

    def run(*clocks: str, environ: dict[str, str]) -> str:
        done = subprocess.run(
            ["unshare", "--time", *clocks, "--fork", sys.executable, "-c", textwrap.dedent(MEMBER)],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, cwd=ROOT,
            capture_output=True, text=True, timeout=30,
        )  # fmt: skip
        if "unshare" in done.stderr:
            pytest.skip(f"no time namespaces here: {done.stderr}")
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_member_whose_monotonic_clock_is_another_shares_the_budget(
    isolated: Path, server: RedisServer, in_time_namespace
) -> None:
    running = SupervisorProcess(str(isolated), REDIS_CONNECTION_BUDGET=str(BUDGET), POOLMGR_LINGER="60").start()
    try:
        said = in_time_namespace("--monotonic", "500000", environ={"REDIS_URL": server.url})
        assert float(said.split()[0]) > 500_000
        assert "True" in said
        assert running.events("member.joined")
    finally:
        running.stop()


def test_a_member_whose_start_cannot_be_compared_is_told_so(
    isolated: Path, server: RedisServer, in_time_namespace
) -> None:
    """With another time of boot the kernel tells it another start of its own process."""
    running = SupervisorProcess(str(isolated), REDIS_CONNECTION_BUDGET=str(BUDGET), POOLMGR_LINGER="60").start()
    try:
        said = in_time_namespace("--boottime", "500000", environ={"REDIS_URL": server.url, "REDIS_POOL_TIMEOUT": "1"})
        assert "time namespace" in said
        assert "time namespace" in running.events("client.refused")[0]["reason"]
    finally:
        running.stop()


HOLDER = """if True:
    import os, sys, poolmgr
    connection = poolmgr.ConnectionPool.from_url(os.environ["REDIS_URL"]).get_connection()
    os.write(1, b"has it")
    for line in sys.stdin:
        connection.send_command("PING")
        print(connection.read_response().decode(), flush=True)
"""


def test_a_supervisor_whose_boot_was_at_another_time_ends_nobodys_connections(
    isolated: Path, server: RedisServer, in_time_namespace
) -> None:
    """It follows another one, and by its clock all of that one's members have started at another time."""
    environ = {"REDIS_CONNECTION_BUDGET": str(BUDGET), "POOLMGR_LINGER": "60"}
    running = SupervisorProcess(str(isolated), **environ).start()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": server.url, "POOLMGR_AUTOSTART": "0"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.read(6) == b"has it"
        kill(running.pid)
        wait_for(lambda: not running.running)
        said = in_time_namespace(
            "--boottime", "500000", environ={"REDIS_URL": server.url, "REDIS_POOL_TIMEOUT": "20", **environ}
        )
        assert "True" in said, "it is the first one's successor's member"
        found, _ = holder.communicate(b"again\n", timeout=20)
        assert found == b"PONG\n"
    running.stop()
