"""A real supervisor for tests, started by hand and watched."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from poolmgr import wire
from tests import warm
from tests.fake_member import FakeMember, endpoint_of
from tests.helpers import ROOT, RedisServer, status_of, wait_for

IMPATIENT = {"REDIS_SOCKET_TIMEOUT": "0.3", "REDIS_SOCKET_CONNECT_TIMEOUT": "0.3"}
"""The environment of one that waits for a server's answer for a moment only."""


TAKES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1", LISTEN_FDNAMES="poolmgr.socket")
os.execv(sys.executable, [sys.executable, "-m", "poolmgr.supervisor"])
"""


class SupervisorProcess:
    """``python -m poolmgr.supervisor`` on a socket of the test's own; its log is parsed."""

    def __init__(self, path: str, **environ: str) -> None:
        self.path = path
        self.environ = {"POOLMGR_SOCKET": path, "POOLMGR_LOG_FORMAT": "json", **environ}
        self.log = Path(path + ".test-log")
        self.process: subprocess.Popen[bytes] | None = None
        self.command: list[str] = []
        """What its program is run with: ``unshare ...``."""
        self.ear: socket.socket | None = None

    def stays_listening(self) -> None:
        """Its socket is there before it and after it, as systemd's ``poolmgr.socket``: who connects meanwhile waits."""
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.ear.bind(self.path)
        self.ear.listen(64)

    def start(self, **environ: str) -> SupervisorProcess:
        self.process = self.spawn({**self.environ, **environ})
        wait_for(self.accepts, 10, what="the supervisor accepts")
        return self

    def spawn(self, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            if self.ear is not None:
                return subprocess.Popen(
                    [*self.command, sys.executable, "-c", TAKES, str(self.ear.fileno())],
                    env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                    pass_fds=(self.ear.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            return warm.Popen(
                [
                    *self.command,
                    sys.executable,
                    "-m",
                    _module(environ),
                ],
                env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def accepts(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                sock.connect(self.path)
            except OSError:
                return False
        return True

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """SIGKILL: the crash."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def forgets(self, *suffixes: str) -> None:
        """It is killed, and its successor finds no snapshot, or none of the files with these endings."""
        self.kill()
        for suffix in suffixes or (".snapshot",):
            Path(self.path + suffix).unlink()
        self.start()

    def terminate(self) -> int:
        """SIGTERM, as soon as it means more than an end at once: the socket listens before the program is loaded."""
        assert self.process is not None
        wait_for(self._heeds, what="the supervisor heeds SIGTERM")
        self.process.send_signal(signal.SIGTERM)
        return status_of(self.process)

    def _heeds(self) -> bool:
        """Whether it catches SIGTERM (proc(5), SigCgt), or has ended."""
        caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        return caught is None or bool(int(caught[1], 16) & 1 << signal.SIGTERM - 1) or not self.running

    def wait(self, timeout: float = 10.0) -> int:
        assert self.process is not None
        return status_of(self.process, timeout)

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        if self.running:
            assert self.process is not None
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        if self.ear is not None:
            self.ear.close()
        if self.log.exists():
            print(self.log.read_text())  # shown where the test has failed

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """Lines of its log, by event name."""
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if not name or event.get("event") == name:
                    found.append(event)
        return found

    def cut_off(self, server: RedisServer) -> None:
        """Have the server close this supervisor's connections; it has to connect again."""
        with server.observer() as observer:
            for row in observer.client_list():
                if f".{self.pid}." in row["name"]:
                    observer.execute_command("CLIENT", "KILL", "ID", row["id"])

    def member(self, **options: str) -> FakeMember:
        return FakeMember(self.path, **options).connect()

    def status(self) -> dict[str, Any]:
        """As a tool would ask for it."""
        tool = self.member()
        try:
            return tool.status()
        finally:
            tool.close()

    def server_of(self, name: str) -> dict[str, Any]:
        """The status of the server with that id."""
        (server,) = (server for server in self.status()["servers"] if server["id"] == name)
        found: dict[str, Any] = server
        return found

    def server(self) -> dict[str, Any]:
        """The status of the only server."""
        (server,) = self.status()["servers"]
        found: dict[str, Any] = server
        return found


Start = Callable[..., SupervisorProcess]
"""The fixture ``supervisor``."""

Pair = Callable[..., tuple[SupervisorProcess, RedisServer]]
"""The fixture ``pair``."""


def joined(running: SupervisorProcess, at: RedisServer | wire.Endpoint, **fields: Any) -> tuple[FakeMember, str]:
    """A member driven by hand that has its first limit, and the server's id."""
    endpoint = endpoint_of(at.path) if isinstance(at, RedisServer) else at
    member = running.member().hello(endpoint, **fields)
    member.until(lambda m: m.limits, what="a first limit")
    return member, member.resolved[endpoint.key]


def _module(environ: Mapping[str, str]) -> str:
    if environ.get("OFF"):
        return "tests.fleet.weakened"
    return "tests.hasty_supervisor" if environ.keys() & {"HASTY", "NAMES"} else "poolmgr.supervisor"
