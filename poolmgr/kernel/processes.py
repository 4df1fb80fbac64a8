"""What the kernel says about a process: when it started, which program it runs, whether it has ended (rule S3).

A pid *and* a start time name a process; neither changes when the process becomes another program by ``exec``. Its
auxiliary vector changes then, and a mapping that its program made is gone (:func:`mark`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import select
from pathlib import Path
from typing import Protocol

from poolmgr.lazy import load
from poolmgr.native import poll


class Process(Protocol):
    """A process as its registration named it; ``mark`` is 0 where it has none."""

    @property
    def pid(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def program(self) -> str: ...
    @property
    def mark(self) -> int: ...


_SHARED = re.compile(rb"^\S+ \S+ \S+ \S+ (\d+) +/dev/zero \(deleted\)$", re.MULTILINE)


def read(path: str) -> str:
    """The text of a small file; empty where it cannot be read."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def boot_id() -> str:
    """The kernel's name for this boot; empty where the system has none."""
    return read("/proc/sys/kernel/random/boot_id")


def pid_namespace() -> int:
    """Inode of this process's pid namespace; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def namespaces() -> int:
    """A number for the namespaces in which a pid and a start time mean the same process: the pid namespace, and by
    how many seconds the time namespace shifts the time of boot (time_namespaces(7))."""
    seconds = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/timens_offsets").read_text().splitlines():
            if line.startswith("boottime"):
                seconds = int(line.split()[1])
    return pid_namespace() + (seconds << 32)


def finds(pid: int, path: str) -> bool | None:
    """Whether ``path`` leads a process to the same file as us; None: unknown.

    It does not if the process has a mount namespace with another directory there (systemd's ``PrivateTmp=``).
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

    ``/proc/PID/auxv`` holds the addresses the kernel chose for the program, including that of its random
    bytes. ``exec`` chooses new ones, while pid, start time and pidfd stay.
    """
    try:
        data = Path(f"/proc/{pid}/auxv").read_bytes()
    except OSError:
        return ""
    return hashlib.blake2s(data).hexdigest()[:16]


def is_over(pid: int) -> bool:
    """Whether every thread of a process has ended, so that it holds no file any more. A debugger may keep such a
    process without limit (ptrace(2)), and its pidfd is not readable meanwhile."""
    try:
        states = [stat.read_bytes().rpartition(b")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    except (OSError, IndexError):  # one has gone just now
        return False
    return bool(states) and all(state in (b"Z", b"X") for state in states)


_marks: list[object] = []


_mark = 0


def mark() -> int:
    """The kernel's number of a mapping that this program has as long as it runs; 0 where there can be none.

    ``exec`` removes all mappings. Without address-space randomisation (``setarch -R``, a debugger, some containers)
    only this mapping tells a program from the next one: every address is the same. A forked child has it as well.
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
    """Whether a process still has this mapping. A process we cannot inspect is presumed to have it."""
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


EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The system is out of resources at the moment. The errors say nothing else."""


def lives(process: Process) -> bool:
    """Whether the process runs, is not a zombie, and is still the same program.

    A process we cannot inspect (descriptors have run out) is presumed alive: only its end needs proof.
    """
    if process.pid <= 0:
        return False
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        return error.errno in EXHAUSTED
    try:
        return not readable(fd) and is_the_one(process) and not became_another(process)
    finally:
        os.close(fd)


def is_the_one(process: Process) -> bool:
    """Whether the live process with this pid is the one that was meant, not a later one. A process that cannot be read
    proves nothing."""
    return start_time(process.pid) in (process.start, 0)


def readable(fd: int) -> bool:
    """Whether reading from it would not block: for a pidfd, whether its process has ended."""
    waits = poll()
    waits.register(fd, select.POLLIN)
    return bool(waits.poll(0))


def became_another(process: Process) -> bool:
    """Whether its program differs. A program we cannot read (of another user's process) proves nothing."""
    return differs(process) or bool(process.mark and not bears(process.pid, process.mark))


def differs(process: Process) -> bool:
    """The quick half of :func:`became_another`, which sees nothing where all programs have the same addresses. A
    process that has ended under a debugger has no program any more."""
    now = program(process.pid)
    if not now:
        return is_over(process.pid)
    return bool(process.program and now != process.program)


def unfit() -> str:
    """Why this kernel cannot follow processes, with the remedy; empty: it can."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno not in EXHAUSTED:
            return f"a supervisor needs pidfds (Linux 5.3 or later), and this system has none: {error.strerror}"
    return ""
