"""Names by which processes and their connections are recognised.

A *tag* names a process on the server: ``pm1.SCOPE.BOOT.PID.START.RANDOM``. A connection's name is
its process's tag, a dash and a serial number, after the user's own client name if there is one. The
supervisor reads these names back from ``CLIENT LIST`` (rule S3) to prove that connections are gone.

*Scope* separates supervisors that must not fence each other's connections: it is a hash of the
machine id, the host name, the process-id namespace, the user and the supervisor's socket path.
*Boot* is a hash of the kernel's boot id, so that connections of an earlier boot can be told apart.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

import msgspec

_TAG = re.compile(r"pm1\.([0-9a-f]{8})\.([0-9a-f]{6})\.(\d+)\.(\d+)\.([0-9a-f]{6})(?:-(\d+))?")


class Tag(msgspec.Struct, frozen=True):
    """A tag taken apart. ``serial`` is 0 where the text names no single connection."""

    scope: str
    boot: str
    pid: int
    start: int
    salt: str
    serial: int = 0

    @property
    def process(self) -> str:
        """The tag of the process, without the serial number."""
        return f"pm1.{self.scope}.{self.boot}.{self.pid}.{self.start}.{self.salt}"


def find(text: str) -> Tag | None:
    """The tag inside a client name or ``LIB-NAME``, or None."""
    match = _TAG.search(text)
    if match is None:
        return None
    scope, boot, pid, start, salt, serial = match.groups()
    return Tag(scope, boot, int(pid), int(start), salt, int(serial or 0))


def _digest(length: int, *parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode()).hexdigest()[:length]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def boot() -> str:
    """Six hexadecimal digits that change with every boot of this host."""
    return _digest(6, _read("/proc/sys/kernel/random/boot_id"))


def pid_namespace() -> int:
    """Inode of this process's pid namespace; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def scope(socket_path: str) -> str:
    """Eight hexadecimal digits for all processes that may share the supervisor at ``socket_path``."""
    return _digest(
        8,
        _read("/etc/machine-id"),
        socket.gethostname(),
        str(pid_namespace()),
        str(os.getuid()),
        os.path.realpath(socket_path),
    )


def start_time(pid: int) -> int:
    """When a process started, in clock ticks after boot; 0 if unknown or gone.

    Field 22 of ``/proc/PID/stat`` (proc(5)); with the pid it names a process uniquely within a boot.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def program(pid: int) -> str:
    """A hash that changes when the process becomes another program by ``exec`` (rule S3).

    ``/proc/PID/auxv`` holds the addresses the kernel chose for the program, random bytes' address
    included; ``exec`` chooses anew while pid, start time and pidfd stay.
    """
    try:
        data = Path(f"/proc/{pid}/auxv").read_bytes()
    except OSError:
        return ""
    return hashlib.blake2s(data).hexdigest()[:16]


def make(socket_path: str) -> str:
    """A fresh tag for the calling process."""
    pid = os.getpid()
    return f"pm1.{scope(socket_path)}.{boot()}.{pid}.{start_time(pid)}.{secrets.token_hex(3)}"
