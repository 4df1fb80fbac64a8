"""What can befall a snapshot on disk while its supervisor is stopped or gone: each function damages the file."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import msgspec

from poolmgr.supervisor.disk import snapshot


def truncated(path: Path) -> None:
    os.truncate(path, 20)


def cut_in_half(path: Path) -> None:
    """One of its two copies is left, perhaps the older one."""
    os.truncate(path, path.stat().st_size // 2)


def of_another_boot(path: Path) -> None:
    slots = path.read_bytes()
    half = len(slots) // 2
    made = bytearray(len(slots))
    head = struct.Struct(">8sIQIII")
    for at in (0, half):
        magic, number, generation, capacity, length, _ = head.unpack_from(slots, at)
        if not length:
            continue
        contents = msgspec.msgpack.decode(slots[at + head.size : at + head.size + length])
        body = msgspec.msgpack.encode({**contents, "boot": "ffffff"})
        made[at : at + head.size] = head.pack(magic, number, generation, capacity, len(body), zlib.crc32(body))
        made[at + head.size : at + head.size + len(body)] = body
    path.write_bytes(made)


def of_another_version(path: Path) -> None:
    """Of a later one, that a downgrade finds."""
    slots = bytearray(path.read_bytes())
    for at in (0, len(slots) // 2):
        slots[at + 8 : at + 12] = (max(snapshot.READABLE) + 1).to_bytes(4, "big")
    path.write_bytes(slots)


def missing(path: Path) -> None:
    path.unlink()
