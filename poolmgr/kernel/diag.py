"""The kernel's TCP connections to one address, asked over netlink (sock_diag(7)).

The kernel looks through its connections and hands out those to this address. ``/proc/net/tcp`` would be the text of all
the host's connections, those in TIME_WAIT included. Any user may ask. A sandbox may forbid it (``AF_NETLINK`` is not in
its ``RestrictAddressFamilies=``), and a kernel may lack it.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

Address = tuple[str, int]

_SOCK_DIAG = 4
_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_DUMP = 0x301
"""NLM_F_REQUEST and NLM_F_DUMP (netlink(7))."""
_ESTABLISHED = 1 << 1
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")
"""``inet_diag_req_v2`` (include/uapi/linux/inet_diag.h): family, protocol, extensions, states; no certain socket."""
_FILTER = struct.Struct("=HHBBHBBxxi")
"""An attribute with one operation, "the other end is this address": ``inet_diag_bc_op`` and ``inet_diag_hostcond``."""
_BYTECODE, _OTHER_END = 1, 8
_INODE = struct.Struct("=68xI")
"""The inode in an ``inet_diag_msg``."""

WITHIN = 1.0
"""Seconds to wait for each part of the answer, which the kernel makes while it is read."""


def inodes(address: Address) -> Iterator[int]:
    """The inodes of the established connections to it, those of all processes.

    Raises:
        OSError: the kernel cannot be asked.
    """
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    end = socket.inet_pton(family, host.partition("%")[0])
    length = _FILTER.size - 4 + len(end)
    only = _FILTER.pack(4 + length, _BYTECODE, _OTHER_END, length, length + 4, family, 8 * len(end), port) + end
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ESTABLISHED) + only
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _SOCK_DIAG) as sock:
        sock.settimeout(WITHIN)
        sock.send(_HEADER.pack(_HEADER.size + len(body), _BY_FAMILY, _DUMP, 1, 0) + body)
        while True:
            answer = sock.recv(1 << 16)
            at = 0
            while at < len(answer):
                size, kind, *_ = _HEADER.unpack_from(answer, at)
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    (number,) = struct.unpack_from("=i", answer, at + _HEADER.size)
                    raise OSError(-number, os.strerror(-number))
                if kind != _BY_FAMILY or size < _HEADER.size + _INODE.size:
                    raise OSError(errno.EPROTO, "sock_diag answers in its own way")
                yield _INODE.unpack_from(answer, at + _HEADER.size)[0]
                at += (size + 3) & ~3
