"""When a process ends, or becomes another program (rule S3).

A process is identified by its pid *and* its start time, and followed by a pidfd, which becomes readable when the
process has ended (pidfd_open(2)); a reused pid can fool neither. A process that becomes another program keeps all
three. So whenever its link closes (``exec`` closes it), and while it has none, its auxiliary vector is compared, and a
mapping that its program has made is searched for (:func:`processes.mark`). The vector, which is quick to read, is also
compared from time to time.

This module must never decide what an exit means; it calls ``gone`` once for each process.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from poolmgr.budget.accounts import Identity
from poolmgr.kernel.processes import EXHAUSTED, became_another, differs, is_the_one, readable


class Watch:
    """Follows processes by one pidfd each, in the event loop's selector.

    Args:
        gone: called with the tag, in the event loop, once, when a process is no longer there.
    """

    SLICE = 20
    """How many processes one tick looks at for ``exec``: a thousand take some ten seconds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, gone: Callable[[str], None] = lambda tag: None) -> None:
        self._loop = loop
        self.gone = gone
        self._of: dict[str, tuple[Identity, int]] = {}
        self._turn: list[str] = []

    def add(self, process: Identity, pidfd: int = -1) -> bool:
        """Follow it. False: it is gone. Owns ``pidfd`` in either case."""
        if process.tag in self._of:
            if pidfd >= 0:
                os.close(pidfd)
            return True
        self._of[process.tag] = process, -1
        return self._follow(process, pidfd)

    def _follow(self, process: Identity, pidfd: int = -1) -> bool:
        """Put a pidfd in the selector, now or (descriptors have run out) at a later tick. False: the process is
        gone."""
        try:
            fd = pidfd if pidfd >= 0 else os.pidfd_open(process.pid)
        except OSError as error:
            if error.errno in EXHAUSTED:
                return True
            del self._of[process.tag]
            return False
        # The start time is compared after the pidfd is ours: the pid cannot change hands any more.
        if readable(fd) or not is_the_one(process):
            os.close(fd)
            del self._of[process.tag]
            return False
        self._of[process.tag] = process, fd
        self._loop.add_reader(fd, self._ended, process.tag)
        return True

    def _ended(self, tag: str) -> None:
        self.remove(tag)
        self.gone(tag)

    def check(self, tag: str) -> None:
        """Check now: its link has closed, or its pid has come with another tag."""
        self._check(tag, became_another)

    def _check(self, tag: str, is_another: Callable[[Identity], bool]) -> None:
        process, fd = self._of.get(tag, (None, -1))
        if process is None:
            return
        if fd < 0:
            if not self._follow(process):
                self.gone(tag)
        elif readable(fd) or is_another(process):
            self._ended(tag)

    def remove(self, tag: str) -> None:
        known = self._of.pop(tag, None)
        if known is not None and known[1] >= 0:
            self._loop.remove_reader(known[1])
            os.close(known[1])

    def tick(self) -> None:
        """Check some of them; called a few times a second."""
        if not self._turn:
            self._turn = list(self._of)
        now, self._turn = self._turn[: self.SLICE], self._turn[self.SLICE :]
        for tag in now:
            self._check(tag, differs)

    def close(self) -> None:
        for tag in list(self._of):
            self.remove(tag)
