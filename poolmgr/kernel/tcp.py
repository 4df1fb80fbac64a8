"""What the kernel knows about a process's connections to a server: one of the three truths of the audit.

This module reads ``/proc/net/tcp`` once, and the descriptors of the given processes; psutil would read the table
again for each process. The peers of Unix sockets cannot be seen from outside at all.
"""

from __future__ import annotations

import os
import socket
import struct
from collections import Counter
from collections.abc import Collection, Iterable

Address = tuple[str, int]

_ESTABLISHED = "01"


def connections(pids: Iterable[int], servers: Collection[Address]) -> dict[tuple[int, Address], int]:
    """How many established TCP connections each process has to each of these addresses. Processes
    whose descriptors cannot be read are left out of the keys entirely."""
    inodes: dict[str, Address] = {}
    for name in ("tcp", "tcp6"):
        inodes.update(_table(f"/proc/net/{name}", servers))
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


def _table(path: str, servers: Collection[Address]) -> dict[str, Address]:
    """Established connections to these servers, by what ``/proc/PID/fd`` calls them."""
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
