"""The ledger on disk, for the next supervisor (rules S1 and S4).

A crash of the *process* is what this protects against, so nothing is ever synced to the disk: what a
process has written is seen by its successor whether or not the disk has it. A crash of the *host*
ends every member too, and the boot id then makes the file void.

One file holds two slots of equal size, written in turn, each with a generation and a checksum: a
writer killed in the middle of a slot leaves the other one whole. Each says how large the file is, so that
one that has lost its end is not taken for one whose newer slot was never told. Slots rather than one rename for
each write, because some file systems start to write a replaced file to the disk at once, and a busy
supervisor writes hundreds of times a second. The space is allocated when the file is made, so a disk
that fills up later does not stop the writing. Only growth makes a new file, which then replaces the
old one atomically.

It must never decide what an unusable snapshot means: :func:`read` says why it is unusable, and the
server does a census then. It never holds a secret: endpoints are in it by their keys.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from poolmgr import identity
from poolmgr.budget.accounts import Saved

FORMAT = 2
"""Number of the file's format. A file of another format is not read."""

_MAGIC = b"poolmgr\n"
_HEAD = struct.Struct(">8sIQIII")  # magic, number, generation, capacity of a slot, length, checksum
_SMALLEST = 1 << 16

_encoder = msgspec.msgpack.Encoder()


class Contents(msgspec.Struct, frozen=True):
    """What a slot holds.

    Attributes:
        boot, namespace, scope: as :mod:`poolmgr.identity` gives them; pids mean nothing elsewhere.
        saved: everything that rule S1 sums and whose it is; its ``owner`` is the supervisor that
            wrote it, by pid and start time.
    """

    boot: str
    namespace: int
    scope: str
    saved: Saved


_decoder = msgspec.msgpack.Decoder(Contents)


class UnusableError(Exception):
    """There is a snapshot and it cannot be used.

    Attributes:
        reason: ``unreadable``, ``truncated``, ``version``, ``boot``, ``namespace`` or ``scope``.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class SupersededError(Exception):
    """The lock file is no longer ours: another supervisor may run, so nothing may be written."""


def read(path: str, scope: str) -> Saved | None:
    """What the last supervisor left; None if there is no file.

    Raises:
        UnusableError: there is one, with the reason.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnusableError("unreadable", f"{path}: {error.strerror}") from None
    contents = _decode(path, _newest(path, data))
    if contents.boot != identity.boot():
        raise UnusableError("boot", f"{path} was written before this host was last started")
    if contents.namespace != identity.pid_namespace():
        raise UnusableError("namespace", f"{path} was written in another pid namespace")
    if contents.scope != scope:
        raise UnusableError("scope", f"{path} was written for another socket, user or host")
    return contents.saved


def _decode(path: str, body: bytes) -> Contents:
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is no UTF-8
        raise UnusableError("version", f"{path} does not hold what this version writes: {error}") from None


def _newest(path: str, data: bytes) -> bytes:
    """The body of the whole slot with the higher generation."""
    half = len(data) // 2
    formats = set()
    best: tuple[int, bytes] | None = None
    for at in (0, half):
        if len(data) - at < _HEAD.size:
            continue
        magic, number, generation, capacity, length, checksum = _HEAD.unpack_from(data, at)
        if magic != _MAGIC:
            continue
        formats.add(number)
        body = data[at + _HEAD.size : at + _HEAD.size + length]
        whole = number == FORMAT and len(data) == 2 * capacity and len(body) == length and zlib.crc32(body) == checksum
        if whole and (best is None or generation > best[0]):
            best = generation, body
    if best is not None:
        return best[1]
    if formats - {FORMAT}:
        raise UnusableError("version", f"{path} has format {max(formats)}, this version reads {FORMAT}")
    raise UnusableError("truncated", f"{path} holds no whole snapshot ({len(data)} bytes)")


class Writer:
    """Writes snapshots for one supervisor.

    Args:
        path: the file.
        scope: goes into it.
        ours: whether the lock is still ours; asked before every write.
    """

    def __init__(self, path: str, scope: str, ours: Callable[[], bool]) -> None:
        self.path = path
        self._scope = scope
        self._ours = ours
        self._boot = identity.boot()
        self._namespace = identity.pid_namespace()
        self._fd = -1
        self._capacity = 0
        self._generation = 0
        self.writes = 0

    def write(self, saved: Saved) -> None:
        """Put it on disk, whole or not at all.

        Raises:
            OSError: it could not be written; the one before still stands.
            SupersededError: the lock is no longer ours.
        """
        if not self._ours():
            raise SupersededError(self.path)
        body = _encoder.encode(Contents(self._boot, self._namespace, self._scope, saved))
        generation = self._generation + 1
        size = _HEAD.size + len(body)
        anew = self._fd < 0 or size > self._capacity or not self._in_place()
        capacity = _room_for(size) if anew else self._capacity
        slot = _HEAD.pack(_MAGIC, FORMAT, generation, capacity, len(body), zlib.crc32(body)) + body
        if anew:
            self._replace(slot, capacity)
        else:
            _put(self._fd, slot, generation % 2 * capacity)
        self._generation = generation
        self.writes += 1

    def _in_place(self) -> bool:
        """Whether the path still leads to the file we hold open."""
        try:
            there, here = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)

    def _replace(self, slot: bytes, capacity: int) -> None:
        """A new file, in place of the old one."""
        new = self.path + ".new"
        fd = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _allocate(fd, 2 * capacity)
            _put(fd, slot, (self._generation + 1) % 2 * capacity)
            os.replace(new, self.path)
        except BaseException:
            os.close(fd)
            raise
        self.close()
        self._fd, self._capacity = fd, capacity

    def remove(self) -> None:
        """Nothing is charged any more: the next supervisor starts from nothing."""
        if self._ours():
            for path in (self.path, self.path + ".new"):
                try:
                    os.unlink(path)
                except OSError:
                    pass
        self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _room_for(size: int) -> int:
    """A slot's capacity, large enough for what comes."""
    capacity = _SMALLEST
    while capacity < 2 * size:
        capacity *= 2
    return capacity


def _allocate(fd: int, size: int) -> None:
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.truncate(fd, size)


def _put(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done
