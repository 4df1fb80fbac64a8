"""The ledger on disk, for the next supervisor (rules S1 and S4).

It protects against a crash of the *process*, so nothing is ever synced to the disk: the successor sees what a process
has written whether or not the disk has it. A crash of the *host* ends every member too, and the boot id then makes the
file void.

One file holds two slots of equal size, written in turn, each with a generation and a checksum: a writer killed in the
middle of a slot leaves the other one whole. Each slot says how large the file is, so a file that lost its end, and its
newer slot, is detected. Slots replace a rename for each write, because some file systems start to write a replaced file
to the disk at once, and a busy supervisor writes hundreds of times a second. The space is allocated when the file is
made, so a disk that fills up later does not stop the writing. Only growth makes a new file, which then replaces the old
one atomically.

Every snapshot has a number, which grows from one supervisor to the next. The lock file holds the number of the newest
(:func:`mark`), so a snapshot that was removed, or replaced by an older one, is detected. The mark is written after the
snapshot and before any message is sent. A crash in between leaves a snapshot newer than the mark; that one is good.

It must never decide what an unusable snapshot means: :func:`read` gives the reason, and the supervisor then takes a
census. It never holds a secret: endpoints are in it by their keys.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from poolmgr import own_tag
from poolmgr.budget.accounts import Saved
from poolmgr.kernel import processes

FORMAT = 2
"""Number of the file's format."""

WITH_LEASES = 3
"""Number of the same format while this host has a lease of a fleet. A version that knows of no fleet must not read it:
it would hand out more than the lease."""

READABLE = frozenset({FORMAT, WITH_LEASES})
"""Formats that are read. A file of another one is not."""

_MAGIC = b"poolmgr\n"
_HEAD = struct.Struct(">8sIQIII")  # magic, number, generation, capacity of a slot, length, checksum
_SMALLEST = 1 << 16
_MARK = re.compile(rb"([0-9a-f]{6}) (\d{20})\n")

_encoder = msgspec.msgpack.Encoder()


class Contents(msgspec.Struct, frozen=True):
    """What a slot holds.

    Attributes:
        boot, namespace: as in :mod:`poolmgr.tags`; pids and start times mean nothing elsewhere.
        scope: the *place* of :mod:`poolmgr.tags`, which version 0.1.0 compares. A host's name changes, so this one does
            not compare it.
        saved: everything that rule S1 sums, and its holders; ``owner`` is the supervisor that wrote it, by pid and
            start time.
    """

    boot: str
    namespace: int
    scope: str
    saved: Saved


_decoder = msgspec.msgpack.Decoder(Contents)


class UnusableError(Exception):
    """There is a snapshot and it cannot be used.

    Attributes:
        reason: ``unreadable``, ``truncated``, ``version``, ``boot``, ``namespace``, ``scope``, ``older``
            or ``missing``.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class SupersededError(Exception):
    """The lock file is no longer ours: another supervisor may run, so nothing may be written."""


def mark(generation: int, boot: str = "") -> bytes:
    """The lock file's text while this is the newest snapshot's number. Its length is constant, so that it is written in
    one piece."""
    return f"{boot or own_tag.boot()} {generation:020d}\n".encode()


def marked(text: bytes) -> int:
    """The number in the lock file; 0 if there is none, or one of an earlier boot.

    Raises:
        UnusableError: the file holds something else.
    """
    if not text:
        return 0
    found = _MARK.fullmatch(text)
    if found is None:
        raise UnusableError("older", "the lock file does not say which snapshot is the newest")
    return int(found[2]) if found[1].decode() == own_tag.boot() else 0


def read(path: str, scope: str = "", newest: int = 0) -> Saved | None:
    """What the last supervisor left; None if there is no file.

    Args:
        scope: the scope in our connections' names; empty: not known.
        newest: the number of the newest snapshot, from :func:`marked`.

    Raises:
        UnusableError: there is or was one; with the reason.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        if newest:
            raise UnusableError("missing", f"{path} was removed; its number was {newest}") from None
        return None
    except OSError as error:
        raise UnusableError("unreadable", f"{path}: {error.strerror}") from None
    generation, body = _newest(path, data)
    contents = _decode(path, body)
    if contents.boot != own_tag.boot():
        raise UnusableError("boot", f"{path} was written before this host was last started")
    if contents.namespace != processes.namespaces():
        raise UnusableError("namespace", f"{path} was written in another pid or time namespace")
    if scope and contents.saved.scopes and scope not in contents.saved.scopes:
        raise UnusableError("scope", f"{path} was written for another socket")
    if generation < newest:
        raise UnusableError("older", f"{path} is not the newest: its number is {generation} and not {newest}")
    return contents.saved


def generation(path: str) -> int:
    """The existing snapshot's number; 0 if there is none."""
    try:
        return _newest(path, Path(path).read_bytes())[0]
    except (OSError, UnusableError):
        return 0


def _decode(path: str, body: bytes) -> Contents:
    try:
        contents = _decoder.decode(body)
        if wrong := _contradiction(contents.saved):
            raise ValueError(wrong)
        return contents
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:  # ValueError: text that is not UTF-8
        raise UnusableError("version", f"{path} does not hold what this version writes: {error}") from None


def _contradiction(saved: Saved) -> str:
    """What no ledger could have written; empty if one could. A supervisor that took it for its own would fail at each
    start, or grant what is not there."""
    if saved.restarts < 0:
        return "the number of restarts is below 0"
    servers = {server.id for server in saved.servers}
    if len(servers) < len(saved.servers):
        return "a server is listed twice"
    for server in saved.servers:
        if server.lease is not None and (server.lease.word < 0 or server.lease.link < 0):
            return f"a number of {server.id}'s lease is below 0"
        if server.budget < 0 or server.own < 0 or any(entry.charge < 0 for entry in server.quarantine):
            return f"a number of {server.id} is below 0"
        if not all(0 <= entry.age < math.inf for entry in server.quarantine):  # NaN is not
            return f"a time of {server.id} is below 0, or has no end"
    tags = {member.identity.tag for member in saved.members}
    if len(tags) < len(saved.members):
        return "a process is listed twice"
    for member in saved.members:
        if not servers.issuperset(member.charges):
            return f"{member.identity.tag} is charged for a server that is not listed"
        if min(member.charges.values(), default=0) < 0:
            return f"a charge of {member.identity.tag} is below 0"
    return ""


def _newest(path: str, data: bytes) -> tuple[int, bytes]:
    """The intact slot with the highest generation: the generation, and the body."""
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
        whole = (
            number in READABLE and len(data) == 2 * capacity and len(body) == length and zlib.crc32(body) == checksum
        )
        if whole and (best is None or generation > best[0]):
            best = generation, body
    if best is not None:
        return best
    if strange := formats - READABLE:
        readable = " and ".join(map(str, sorted(READABLE)))
        raise UnusableError("version", f"{path} has format {max(strange)}, this version reads {readable}")
    raise UnusableError("truncated", f"{path} holds no whole snapshot ({len(data)} bytes)")


class Writer:
    """Writes snapshots for one supervisor.

    Args:
        path: the file.
        place: goes into the file.
        ours: whether the lock is still ours; checked before every write.
        note: keeps a :func:`mark`.
    """

    def __init__(self, path: str, place: str, ours: Callable[[], bool], note: Callable[[bytes], None]) -> None:
        self.path = path
        self._place = place
        self._ours = ours
        self._note = note
        self._boot = own_tag.boot()
        self._namespace = processes.namespaces()
        self._fd = -1
        self._capacity = 0
        self._generation = generation(path)
        self.writes = 0

    def continue_after(self, newest: int) -> None:
        """Use numbers above this one, even if the existing snapshot has a smaller one."""
        self._generation = max(self._generation, newest)

    def write(self, saved: Saved) -> None:
        """Write it to disk, whole or not at all.

        Raises:
            OSError: the snapshot was not written, and the previous one stands; or only its number was not: then the new
                one stands, and claims too much at most.
            SupersededError: the lock is no longer ours.
        """
        if not self._ours():
            raise SupersededError(self.path)
        body = _encoder.encode(Contents(self._boot, self._namespace, self._place, saved))
        number = self._generation + 1
        size = _HEAD.size + len(body)
        moves = self._fd < 0 or size > self._capacity or not self._in_place()
        capacity = _room_for(size) if moves else self._capacity
        leased = any(server.lease is not None for server in saved.servers)
        slot = (
            _HEAD.pack(_MAGIC, WITH_LEASES if leased else FORMAT, number, capacity, len(body), zlib.crc32(body)) + body
        )
        if moves:
            self._replace(slot, capacity)
        else:
            _put(self._fd, slot, number % 2 * capacity)
        self._generation = number
        self.writes += 1
        self._note(mark(number, self._boot))

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
        """Nothing is charged any more: remove the files, so that the next supervisor starts from nothing."""
        if self._ours():
            with contextlib.suppress(OSError):
                self._note(mark(0))
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
    """A slot's capacity, with room to grow."""
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
