"""The warm Python, as a process of pytest's sees it: started when it is first wanted, and ended with pytest."""

from __future__ import annotations

import atexit
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parent.parent.parent

CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
CLONE_PARENT = 0x8000
DEV = ["-X", "dev"]
LONGEST = 100_000
"""Bytes of a job; a packet on a Unix socket takes 200,000."""


class Warm:
    """The warm Python, as pytest's process sees it."""

    _ours: ClassVar[dict[bool, Warm | None]] = {}
    _pid = 0

    def __init__(self, dev: bool) -> None:
        self._link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Its path is that of a start without PYTHONPATH, after the working directory.
        theirs_not = ("POOLMGR_", "REDIS_", "PYTHONPATH")
        environ = {name: value for name, value in os.environ.items() if not name.startswith(theirs_not)}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, *(DEV if dev else ()), "-m", "tests.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environ, cwd=ROOT,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        self.able = self._link.recv(16) == b"able"

    @classmethod
    def ours(cls, dev: bool = False) -> Warm | None:
        """This process's own, if it can be had."""
        if cls._pid != os.getpid():
            cls._pid, cls._ours = os.getpid(), {}
        if dev not in cls._ours:
            cls._ours[dev] = None
            if CLONE is not None and sys.platform == "linux":
                made = cls(dev)
                cls._ours[dev] = made if made.able else None
                atexit.register(made.end, os.getpid())
        return cls._ours[dev]

    @classmethod
    def forget(cls) -> None:
        cls._ours = {False: None, True: None}

    def end(self, pid: int) -> None:
        if pid == os.getpid():
            self._link.close()
            self._process.wait(10)

    def fork(self, data: bytes, standard: list[int]) -> int:
        socket.send_fds(self._link, [b"%d" % len(data)], standard)
        self._link.sendall(data)
        return int(self._link.recv(32))


_lock = threading.Lock()


def _unlocked() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_unlocked)


def fork(job: dict[str, Any], standard: list[int]) -> int:
    """The new process's pid; 0 if there is no warm Python, or if it has ended."""
    data = json.dumps(job).encode()
    with _lock:
        warm = Warm.ours(job.get("dev", False)) if len(data) < LONGEST else None
        try:
            return warm.fork(data, standard) if warm is not None else 0
        except (OSError, ValueError):  # a test has killed it
            Warm.forget()
            return 0
