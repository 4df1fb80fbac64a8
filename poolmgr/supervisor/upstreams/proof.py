"""Whether a dead process's connections are gone from a server (rule S3), read from ``CLIENT LIST``.

Pure: lists in, verdicts out. The list must have been asked for *after* a fresh connection by the same endpoint was
answered, and that connection opened after the exit: it queued behind all of the dead process's for accept, so none of
them can appear later. :mod:`poolmgr.supervisor.upstreams.inspection` asks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping

import msgspec

from poolmgr import tags

_ROW = re.compile(rb"id=(\d+) addr=(\S*) (?:laddr=\S* )?(?:fd=\S* )?name=(\S*) age=(\d+)")
_ROW_OF_PATH = re.compile(rb"id=(\d+) addr=(\[?/.*?)(?: laddr=.*)?(?: fd=-?\d+)? name=(\S*) age=(\d+)(?!.* name=)")
"""A Unix socket's path stands in ``addr`` and ``laddr`` as it is, with its blanks. No field from ``name`` on can hold a
blank (CLIENT SETNAME, CLIENT SETINFO and ACL SETUSER refuse it), so the last ``name=`` is the connection's."""
_COMMAND = re.compile(rb" cmd=(\S*)")
_LIBRARY = re.compile(rb" lib-name=(\S*)")
_FLAGS = re.compile(rb" flags=(\S*)")

_OURS = "pm1."
"""The start of every tag (:mod:`poolmgr.tags`)."""

PIECE = 1 << 16
"""Bytes of a list that are taken apart at a time, and what is left of the line that they end in."""

HANDSHAKE = frozenset({"", "NULL", "hello", "auth", "select", "client", "ping"})
"""Last commands that a connection of ours may show before it has a name."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One connection as the server shows it. ``age``: seconds since it was accepted."""

    id: int
    addr: str
    name: str
    age: int
    command: str = ""
    library: str = ""
    flags: str = ""
    tag: tags.Tag | None = None
    """Our tag in its name or library name, if any: searched once, when the list is read."""

    def __post_init__(self) -> None:
        if self.tag is None and (_OURS in self.name or _OURS in self.library):
            msgspec.structs.force_setattr(self, "tag", tags.find(self.name) or tags.find(self.library))

    @property
    def host(self) -> str:
        """The address without the port: equal for all connections from the same place."""
        return self.addr.rpartition(":")[0]


class UnreadableError(ValueError):
    """A row of a list cannot be parsed. The text quotes it."""


def parse(text: bytes) -> list[Row]:
    """The rows of a reply to ``CLIENT LIST``. Connections with a foreign name are all :data:`FOREIGN`.

    Raises:
        UnreadableError: a row cannot be parsed. It may be any connection, so the list proves nothing.
    """
    rows = []
    for line in _lines(text):
        if not line:
            continue
        if b"pm1." not in line and b" name= " not in line and b" name=" in line and line.startswith(b"id="):
            rows.append(FOREIGN)  # a server may have thousands of them
            continue
        head = (_ROW if line.count(b" name=") == 1 else _ROW_OF_PATH).match(line) or _ROW_OF_PATH.match(line)
        if head is None:
            raise UnreadableError(f"a row of CLIENT LIST is not understood: {line[:120].decode('ascii', 'replace')!r}")
        number, addr, name, age = head.groups()
        # After the head, since the path of a Unix socket may hold what looks like them.
        command, library, flags = (field.search(line, head.end()) for field in (_COMMAND, _LIBRARY, _FLAGS))
        rows.append(
            Row(
                int(number),
                addr.decode("ascii", "replace"),
                name.decode("ascii", "replace"),
                int(age),
                command[1].decode("ascii", "replace") if command else "",
                library[1].decode("ascii", "replace") if library else "",
                flags[1].decode("ascii", "replace") if flags else "",
            )
        )
    return rows


def _lines(text: bytes) -> Iterator[bytes]:
    """The lines, of some at a time: to split all at once takes milliseconds, in which no other thread runs."""
    start = 0
    while start < len(text):
        end = text.find(b"\n", start + PIECE)
        end = len(text) if end < 0 else end
        yield from text[start:end].split(b"\n")
        start = end + 1


FOREIGN = Row(0, "", "-", 0)
"""Stands for a connection with a foreign name: only its existence matters."""


class Verdict(msgspec.Struct, frozen=True):
    """What a list says about some tags or names.

    Attributes:
        gone: those with nothing left.
        leftovers: connections of the others, to be killed, by the server's number.
        suspects: unnamed connections that may still turn out to be one of theirs; a target is not gone while one is old
            enough to belong to it.
    """

    gone: frozenset[str]
    leftovers: tuple[int, ...]
    suspects: tuple[int, ...]


def merged(rows: Iterable[Row], asked: Collection[int], later: Iterable[Row]) -> list[Row]:
    """A list, updated by a later one for the connections that were asked for: those missing from it are gone.

    A connection made after the first list is on neither. It is younger than the fresh one, so it is not a dead
    process's.
    """
    asked = set(asked)
    return [row for row in rows if row.id not in asked] + [row for row in later if row.id in asked]


def judge(
    rows: Collection[Row],
    targets: Collection[str],
    *,
    fresh: int,
    host: str | None,
    handshake: float,
    anchors: Mapping[str, int] | None = None,
    spare: Collection[str] = (),
    ours: Collection[str] | None = None,
) -> Verdict:
    """What the list shows of ``targets``: tags of processes (``pm1...``) or names of single connections (a tag, a dash,
    a serial).

    Args:
        fresh: the number of the fresh connection. One accepted after it is not a dead process's. 0: not known, so
            nothing is excluded.
        host: our address as the server sees it; None: not known, so every address counts as ours.
        handshake: seconds after which every connection of ours has a name, or has ended.
        anchors: the number of the first fresh connection after a target's end, if that was an earlier one: connections
            opened since are not suspected, however often they come and go.
        spare: targets whose connections may be foreign, and must not be killed.
        ours: our addresses as the server sees them, by all ways; None: ``host``. A connection from elsewhere bears a
            copied name, of a clone of this machine for one: it counts, and must not be killed.
    """
    found: dict[str, list[Row]] = {}
    if ours is None:
        ours = () if host is None else (host,)
    suspects = []
    for row in rows:
        tag = row.tag
        if tag is not None:
            found.setdefault(tag.process, []).append(row)
            found.setdefault(f"{tag.process}-{tag.serial}", []).append(row)
        elif (
            not row.name
            and not row.library
            and row.id != fresh
            and (not fresh or row.id < fresh)
            and (host is None or row.host == host)
            and row.age <= handshake
            and row.command.partition("|")[0] in HANDSHAKE
        ):
            suspects.append(row.id)
    left = {target for target in targets if target in found}
    oldest = min(suspects, default=None)
    ends = {target: (anchors or {}).get(target, fresh) for target in targets}
    doubtful = {target for target in targets if oldest is not None and (not ends[target] or oldest < ends[target])}
    leftovers = sorted({row.id for target in left.difference(spare) for row in found[target] if row.host in ours})
    if targets:
        last = max(ends.values()) if all(ends.values()) else fresh
        suspects = [number for number in suspects if not last or number < last]
    return Verdict(frozenset(targets) - left - doubtful, tuple(leftovers), tuple(suspects))
