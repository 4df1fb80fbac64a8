"""Whether a dead process's connections are gone from a server (rule S3), read from ``CLIENT LIST``.

Pure: lists in, verdicts out. The list must have been asked for *after* a fresh connection by the same
endpoint was answered, and that connection opened after the exit: it queued behind all of the dead
process's for accept, so none of them can appear later. What is asked of whom is
:mod:`poolmgr.supervisor.inspection`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import msgspec

from poolmgr import identity

_ROW = re.compile(rb"^id=(\d+) addr=(\S*) (?:laddr=\S* )?(?:fd=\S* )?name=(\S*) age=(\d+)")
_COMMAND = re.compile(rb" cmd=(\S*)")
_LIBRARY = re.compile(rb" lib-name=(\S*)")
_FLAGS = re.compile(rb" flags=(\S*)")

_OURS = "pm1."
"""How every tag begins (:mod:`poolmgr.identity`)."""

HANDSHAKE = frozenset({"", "NULL", "hello", "auth", "select", "client", "ping"})
"""Last commands that a connection of ours may show before it has a name."""


class Row(msgspec.Struct, frozen=True):
    """One connection as the server shows it. ``age``: seconds since it was accepted."""

    id: int
    addr: str
    name: str
    age: int
    command: str = ""
    library: str = ""
    flags: str = ""

    @property
    def host(self) -> str:
        """The address without the port: equal for all connections from the same place."""
        return self.addr.rpartition(":")[0]

    @property
    def tag(self) -> identity.Tag | None:
        """Our tag in its name or library name, if it bears one."""
        if _OURS not in self.name and _OURS not in self.library:
            return None
        return identity.find(self.name) or identity.find(self.library)


def parse(text: bytes) -> list[Row]:
    """The rows of a reply to ``CLIENT LIST``; lines that are not understood are left out. Connections that
    bear somebody else's name are all :data:`FOREIGN`."""
    rows = []
    for line in text.split(b"\n"):
        if b" name= " not in line and b"pm1." not in line and line.startswith(b"id="):
            rows.append(FOREIGN)  # a server may have thousands of them
            continue
        head = _ROW.match(line)
        if head is None:
            continue
        number, addr, name, age = head.groups()
        command, library, flags = _COMMAND.search(line), _LIBRARY.search(line), _FLAGS.search(line)
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


FOREIGN = Row(0, "", "-", 0)
"""Stands for a connection that bears somebody else's name: all that matters is that it is there."""


class Verdict(msgspec.Struct, frozen=True):
    """What a list says of some tags or names.

    Attributes:
        gone: those of which nothing is left.
        leftovers: connections of the others, to be killed, by the server's number.
        suspects: unnamed connections that may still turn out to be one of theirs; while there is
            one that is old enough to be a target's, that is not gone.
    """

    gone: frozenset[str]
    leftovers: tuple[int, ...]
    suspects: tuple[int, ...]


def judge(
    rows: Collection[Row],
    targets: Collection[str],
    *,
    fresh: int,
    host: str | None,
    handshake: float,
    anchors: Mapping[str, int] | None = None,
) -> Verdict:
    """What the list shows of ``targets``: tags of processes (``pm1...``) or names of single connections
    (a tag, a dash, a serial).

    Args:
        fresh: the number of the fresh connection. What was accepted after it is nobody dead's.
            0: not known, so nothing is excluded.
        host: our address as the server sees it; None: not known, so everyone's counts as ours.
        handshake: seconds after which every connection of ours has a name, or is no more.
        anchors: the number of the first fresh connection after a target's end, where that was an earlier one: what
            others have opened since is not suspected, however often they come and go.
    """
    found: dict[str, list[int]] = {}
    suspects = []
    for row in rows:
        tag = row.tag
        if tag is not None:
            found.setdefault(tag.process, []).append(row.id)
            found.setdefault(f"{tag.process}-{tag.serial}", []).append(row.id)
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
    leftovers = sorted({number for target in left for number in found[target]})
    if targets:
        last = max(ends.values()) if all(ends.values()) else fresh
        suspects = [number for number in suspects if not last or number < last]
    return Verdict(frozenset(targets) - left - doubtful, tuple(leftovers), tuple(suspects))
