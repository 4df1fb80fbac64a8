"""Which process is at the other end of a socket, and when it ends (rule S3).

A process is named by its pid *and* its start time, and followed by a pidfd, which becomes readable
when the process has ended (pidfd_open(2)); neither can be fooled by a pid that is used again. A
process that becomes another program keeps all three. So whenever its link closes (``exec`` closes it), and while it has
none, its auxiliary vector is compared, and a mapping is looked for that its program has made (:func:`identity.mark`);
the vector, which is read quickly, from time to time besides.

This module must never decide what an exit means; it calls ``gone`` once for each process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import struct
from collections.abc import Callable

import msgspec

from poolmgr import identity
from poolmgr.budget.accounts import Identity

SO_PEERPIDFD = 77
"""Linux 6.5: the pidfd of the process that connected (include/uapi/asm-generic/socket.h)."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""The system has no more to give at the moment; nothing else is said by it."""

_UCRED = struct.Struct("iII")


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end, as the kernel names it. ``pidfd``: -1 where there is none; the
    receiver owns it."""

    pid: int
    uid: int
    gid: int
    pidfd: int = -1


def peer(sock: socket.socket) -> Peer:
    """Who connected. A pid of 0 means a process in a pid namespace that we cannot see."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    pidfd = -1
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        os.set_inheritable(pidfd, False)
    except OSError:  # an older kernel, or the process has ended already
        pass
    return Peer(pid, uid, gid, pidfd)


def lives(process: Identity) -> bool:
    """Whether the process runs, is not a zombie, and is still the same program.

    What cannot be found out (descriptors have run out) counts as alive: being gone is what needs proof.
    """
    if process.pid <= 0:
        return False
    try:
        fd = os.pidfd_open(process.pid)
    except OSError as error:
        return error.errno in EXHAUSTED
    try:
        return not readable(fd) and _is_the_one(process) and not _became_another(process)
    finally:
        os.close(fd)


def _is_the_one(process: Identity) -> bool:
    """Whether the live process of this pid is meant, and no later one. One that cannot be read proves nothing."""
    return identity.start_time(process.pid) in (process.start, 0)


def readable(fd: int) -> bool:
    """Whether reading from it would not block: for a pidfd, whether its process has ended."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _became_another(process: Identity) -> bool:
    """Whether its program differs. What cannot be read (of another user's process) proves nothing."""
    return _differs(process) or bool(process.mark and not identity.bears(process.pid, process.mark))


def _differs(process: Identity) -> bool:
    """The quick half of it, which sees nothing where all programs have the same addresses. What has ended in the
    hands of a debugger has no program any more."""
    now = identity.program(process.pid)
    if not now:
        return identity.is_over(process.pid)
    return bool(process.program and now != process.program)


def unfit() -> str:
    """Why this kernel cannot follow processes, with the remedy; empty: it can."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno not in EXHAUSTED:
            return f"a supervisor needs pidfds (Linux 5.3 or later), and this system has none: {error.strerror}"
    return ""


class Watch:
    """Follows processes by one pidfd each, in the event loop's selector.

    Args:
        gone: called with the tag, in the event loop, once, when a process is no longer there.
    """

    SLICE = 20
    """How many processes one tick looks at for ``exec``: a thousand take some ten seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[str], None]) -> None:
        self._loop = loop
        self._gone = gone
        self._of: dict[str, tuple[Identity, int]] = {}
        self._turn: list[str] = []

    def add(self, process: Identity, pidfd: int = -1) -> bool:
        """Follow it. False: it is not there any more. Owns ``pidfd`` in either case."""
        if process.tag in self._of:
            if pidfd >= 0:
                os.close(pidfd)
            return True
        self._of[process.tag] = process, -1
        return self._follow(process, pidfd)

    def _follow(self, process: Identity, pidfd: int = -1) -> bool:
        """Have a pidfd in the selector, now or (descriptors have run out) at a later tick. False: it is gone."""
        try:
            fd = pidfd if pidfd >= 0 else os.pidfd_open(process.pid)
        except OSError as error:
            if error.errno in EXHAUSTED:
                return True
            del self._of[process.tag]
            return False
        # The start time is compared after the pidfd is ours: the pid cannot change hands any more.
        if readable(fd) or not _is_the_one(process):
            os.close(fd)
            del self._of[process.tag]
            return False
        self._of[process.tag] = process, fd
        self._loop.add_reader(fd, self._ended, process.tag)
        return True

    def _ended(self, tag: str) -> None:
        self.remove(tag)
        self._gone(tag)

    def check(self, tag: str) -> None:
        """Look now: its link has closed, or its pid has come with another tag."""
        self._check(tag, _became_another)

    def _check(self, tag: str, is_another: Callable[[Identity], bool]) -> None:
        process, fd = self._of.get(tag, (None, -1))
        if process is None:
            return
        if fd < 0:
            if not self._follow(process):
                self._gone(tag)
        elif readable(fd) or is_another(process):
            self._ended(tag)

    def remove(self, tag: str) -> None:
        known = self._of.pop(tag, None)
        if known is not None and known[1] >= 0:
            self._loop.remove_reader(known[1])
            os.close(known[1])

    def tick(self) -> None:
        """Look at some of them; called a few times a second."""
        if not self._turn:
            self._turn = list(self._of)
        now, self._turn = self._turn[: self.SLICE], self._turn[self.SLICE :]
        for tag in now:
            self._check(tag, _differs)

    def close(self) -> None:
        for tag in list(self._of):
            self.remove(tag)
