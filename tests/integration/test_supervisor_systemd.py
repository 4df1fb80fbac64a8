"""What systemd gives to a supervisor and hears from it, without systemd: sd_listen_fds(3), sd_notify(3)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from poolmgr import wire
from poolmgr.supervisor.notify import Notify
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import ROOT, RedisServer, status_of

ACTIVATE = """
import os, socket, sys
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.bind(sys.argv[1])
sock.listen(64)
if sock.fileno() != 3:
    os.dup2(sock.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="poolmgr.socket")
os.execv(sys.executable, [sys.executable, "-m", "poolmgr.supervisor"])
"""


def test_a_passed_socket_is_served_and_left_in_place(short_dir: Path, redis_server: Callable[..., RedisServer]) -> None:
    path = str(short_dir / "activated")
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(str(short_dir / "notify"))
    ear.settimeout(60)
    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "POOLMGR_SOCKET": path,
        "NOTIFY_SOCKET": str(short_dir / "notify"),
        "WATCHDOG_USEC": "400000",
        "POOLMGR_LINGER": "5",
    }
    process = subprocess.Popen([sys.executable, "-c", ACTIVATE, path], env=environ, stdin=subprocess.DEVNULL)
    try:
        assert b"READY=1" in ear.recv(4096)
        member = FakeMember(path).connect().hello(endpoint_of(redis_server(maxclients=100).path))
        member.until(lambda m: m.limits)
        assert b"WATCHDOG=1" in ear.recv(4096)
        member.send(wire.Bye())
        assert status_of(process) == 0
        assert Path(path).exists(), "the socket is systemd's"
        assert not Path(path + ".snapshot").exists()
        said = b""
        while b"STOPPING=1" not in said:
            said = ear.recv(4096)
    finally:
        process.kill()
        process.wait()
        ear.close()


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify = Notify()
    notify(READY="1")
    assert notify.watchdog == 0


def test_a_listener_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    Notify()(READY="1")
    assert "NOTIFY_SOCKET" not in os.environ


def test_a_stopping_signal_does_not_kill_it_in_its_first_moment(short_dir: Path) -> None:
    """SIGTERM while it still starts ends it too, one way or the other."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "POOLMGR_SOCKET": str(short_dir / "early")}
    process = subprocess.Popen([sys.executable, "-m", "poolmgr.supervisor"], env=environ, stderr=subprocess.DEVNULL)
    process.send_signal(signal.SIGTERM)
    assert status_of(process) in (0, -signal.SIGTERM)
