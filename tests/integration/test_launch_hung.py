"""A supervisor that hangs is replaced, and so is the lock of a process that was stopped while it started one."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from poolmgr import launch, settings
from poolmgr.exceptions import SupervisorError
from poolmgr.kernel.lockfile import give_sign, holder, is_locked, silence
from poolmgr.launch import remedies
from poolmgr.launch.dial import dial, locked
from tests.fake_supervisor import pings, starts
from tests.helpers import alive, kill, wait_for
from tests.threads import Calls, meanwhile


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "MODULE", "tests.fake_supervisor")


@pytest.fixture
def values(isolated: Path) -> settings.Settings:
    return settings.load()


def silence_it(values: settings.Settings, pid: int) -> None:
    """As if it had been stopped for long: its last sign of life is old."""
    os.kill(pid, signal.SIGSTOP)
    os.utime(values.socket + ".lock", (0, 0))


def test_a_stopped_supervisor_is_killed_and_replaced(values):
    with launch.connect(values) as sock:
        (first,) = starts(values)
        silence_it(values, first)
        assert launch.replace_hung(values, sock) is True
    wait_for(lambda: not alive(first))
    with launch.connect(values) as sock:
        assert pings(sock)
    assert len(starts(values)) == 2


def test_one_whose_queue_is_full_is_found_by_its_lock(values):
    with launch.connect(values):
        (first,) = starts(values)
        silence_it(values, first)
        waiting = []
        with pytest.raises(SupervisorError, match="does not accept connections"):
            for _ in range(50):
                waiting.append(launch.connect(values, timeout=0.05))
        assert launch.replace_hung(values) is True
        for sock in waiting:
            sock.close()
    assert not alive(first)


def test_one_that_answers_is_left_alone(values):
    with launch.connect(values) as sock:
        assert launch.replace_hung(values, sock) is False
        assert pings(sock)


def test_one_that_gives_signs_of_life_is_left_alone_though_it_does_not_answer(values):
    """It is slow, on a busy machine."""
    with launch.connect(values) as sock:
        (first,) = starts(values)
        silence_it(values, first)
        ends = threading.Event()

        def give_signs() -> None:
            while not ends.wait(0.05):
                give_sign(values.socket + ".lock")

        with meanwhile(give_signs, ended=ends):
            wait_for(lambda: silence(values.socket + ".lock") < 1)
            assert launch.replace_hung(values, sock) is False
    kill(first)


def test_a_successor_is_left_alone(values):
    with launch.connect(values) as old:
        (first,) = starts(values)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: not alive(first))
        with launch.connect(values) as new:
            assert launch.replace_hung(values, old) is False
            assert pings(new)


def test_only_the_process_that_listens_now_is_killed(values):
    with launch.connect(values) as old:
        (first,) = starts(values)
        for name in (values.socket, values.socket + ".lock"):
            os.unlink(name)
        with launch.connect(values):
            second = starts(values)[1]
            os.kill(second, signal.SIGSTOP)
            assert launch.replace_hung(values, old) is False
            assert alive(first)
            assert alive(second)
            kill(second)
        kill(first)


@pytest.mark.parametrize(
    ("booted", "remedy"),
    [
        pytest.param(True, "run: systemctl restart poolmgr", id="systemd"),
        pytest.param(False, "restart its container", id="container"),
    ],
)
def test_a_process_that_is_no_supervisor_is_never_killed(values, monkeypatch, tmp_path, booted, remedy):
    monkeypatch.setattr(remedies, "BOOTED", str(tmp_path if booted else tmp_path / "none"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(values.socket)
    child = os.fork()
    if child == 0:
        listener.listen()
        signal.pause()
        os._exit(0)
    try:
        sock = wait_for(lambda: dial(values.socket, time.monotonic()))
        assert sock is not None
        with sock, pytest.raises(SupervisorError, match=rf"process {child}.* was not started by us; {remedy}$"):
            launch.replace_hung(values, sock)
        assert alive(child)
    finally:
        kill(child)
        os.waitpid(child, 0)
        listener.close()


# ---- locks -----------------------------------------------------------------------------------


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(short_dir):
    path = str(short_dir / "lock")
    order: list[str] = []
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with locked(path, time.monotonic() + 5):
            inside.set()
            leave.wait(5)
            os.unlink(path)
            order.append("first")

    def second() -> None:
        inside.wait(5)
        with locked(path, time.monotonic() + 5):
            assert is_locked(path), "the lock that is held is the one that the name leads to"
            order.append("second")

    both = Calls(first, second)
    inside.wait(5)
    leave.set()
    both.join()
    assert order == ["first", "second"]


def test_a_child_does_not_keep_the_lock_of_a_process_that_was_killed_while_it_held_it(short_dir):
    path = str(short_dir / "lock")
    reading, writing = os.pipe()
    holds = os.fork()
    if holds == 0:
        with locked(path, time.monotonic() + 5):
            child = os.fork()
            if child == 0:
                signal.pause()
            os.write(writing, str(child).encode())
            signal.pause()
    child = int(os.read(reading, 100))
    try:
        assert is_locked(path)
        kill(holds)
        os.waitpid(holds, 0)
        wait_for(lambda: not is_locked(path), what="the child has closed its copy")
        assert alive(child)
    finally:
        kill(child)
        os.close(reading)
        os.close(writing)


def test_who_was_stopped_while_it_started_a_supervisor_keeps_nobody_from_starting_one(values):
    with locked(values.socket + ".launch", time.monotonic() + 5), launch.connect(values, timeout=4) as sock:
        assert pings(sock)


def test_the_lock_of_whoever_was_stopped_is_replaced(short_dir):
    """All see since when it is held, so that nobody has to have waited for that long."""
    path = str(short_dir / "lock")
    with locked(path, time.monotonic() + 5):
        os.utime(path, (0, 0))
        with locked(path, time.monotonic() + 5):
            assert holder(path) == os.getpid()
            assert silence(path) < 60
    assert not is_locked(path)


def test_a_lock_that_is_not_given_back_is_told_of(short_dir):
    path = str(short_dir / "lock")
    with locked(path, time.monotonic() + 5):
        assert is_locked(path)
        assert holder(path) == os.getpid()
        with pytest.raises(SupervisorError, match="stays locked"), locked(path, time.monotonic() + 0.05):
            pass
    assert not is_locked(path)
