"""Access to the socket: accepts clients, asks the kernel who they are, turns others away.

What the kernel says about the peer decides access (SO_PEERCRED, unix(7)), never what the peer says. Running out of file
descriptors stops accepting for a moment, and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable

from poolmgr import wire
from poolmgr.kernel import processes
from poolmgr.kernel.peer import Peer, caller
from poolmgr.supervisor.clients.link import Link, Receiver, limited

AT_ONCE = 256
"""Clients accepted in one turn of the loop."""

PAUSE = 0.2
"""Seconds without accepting when descriptors have run out."""

SPARE = 64
"""Descriptors kept for everything but clients."""


class Listener:
    """Accepts on a listening socket.

    Args:
        descriptors: this process's limit of open files; each client needs two.
        group: a group whose processes may come in too; None: only the same user's.
    """

    def __init__(
        self,
        listener: socket.socket,
        receiver: Receiver,
        *,
        descriptors: int,
        group: int | None = None,
        came: Callable[[Link], None],
    ) -> None:
        self._listener = listener
        self._receiver = receiver
        self._most = max(8, (descriptors - SPARE) // 2)
        self._group = group
        self._came = came
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self.links: set[Link] = set()
        listener.setblocking(False)

    def open(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        """Accept no more clients; connected ones stay."""
        self._loop.remove_reader(self._listener)

    def move(self, listener: socket.socket) -> None:
        """Listen on another socket from now on. Clients waiting at the old one are accepted first."""
        self.close()
        while self.knocks() and self._accept():
            pass
        self._listener.close()
        listener.setblocking(False)
        self._listener = listener
        self.open()

    def knocks(self) -> bool:
        """Whether a client waits to be accepted."""
        return processes.readable(self._listener.fileno())

    def _accept(self) -> bool:
        """Accept the waiting clients. Returns whether there may be more."""
        for _ in range(AT_ONCE):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return True
            except OSError as error:
                if error.errno not in processes.EXHAUSTED:
                    raise
                limited("door.exhausted", error=error.strerror)
                self.close()
                self._loop.call_later(PAUSE, self.open)
                return False
            self._enter(sock)
        return True

    def _enter(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        try:
            peer = caller(sock)
        except OSError:
            sock.close()
            return
        reason = self._objection(peer)
        if reason:
            limited("client.refused", member=peer.pid, uid=peer.uid, reason=reason)
            try:
                sock.send(wire.encode(wire.Refused(reason)))
            except OSError:
                pass
            sock.close()
            if peer.pidfd >= 0:
                os.close(peer.pidfd)
            return
        link = Link(peer, self._receiver, self._loop.time())
        self.links.add(link)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: link, sock))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._came(link)

    def _objection(self, peer: Peer) -> str:
        """Why this process may not come in; empty if it may."""
        if peer.uid != os.getuid() and peer.uid != 0 and not self._in_group(peer):
            return f"this supervisor serves uid {os.getuid()} only, and you are uid {peer.uid}"
        if peer.pid == 0:
            return (
                "your process id cannot be seen from here: you run in another pid namespace (a container). "
                "Let both share one (shareProcessNamespace: true in a pod, pid: in a compose file), or run a "
                "supervisor inside it with a POOLMGR_SOCKET of its own"
            )
        if len(self.links) >= self._most:
            return f"too many clients ({len(self.links)}): raise the supervisor's limit of open files"
        return ""

    def _in_group(self, peer: Peer) -> bool:
        if self._group is None:
            return False
        return peer.gid == self._group or self._group in _groups(peer.pid)


def _groups(pid: int) -> list[int]:
    """A process's supplementary groups, as the kernel knows them (proc(5))."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            for line in lines:
                if line.startswith("Groups:"):
                    return [int(group) for group in line.split()[1:]]
    except (OSError, ValueError, struct.error):
        pass
    return []
