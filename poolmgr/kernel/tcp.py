"""What the kernel knows about a process's connections to a server: one of the three truths of the audit.

This module asks the kernel for the connections to the servers, and reads the descriptors of the given processes. Where
the kernel cannot be asked it reads ``/proc/net/tcp``, once; psutil would read that for each process. The peers of Unix
sockets cannot be seen from outside at all.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Collection, Iterable

from poolmgr.kernel import diag
from poolmgr.kernel.diag import Address

_ESTABLISHED = "01"


def connections(pids: Iterable[int], servers: Collection[Address]) -> dict[tuple[int, Address], int]:
    """How many established TCP connections each process has to each of these addresses. Processes
    whose descriptors cannot be read are left out of the keys entirely."""
    inodes = _connected(servers)
    counts: dict[tuple[int, Address], int] = {}
    for pid in pids:
        try:
            held = Counter(inodes[link] for link in _sockets(pid) if link in inodes)
        except OSError:
            continue
        for address in servers:
            counts[pid, address] = held[address]
    return counts


def _sockets(pid: int) -> Iterable[str]:
    """``socket:[INODE]`` of each descriptor (proc(5)); several descriptors of one socket count once."""
    found = set()
    with os.scandir(f"/proc/{pid}/fd") as entries:
        for entry in entries:
            try:
                found.add(os.readlink(entry.path))
            except FileNotFoundError:
                continue
    return found


def _connected(servers: Collection[Address]) -> dict[str, Address]:
    """Established connections to these servers, by what ``/proc/PID/fd`` calls them."""
    try:
        return {f"socket:[{inode}]": address for address in servers for inode in diag.inodes(address)}
    except OSError:
        return {**_table("/proc/net/tcp", servers), **_table("/proc/net/tcp6", servers)}


def _table(path: str, servers: Collection[Address]) -> dict[str, Address]:
    """The same, out of a table that has all connections of the host: ten thousand lines are nothing unusual."""
    wanted = {_encoded(address): address for address in servers}
    found: dict[str, Address] = {}
    try:
        with open(path) as lines:
            next(lines, None)
            for line in lines:
                fields = line.split(None, 10)
                address = wanted.get(fields[2])
                if address is not None and fields[3] == _ESTABLISHED:
                    found[f"socket:[{fields[9]}]"] = address
    except OSError:
        pass
    return found


def _encoded(address: Address) -> str:
    """An address as ``/proc/net/tcp`` writes it: each 32-bit word in the host's own byte order."""
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    data = socket.inet_pton(family, host.partition("%")[0])
    words = struct.unpack(f"={len(data) // 4}I", data)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
