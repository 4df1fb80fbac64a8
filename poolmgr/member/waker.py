"""Wakes a thread that waits in a selector, from anywhere: other threads, the garbage collector, signals."""

from __future__ import annotations

import contextlib
import os
import threading

from poolmgr.native import read, write


class Waker:
    """A pipe whose read end is watched. Neither side ever blocks, and there is no lock."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        self._poked = False
        self._inode = os.fstat(self._writer).st_ino

    def fileno(self) -> int:
        """The descriptor to watch for reading."""
        return self._reader

    def poke(self) -> None:
        """Wake the thread. Costs a system call only if it has not been woken already."""
        if self._poked or self._writer < 0 or self.is_cut_off():
            return
        try:
            self._poked = True
            write(self._writer, b"\0")
        except OSError:
            pass  # full: it is awake; closed: no thread sleeps
        except BaseException:  # of a signal handler: the byte may not be there
            self._poked = False
            raise

    def is_cut_off(self) -> bool:
        """Whether all descriptors of this process have been closed, as when it becomes a daemon. Our numbers
        are not ours then."""
        if self._writer < 0:
            return False
        try:
            return os.fstat(self._writer).st_ino != self._inode
        except OSError:
            return self._writer >= 0

    def disown(self) -> None:
        """Without closing anything."""
        self._reader = self._writer = -1

    def clear(self) -> None:
        """The woken thread calls this before it looks for events: later events wake it again.

        That look sees events between the two steps here. In the other order, their byte would be read here although
        the pipe counts as poked from then on; no further byte would come, and the thread would sleep forever.
        """
        try:
            read(self._reader, 4096)
        except BlockingIOError:
            pass
        finally:
            self._poked = False

    def __del__(self) -> None:
        if hasattr(self, "_writer"):
            self.close()

    def close(self) -> None:
        reader, writer = self._reader, self._writer
        self._reader = self._writer = -1  # first: no thread may write to a number that is another file's soon
        for descriptor in (reader, writer):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)


class Parker:
    """Wakes one waiting caller. A bare lock, not a :class:`threading.Event`: a signal handler's exception
    inside an Event's methods can leave it locked, and then a thread that sets it hangs."""

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Does not block."""
        with contextlib.suppress(RuntimeError):  # rung already
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait until it rings, or for ``timeout`` seconds; whether it rang."""
        return self._lock.acquire(timeout=timeout)
