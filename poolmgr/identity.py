"""Names by which processes and their connections are recognised.

A *tag* names a process on the server: ``pm1.PLACE.BOOT.PID.START.RANDOM``. A connection's name is
its process's tag, a dash and a serial number, a dot and the *scope*, after the user's own client name if
there is one. The supervisor reads these names back from ``CLIENT LIST`` (rule S3) to prove that connections
are gone.

*Scope* says under which supervisor's ledger a connection was made. It is random, made with the first lock
file of a boot (:mod:`poolmgr.supervisor.scope`), and told to members when they register. *Boot* is a hash of the
kernel's boot id, which a clone of this machine does not share. *Place* is a hash of the machine id, the host
name, the process-id namespace, the user and the supervisor's socket path. An image or a lease can share or
change these, so it is no identity: it only says that something may be ours, and is to be counted. (Version 0.1.0
took it for the scope, and refuses who bears another.)
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import socket
from pathlib import Path

import msgspec

from poolmgr.loading import load

_TAG = re.compile(r"pm1\.([0-9a-f]{8})\.([0-9a-f]{6})\.(\d+)\.(\d+)\.([0-9a-f]{6})(?:-(\d+)(?:\.([0-9a-f]{16}))?)?")

_SHARED = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/zero \(deleted\)$", re.MULTILINE)


class Tag(msgspec.Struct, frozen=True):
    """A tag taken apart. ``serial`` is 0 where the text names no single connection; ``scope`` is empty where it
    bears none."""

    place: str
    boot: str
    pid: int
    start: int
    salt: str
    serial: int = 0
    scope: str = ""

    @property
    def process(self) -> str:
        """The tag of the process, without the serial number and the scope."""
        return f"pm1.{self.place}.{self.boot}.{self.pid}.{self.start}.{self.salt}"


def find(text: str) -> Tag | None:
    """The tag inside a client name or ``LIB-NAME``, or None."""
    match = _TAG.search(text)
    if match is None:
        return None
    place, boot, pid, start, salt, serial, scope = match.groups()
    return Tag(place, boot, int(pid), int(start), salt, int(serial or 0), scope or "")


def name(tag: str, serial: int, scope: str) -> str:
    """The name of a connection; the scope is empty where the supervisor has told none (version 0.1.0)."""
    return f"{tag}-{serial}.{scope}" if scope else f"{tag}-{serial}"


def _digest(length: int, *parts: str) -> str:
    return hashlib.blake2s("\0".join(parts).encode()).hexdigest()[:length]


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def boot_id() -> str:
    """The kernel's name for this boot; empty where the system has none."""
    return _read("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """Six hexadecimal digits that change with every boot of this host."""
    return _digest(6, boot_id())


def pid_namespace() -> int:
    """Inode of this process's pid namespace; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def namespaces() -> int:
    """A number of the namespaces in which a pid and a start time mean the same process: the pid namespace, and by how
    many seconds the time of boot is off in the time namespace (time_namespaces(7))."""
    seconds = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/timens_offsets").read_text().splitlines():
            if line.startswith("boottime"):
                seconds = int(line.split()[1])
    return pid_namespace() + (seconds << 32)


def finds(pid: int, path: str) -> bool | None:
    """Whether ``path`` leads a process to the same file as us; None: that cannot be seen.

    It does not in a mount namespace with another directory there (systemd's ``PrivateTmp=``).
    """
    try:
        ours = os.stat(path)
    except OSError:
        return None
    try:
        return os.path.samestat(ours, os.stat(f"/proc/{pid}/root{path}"))
    except FileNotFoundError:
        return False if os.path.exists(f"/proc/{pid}") else None
    except OSError:
        return None


def place(socket_path: str) -> str:
    """Eight hexadecimal digits, equal for all processes that may share the supervisor at ``socket_path``."""
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


def is_over(pid: int) -> bool:
    """Whether every thread of a process has ended, so that it holds no file any more. A debugger may keep such a
    process for as long as it likes (ptrace(2)), and its pidfd is not readable meanwhile."""
    try:
        states = [stat.read_bytes().rpartition(b")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (OSError, IndexError):  # one has gone just now
        return False
    return bool(states) and all(state in (b"Z", b"X") for state in states)


_marks: list[object] = []
_mark = 0


def mark() -> int:
    """The kernel's number of a mapping that this program has as long as it runs; 0 where there can be none.

    ``exec`` takes all mappings away. Without address-space randomisation (``setarch -R``, a debugger, some containers)
    that is all that tells a program from the next one: every address is the same. A forked child has it as well.
    """
    global _mark
    for _ in range(3 if not _mark else 0):
        try:
            before = _mapped("self")
            made = load("mmap").mmap(-1, 4096)  # shared memory without a file: the kernel numbers it (shmem)
            new = _mapped("self") - before
        except (ImportError, OSError, ValueError):
            break
        if len(new) == 1:  # else another thread has made one meanwhile
            _marks.append(made)
            (_mark,) = new
            break
    return _mark


def bears(pid: int, mark: int) -> bool:
    """Whether a process still has this mapping. What cannot be looked at proves nothing, and counts as one that has."""
    try:
        found = _mapped(str(pid))
    except OSError:
        return True
    return mark in found


def _mapped(process: str) -> set[int]:
    """The numbers of a process's shared mappings without a file (proc(5), ``maps``).

    Raises:
        OSError: they cannot be seen, or its memory is gone.
    """
    text = Path(f"/proc/{process}/maps").read_bytes()
    if not text:
        raise ProcessLookupError(process)
    return {int(number) for number in _SHARED.findall(text)}


def make(socket_path: str) -> str:
    """A fresh tag for the calling process."""
    pid = os.getpid()
    return f"pm1.{place(socket_path)}.{boot()}.{pid}.{start_time(pid)}.{secrets.token_hex(3)}"
