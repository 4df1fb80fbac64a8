"""Finding and starting the supervisor: one of them, nobody's child, and honest errors."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from poolmgr import launch, settings
from poolmgr.exceptions import SupervisorError
from poolmgr.kernel.peer import peer
from poolmgr.launch import remedies
from tests import fake_supervisor
from tests.fake_supervisor import pings, starts
from tests.helpers import ROOT, kill, python, wait_for
from tests.stopwatch import Stopwatch


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.fake_supervisor")


@pytest.fixture
def values(isolated: Path) -> settings.Settings:
    return settings.load()


def test_one_is_started_if_there_is_none_and_found_afterwards(values):
    with launch.connect(values) as first, launch.connect(values, start=False) as second:
        assert first.gettimeout() is None
        assert pings(first)
        assert pings(second)
    assert len(starts(values)) == 1


def children() -> set[str]:
    """This process's, those that have ended and were not waited for among them."""
    return {pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_it_is_nobodys_child_and_has_nothing_of_its_starter(values, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/nowhere")
    monkeypatch.setenv("LISTEN_PID", "1")
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    before = children()
    try:
        with launch.connect(values):
            (pid,) = starts(values)
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
            assert int(fields[1]) != os.getpid(), "parent"
            assert os.getsid(pid) not in (os.getsid(0), pid), "a session of its own, in which it can get no terminal"
            held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            assert os.readlink(f"/proc/self/fd/{writer}") not in held
            assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environ
            assert b"LISTEN_PID" not in environ
            assert children() == before
    finally:
        os.close(reader)
        os.close(writer)


def test_many_at_once_start_exactly_one(values):
    with ThreadPoolExecutor(12) as threads:
        found = list(threads.map(lambda _: launch.connect(values), range(12)))
    assert len({peer(sock).pid for sock in found}) == 1  # type: ignore[union-attr]
    assert len(starts(values)) == 1
    for sock in found:
        sock.close()


def test_many_processes_at_once_start_exactly_one(values):
    code = """if True:
        import os
        from poolmgr import launch, settings
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it inherits standard error, and outlives this process
        launch.MODULE = "tests.fake_supervisor"
        print(launch.peer(launch.connect(settings.load())).pid)"""
    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(lambda _: python(code).stdout, range(5)))
    assert len(set(found)) == 1
    assert len(starts(values)) == 1


def test_a_socket_file_that_nobody_listens_on_is_no_supervisor(values):
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(values.socket)
    stale.close()
    with pytest.raises(SupervisorError, match="no supervisor is listening on"):
        launch.connect(values, start=False)
    with launch.connect(values) as sock:
        assert pings(sock)


def test_a_process_whose_children_are_reaped_behind_its_back_can_start_one(values):
    old = signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them then (waitpid(2))
    try:
        with launch.connect(values) as sock:
            assert pings(sock)
    finally:
        signal.signal(signal.SIGCHLD, old)


@pytest.mark.parametrize(
    ("booted", "remedy"),
    [
        pytest.param(True, "run: systemctl start poolmgr.socket", id="systemd"),
        pytest.param(False, "start its container, or run: python -m poolmgr.supervisor", id="container"),
    ],
)
def test_none_is_started_where_that_is_switched_off(values, monkeypatch, tmp_path, booted, remedy):
    monkeypatch.setenv("POOLMGR_AUTOSTART", "0")
    monkeypatch.setattr(remedies, "BOOTED", str(tmp_path if booted else tmp_path / "none"))
    with pytest.raises(SupervisorError, match=f"POOLMGR_AUTOSTART=0 forbids starting one; {remedy}$"):
        launch.connect(settings.load())
    assert starts(values) == []


def test_why_it_could_not_start_is_told(values, monkeypatch):
    monkeypatch.setenv("FAKE", "refuse")
    with pytest.raises(SupervisorError, match="^the supervisor could not start: the snapshot is another's$"):
        launch.connect(values)


def test_that_it_ended_at_once_is_told_at_once(values, monkeypatch):
    monkeypatch.setenv("FAKE", "crash")
    watch = Stopwatch()
    with pytest.raises(SupervisorError, match="ended as soon as it was started.* -m tests.fake_supervisor"):
        launch.connect(values)
    assert watch.fair() < 5


def test_one_that_is_killed_while_it_starts_is_succeeded(values, monkeypatch):
    """As by the kernel's out-of-memory killer: that says nothing of the next one."""
    monkeypatch.setenv("FAKE", "killed")
    with launch.connect(values) as sock:
        assert pings(sock)
    assert len(starts(values)) == 2


def test_one_that_never_listens_is_waited_for_until_the_timeout(values, monkeypatch):
    monkeypatch.setenv("FAKE", "deaf")
    with pytest.raises(SupervisorError, match="was started and does not listen"):
        launch.connect(values, timeout=0.5)


def test_who_waits_for_one_that_says_nothing_takes_the_one_that_others_have_started(values, monkeypatch):
    """It was stopped before it had the lock, so after three seconds another process starts another one."""
    monkeypatch.setenv("FAKE", "stuck")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(launch.connect, values, timeout=30)
        wait_for(lambda: Path(values.socket + ".stuck").exists(), 20)
        monkeypatch.delenv("FAKE")
        with launch.connect(values, timeout=20) as sock:
            assert pings(sock)
            with first.result(10) as found:
                assert pings(found)
    assert len(starts(values)) == 1
    kill(int(Path(values.socket + ".stuck").read_text()))


def test_no_python_to_run_is_told(values, monkeypatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python3")
    with pytest.raises(SupervisorError, match="/nowhere/python3: No such file"):
        launch.connect(values)


def test_where_another_program_embeds_python_its_interpreter_is_used(values, monkeypatch):
    monkeypatch.setattr("sys.executable", "/usr/bin/uwsgi")
    with launch.connect(values) as sock:
        assert pings(sock)


@pytest.mark.parametrize("shown", [False, True])
def test_a_supervisor_holds_a_starters_standard_error_only_if_it_is_a_service(values, shown):
    """Whoever captures a script's output reads to its end, and must not wait for the supervisor's."""
    code = f"""
from poolmgr import launch, settings
from poolmgr import spawn
if {shown}: spawn.show_output()
launch.connect(settings.load())
"""
    script = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, cwd=ROOT)
    assert script.wait(30) == 0
    assert script.stderr is not None
    with launch.connect(values, start=False) as sock, script.stderr:
        assert pings(sock)
        ended = select.select([script.stderr], [], [], 0)[0] and os.read(script.stderr.fileno(), 1) == b""
        assert bool(ended) is not shown


def test_a_file_that_is_no_socket_is_refused(values):
    Path(values.socket).touch()
    with pytest.raises(SupervisorError, match="is not a socket: remove it"):
        launch.connect(values)


def test_a_missing_directory_is_told(monkeypatch, short_dir):
    monkeypatch.setenv("POOLMGR_SOCKET", f"{short_dir}/no/where/s")
    with pytest.raises(SupervisorError, match=f"No such file or directory.*mkdir -p -m 700 {short_dir}/no/where"):
        launch.connect(settings.load())


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a socket away")
def test_another_users_socket_is_refused(values):
    with fake_supervisor.in_thread(values.socket):
        os.chown(values.socket, 12345, 12345)
        with pytest.raises(
            SupervisorError, match=r"belongs to uid 12345, not to us \(uid 0\): run this as that user, or set"
        ):
            launch.connect(values)


@pytest.mark.root
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_another_users_process_is_refused_though_the_socket_looks_right(values, short_dir):
    short_dir.chmod(0o777)
    ready, go = os.pipe()
    child = os.fork()
    if child == 0:  # listens as another user, on a socket that root has made its own again
        os.setresuid(12345, 12345, 12345)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(values.socket)
        listener.listen()
        os.write(go, b".")
        signal.pause()
        os._exit(0)
    try:
        os.read(ready, 1)
        os.chown(values.socket, 0, 0)
        with pytest.raises(SupervisorError, match="the process listening at .* belongs to uid 12345"):
            launch.connect(values)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(go)
