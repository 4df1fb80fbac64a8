"""The tag of this very process: the part of :mod:`poolmgr.tags` that asks the system for its values."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket

from poolmgr.kernel import processes


def _digest(length: int, *parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode()).hexdigest()[:length]


def boot() -> str:
    """Six hexadecimal digits that change with every boot of this host."""
    return _digest(6, processes.boot_id())


def place(socket_path: str) -> str:
    """Eight hexadecimal digits, equal for all processes that may share the supervisor at ``socket_path``."""
    return _digest(
        8,
        processes.read("/etc/machine-id"),
        socket.gethostname(),
        str(processes.pid_namespace()),
        str(os.getuid()),
        os.path.realpath(socket_path),
    )


def make(socket_path: str) -> str:
    """A fresh tag for the calling process."""
    pid = os.getpid()
    return f"pm1.{place(socket_path)}.{boot()}.{pid}.{processes.start_time(pid)}.{secrets.token_hex(3)}"
