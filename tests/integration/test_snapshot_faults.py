"""What befalls the snapshot, under a running gunicorn: the cap holds, what was granted is served with, the log says
once what to do, and when the fault is over everything is as before."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from poolmgr import wire
from tests.damage import cut_in_half, of_another_boot, of_another_version, truncated
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import ROOT, RedisServer, alive, free_port, kill, python, wait_for
from tests.load import Load
from tests.service import GUNICORN, LOAD_APP, Serve, Service
from tests.supervisor_process import Start

BUDGET = 12
OBSERVERS = 1
SIZE = 320
"""KiB of the small file system: two snapshots of 128 fit, and the small files."""


@pytest.fixture
def server(redis_server) -> Iterator[RedisServer]:
    made: RedisServer = redis_server(port=free_port(), maxclients=BUDGET + OBSERVERS)
    yield made
    assert made.rejected() == 0, "the server has seen one connection too many"


@pytest.fixture
def serve(isolated: Path, server: RedisServer) -> Iterator[Serve]:
    started: list[Service] = []

    def start(**options: Any) -> Service:
        service = Service(
            isolated.parent / "d",
            app=LOAD_APP,
            redis_url=server.url,
            environ={"REDIS_CONNECTION_BUDGET": str(BUDGET), "POOLMGR_LINGER": "0.2"},
            **{"threads": 8, "workers": 3, **options},
        )
        service.directory.mkdir(mode=0o700)
        started.append(service)
        return service.start(path="/pid")

    yield start
    for service in started:
        service.clean_up()


class Mount:
    """A small file system over a service's directory that only the service's processes see."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        script = f'mount -t tmpfs -o size={SIZE}k,mode=700 tmpfs "$0" && exec "$@"'
        self.program = ("unshare", "--mount", "sh", "-c", script, str(directory), *GUNICORN)
        self.service: Service | None = None

    def inside(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command where it is seen."""
        assert self.service is not None
        return subprocess.run(
            ["nsenter", f"--target={self.service.pid}", "--mount", *command],
            env=self.service.environ, cwd=ROOT, capture_output=True, text=True, check=check, timeout=60,
        )  # fmt: skip

    @property
    def path(self) -> Path:
        assert self.service is not None
        return Path(f"/proc/{self.service.pid}/root{self.directory}")

    def fill(self) -> None:
        """Not one byte is left."""
        with (self.path / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    def remount_read_only(self, workers: list[int], supervisor: int) -> None:
        """Not while a supervisor has its files open to write. So it is killed, and no worker starts one meanwhile. One
        that a worker had begun to start, because the first one hung, is killed as well."""
        assert self.service is not None
        service, command = self.service, ("mount", "-o", "remount,ro", str(self.directory))

        def read_only() -> bool:
            if successor := service.supervisor():
                kill(successor)
            return not self.inside(*command, check=False).returncode

        for pid in workers:
            kill(pid, signal.SIGSTOP)
        try:
            kill(supervisor)
            wait_for(read_only, 10, what="it is read-only")
        finally:
            for pid in workers:
                kill(pid, signal.SIGCONT)

    def notes(self) -> list[str]:
        done = self.inside(sys.executable, "-m", "poolmgr.cli", "status", "--json")
        found: list[str] = msgspec.json.decode(done.stdout)["notes"]
        return found


@pytest.fixture
def mount(isolated: Path) -> Mount:
    if os.getuid() != 0:
        pytest.skip("needs root, to mount")
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        pytest.skip("needs unshare and nsenter (util-linux)")
    done = subprocess.run(
        ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no mount namespaces here: {done.stderr.strip()}")
    return Mount(isolated.parent / "d")


def all_granted(server: RedisServer) -> bool:
    return len(server.clients()) >= BUDGET - 1


def kill_worker(service: Service) -> list[float]:
    """From when to when it was killed."""
    victim = service.workers()[0]
    begin = time.monotonic()
    kill(victim)
    wait_for(lambda: not alive(victim))
    return [begin, time.monotonic()]


def all_serve(service: Service, load: Load) -> bool:
    """Each of the workers has had a permit."""
    workers = service.workers()
    return len(workers) == 3 and set(workers) <= set(load.by_worker())


def stop_supervisor(service: Service, load: Load) -> int:
    """Its pid, stopped at a moment when each worker has permits; it is not continued. Whoever has just passed on its
    last one would have none for as long as nothing is raised, and could serve nobody."""

    def serve_since(moment: float) -> bool:
        return set(service.workers()) <= load.serving(moment)

    def all_go_on() -> bool:
        """Each answers one request after the other: it has heard what it was told, and still has permits. After two
        seconds the workers replace a supervisor that does not answer, so the look must end before."""
        moment = began = time.monotonic()
        rounds = 0
        while time.monotonic() < began + 1.5:
            if serve_since(moment):
                rounds, moment = rounds + 1, time.monotonic()
                if rounds == 4:
                    return True
            time.sleep(0.005)
        return False

    def stopped() -> int:
        pid = service.supervisor()
        if pid:
            kill(pid, signal.SIGSTOP)
            if all_go_on():
                return pid
            kill(pid, signal.SIGCONT)
        return 0

    return wait_for(stopped, 20, what="each worker has permits", step=0.05)


# ---- what is read is not what was written ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [(truncated, "truncated"), (cut_in_half, "truncated"), (of_another_boot, "boot"), (of_another_version, "version")],
)
def test_a_snapshot_that_cannot_be_used_is_replaced_by_a_look_at_the_server(
    serve: Serve, server: RedisServer, damage: Callable[[Path], None], reason: str
) -> None:
    """A worker dies meanwhile, and only the server knows of its connections."""
    service = serve()
    with Load(service, "/hold?ms=80", callers=18) as load:
        wait_for(lambda: all_serve(service, load) and all_granted(server), 10, what="everything is handed out")
        former = service.supervisor()
        kill(former, signal.SIGSTOP)
        kills = kill_worker(service)
        damage(Path(service.socket + ".snapshot"))
        kill(former)
        wait_for(lambda: service.supervisor() not in (0, former), 15, what="a new supervisor")
        wait_for(lambda: all_serve(service, load), 10, what="the new worker has permits")
        wait_for(lambda: all_granted(server), 10, what="everything is handed out again")
        load.wait_for_answers(100)
    assert load.failures(kills) == []
    (event,) = service.events("snapshot.unusable")
    assert event["reason"] == reason
    assert service.socket in event["detail"]


# ---- what is written cannot be ----------------------------------------------------------------------------


def test_a_full_disk_stops_growth_and_nothing_else(serve: Serve, server: RedisServer, mount: Mount) -> None:
    service = mount.service = serve_in(serve, mount)
    with Load(service, "/hold?ms=80", callers=18) as load:
        wait_for(lambda: all_serve(service, load) and all_granted(server), 10, what="everything is handed out")
        mount.fill()
        # The running supervisor's file has its room: a killed worker's permits are somebody's again.
        kills = kill_worker(service)
        wait_for(lambda: all_serve(service, load), 10, what="the new worker has permits")
        wait_for(lambda: all_granted(server), 10)
        assert service.events("snapshot.unwritable") == []
        # Its successor has to make a new file and cannot.
        former = stop_supervisor(service, load)
        kill(former)
        wait_for(lambda: service.supervisor() not in (0, former), 15, what="a new supervisor")
        wait_for(lambda: service.events("snapshot.unwritable"), 10, what="the log says so")
        load.wait_for_answers(100)
        wait_for(lambda: any("No space left" in note for note in mount.notes()), 5, what="the status says so")
        (mount.path / "fill").unlink()
        wait_for(lambda: service.events("snapshot.writable"), 10, what="it can be written again")
        wait_for(lambda: not mount.notes(), 5)
        load.wait_for_answers(100)
        wait_for(lambda: all_granted(server), 10, what="everything is handed out again")
    assert load.failures(kills) == []
    (event,) = service.events("snapshot.unwritable")
    for words in (service.socket, "No space left", "free", "POOLMGR_SOCKET"):
        assert words in event["error"]


ONE = """
import os, poolmgr, redis
print(redis.Redis(connection_pool=poolmgr.ConnectionPool.from_url(os.environ["URL"], timeout=1)).ping())
"""


def test_a_caller_is_told_why_nothing_is_raised(supervisor: Start, server: RedisServer, isolated: Path) -> None:
    """By a supervisor that could never write, and by one that could when this process came."""
    running = supervisor(2, POOLMGR_LINGER="60")
    snapshot = Path(f"{isolated}.snapshot")
    snapshot.unlink(missing_ok=True)
    snapshot.mkdir()

    def said() -> str:
        done = python(ONE, environ={"URL": server.url}, timeout=60, check=False)
        return done.stdout + "".join(line for line in done.stderr.splitlines() if "TimeoutError: " in line)

    def is_told() -> bool:
        return f"cannot write the snapshot {snapshot} (Is a directory)" in said()

    assert is_told()
    snapshot.rmdir()
    assert said() == "True\n"
    running.stop()


def test_who_is_there_when_it_begins_and_when_it_ends_is_told_too(
    supervisor: Start, server: RedisServer, isolated: Path
) -> None:
    running = supervisor(BUDGET, POOLMGR_LINGER="60")
    snapshot = Path(f"{isolated}.snapshot")
    member = FakeMember(str(isolated)).connect().hello()
    snapshot.mkdir()
    member.attach(endpoint_of(port=server.port))
    member.until(lambda member: "cannot write the snapshot" in _stuck(member), what="it is told")
    snapshot.rmdir()
    member.until(lambda member: not _stuck(member), what="it is told that it is over")
    member.close()
    running.stop()


def _stuck(member: FakeMember) -> str:
    return next((message.stuck for message in reversed(member.inbox) if isinstance(message, wire.Picture)), "")


def serve_in(serve: Serve, mount: Mount) -> Service:
    return serve(program=mount.program)


def test_a_directory_that_becomes_read_only_stops_growth_and_nothing_else(
    serve: Serve, server: RedisServer, mount: Mount
) -> None:
    service = mount.service = serve_in(serve, mount)
    with Load(service, "/hold?ms=80", callers=18) as load:
        wait_for(lambda: all_serve(service, load) and all_granted(server), 10, what="everything is handed out")
        mount.remount_read_only(service.workers(), stop_supervisor(service, load))
        load.wait_for_answers(100)
        wait_for(lambda: complaints(service), 15, what="the log says so")
        load.wait_for_answers(100)
        assert not service.supervisor()
        mount.inside("mount", "-o", "remount,rw", str(mount.directory))
        wait_for(service.supervisor, 15, what="a supervisor")
        load.wait_for_answers(100)
        wait_for(lambda: all_granted(server), 10)
    assert load.failures() == []
    for event in complaints(service):
        assert "Read-only file system" in event["error"]
        assert "POOLMGR_SOCKET" in event["error"]
    by_worker = [event["pid"] for event in complaints(service) if "pid" in event]
    assert len(by_worker) == len(set(by_worker)), "each says it once"
    assert len(complaints(service)) <= 3


def complaints(service: Service) -> list[dict[str, Any]]:
    return service.events("supervisor.unreachable")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere; as any other user it is run")
def test_a_directory_whose_mode_forbids_writing_stops_growth_and_nothing_else(
    serve: Serve, server: RedisServer
) -> None:
    service = serve()
    with Load(service, "/hold?ms=80", callers=18) as load:
        wait_for(lambda: all_serve(service, load) and all_granted(server), 10, what="everything is handed out")
        service.directory.chmod(0o500)
        try:
            load.wait_for_answers(100)
            kill(stop_supervisor(service, load))
            wait_for(lambda: complaints(service), 15, what="the log says so")
            load.wait_for_answers(100)
        finally:
            service.directory.chmod(0o700)
        wait_for(service.supervisor, 15, what="a supervisor")
        load.wait_for_answers(100)
    assert load.failures() == []
    assert all("Permission denied" in event["error"] for event in complaints(service))
