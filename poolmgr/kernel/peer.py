"""Which process is at the other end of a Unix socket, as the kernel saw it (unix(7))."""

from __future__ import annotations

import os
import socket
import struct

import msgspec

SO_PEERPIDFD = 77
"""Linux 6.5: the pidfd of the process that connected (include/uapi/asm-generic/socket.h)."""

_UCRED = struct.Struct("iII")


class Peer(msgspec.Struct, frozen=True):
    """The process at the other end. A ``pid`` of 0 means one in a pid namespace that we cannot see. ``pidfd``: -1 where
    there is none, or none was asked for; the receiver owns it."""

    pid: int
    uid: int
    gid: int
    pidfd: int = -1


def peer(sock: socket.socket) -> Peer | None:
    """The process that listens on the other end, or has connected; None where the system cannot tell.

    Raises:
        OSError: this socket cannot tell.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    return Peer(*_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, option, _UCRED.size)))


def caller(sock: socket.socket) -> Peer:
    """The process that has connected, with a pidfd where the kernel gives one."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    pidfd = -1
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
        os.set_inheritable(pidfd, False)
    except OSError:  # an older kernel, or the process has ended already
        pass
    return Peer(pid, uid, gid, pidfd)
