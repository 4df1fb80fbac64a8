"""Bytes where the snapshot is: each is read, or is refused with a reason; what is read is what the newest whole slot
holds, and could be a ledger's; and it makes a ledger that loses no charge.

The first byte says what the others are: a whole file; what a slot holds, under a checksum that is right; or damage to
one slot of two good ones, which the other slot then has to stand in for.

Which slot is whole, and what a ledger could have written, is said here a second time: what accepts too much breaks
nothing that a fuzzer would see.
"""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

import msgspec

from poolmgr import own_tag
from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity, Saved, SavedMember, SavedServer
from poolmgr.kernel import processes
from poolmgr.supervisor.disk import snapshot
from tests import invariant

BOOT, NAMESPACE = "0b0071", 1
HEAD = struct.Struct(">8sIQIII")
CAPACITY = 1 << 12


class Target:
    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="pmf")
        self._path = str(Path(self._directory) / "s.snapshot")
        self._boot, self._namespaces = own_tag.boot, processes.namespaces
        own_tag.boot = lambda: BOOT
        processes.namespaces = lambda: NAMESPACE
        writer = snapshot.Writer(self._path, "place", lambda: True, lambda _: None)
        self._good = [_saved(1), _saved(2)]
        for saved in self._good:
            writer.write(saved)
        self._whole = Path(self._path).read_bytes()

    def close(self) -> None:
        own_tag.boot, processes.namespaces = self._boot, self._namespaces
        shutil.rmtree(self._directory)

    def play(self, data: bytes) -> None:
        if not data:
            return
        kind, rest = data[0] % 3, data[1:]
        if kind == 2:
            self._damaged(rest)
            return
        saved = self._read(rest if kind == 0 else slots(rest))
        if saved is not None:
            _restored(saved)

    def _read(self, text: bytes) -> Saved | None:
        Path(self._path).write_bytes(text)
        body = _newest(text)
        try:
            saved, reason = snapshot.read(self._path), ""
        except snapshot.UnusableError as error:
            saved, reason = None, error.reason
        if saved is None:
            assert not body or reason != "truncated", "a slot is whole"
            return None
        assert body, "no slot is whole"
        found = msgspec.msgpack.decode(body, type=snapshot.Contents)
        assert (found.boot, found.namespace) == (BOOT, NAMESPACE), "another host's, or of another namespace"
        assert repr(found.saved) == repr(saved), "another slot is the newest"
        _possible(saved)
        return saved

    def _damaged(self, edits: bytes) -> None:
        """Three bytes an edit: where, of two bytes, and what; all in the slot that the first byte names."""
        text, half = bytearray(self._whole), len(self._whole) // 2
        start = half if edits[:1] > b"\x7f" else 0
        for at in range(1, len(edits) - 2, 3):
            text[start + int.from_bytes(edits[at : at + 2], "big") % half] ^= edits[at + 2]
        assert self._read(bytes(text)) in self._good, "one slot is whole"


def _newest(text: bytes) -> bytes:
    """The body of the newest slot that is whole; empty if none is."""
    half, found = len(text) // 2, []
    for slot in (text[:half], text[half:]):
        if len(slot) >= HEAD.size and half * 2 == len(text):
            magic, number, generation, capacity, length, checksum = HEAD.unpack(slot[: HEAD.size])
            body = slot[HEAD.size :][:length]
            right = len(body) == length and zlib.crc32(body) == checksum
            if magic == b"poolmgr\n" and number in (2, 3) and capacity == half and right:
                found.append((generation, body))
    return max(found, key=lambda slot: slot[0], default=(0, b""))[1]


def _possible(saved: Saved) -> None:
    """A ledger could have written this."""
    assert saved.restarts >= 0, f"{saved.restarts} restarts"
    assert len({server.id for server in saved.servers}) == len(saved.servers), "a server is there twice"
    assert len({member.identity.tag for member in saved.members}) == len(saved.members), "a process is there twice"
    for server in saved.servers:
        counts = [server.budget, server.own, *(entry.charge for entry in server.quarantine)]
        counts += [server.lease.word, server.lease.link] if server.lease is not None else []
        assert min(counts) >= 0, f"{server.id} has {counts}"
        ages = [entry.age for entry in server.quarantine]
        assert all(age >= 0 and math.isfinite(age) for age in ages), f"{server.id} has ages {ages}"
    for member in saved.members:
        assert min(member.charges.values(), default=0) >= 0, f"{member.identity.tag} is charged {member.charges}"


def slots(body: bytes) -> bytes:
    """A file of one slot with this body; the other slot is empty."""
    capacity = max(CAPACITY, HEAD.size + len(body))
    head = HEAD.pack(b"poolmgr\n", snapshot.FORMAT, 1, capacity, len(body), zlib.crc32(body))
    return (head + body).ljust(2 * capacity, b"\0")


def _saved(budget: int) -> Saved:
    return Saved(
        owner=Identity("pm1.owner", 7, 70),
        servers=(SavedServer("tcp://a:1", ("tcp://a:1",), "run", budget, None, 1),),
        members=(SavedMember(Identity("tag", 100, 5), {"tcp://a:1": 3}),),
    )


def _restored(saved: Saved) -> None:
    ledger = recovery.restored(saved, 1e6, alive=lambda of: of.pid % 2 == 0, owner=Identity("pm1.next", 9, 90))
    invariant.check(ledger)
    for old in saved.servers:
        server = ledger.servers[old.id]
        before = old.own + sum(entry.charge for entry in old.quarantine)
        before += sum(member.charges.get(old.id, 0) for member in saved.members)
        after = server.own + server.charged + sum(entry.charge for entry in server.quarantine.values())
        assert after >= before, f"{before} were charged, and {after} are"
    again = snapshot._decoder.decode(
        snapshot._encoder.encode(snapshot.Contents(BOOT, NAMESPACE, "", recovery.save(ledger, 1e6)))
    )
    assert again.saved == recovery.save(ledger, 1e6)
