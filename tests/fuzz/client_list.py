"""Replies to CLIENT LIST, as servers write them and as none does: a row is understood or refused, in whatever list it
stands, and no connection of ours is overlooked in what a server could have written.

The first byte says what the others are: a reply, or the parts that a client, or whoever makes the path of a Unix
socket, decides in each row of a reply.
"""

from __future__ import annotations

import msgspec

from poolmgr.supervisor.upstreams import proof
from poolmgr.supervisor.upstreams.proof import Row, UnreadableError

OURS = "pm1.0123abcd.00ff11.41.1000.abcdef"
PLAIN = bytes(range(ord("!"), ord("~") + 1))
"""What names may hold: CLIENT SETNAME and CLIENT SETINFO refuse everything else."""


COMMANDS = (b"client|list", b"NULL", b"get", b"hello")
WAITING = frozenset((b"client|list", b"NULL", b"hello"))
"""Last commands of a connection that may have no name yet."""

proof.PIECE = 300  # so that what is drawn has several


def play(data: bytes) -> None:
    if data[:1] > b"\x7f":
        _written(data[1:])
    else:
        _any(data[1:])


def _any(text: bytes) -> None:
    """A list is understood as its rows are, each by itself; and each line is a row."""
    lines = text.split(b"\n")
    rows = [_parsed(line) for line in lines]
    for line, one in zip(lines, rows, strict=True):
        assert one is None or len(one) == bool(line), f"{line!r} is {len(one)} rows"
        assert one is None or not line or line.startswith(b"id="), f"{line!r} was taken for a row"
    whole = _parsed(text)
    if whole is None:
        assert None in rows, "each row is understood and the list is not"
    else:
        assert whole == [row for one in rows if one is not None for row in one]


def _parsed(text: bytes) -> list[Row] | None:
    try:
        return proof.parse(text)
    except UnreadableError:
        return None


class Written(msgspec.Struct):
    """A row as the server means it."""

    id: int
    addr: bytes
    host: bytes
    age: int
    command: bytes
    flags: bytes
    name: bytes = b""
    library: bytes = b""
    ours: bool = False

    def text(self, local: bytes, path: bool) -> bytes:
        row = b"id=%d addr=%s" % (self.id, self.addr) + (b" laddr=" + local if local else b"")
        row += b" fd=%d name=%s age=%d idle=0 flags=%s db=0 sub=0" % (self.id + 7, self.name, self.age, self.flags)
        row += b" cmd=%s user=default redir=-1 resp=3" % self.command
        return row + (b" lib-name=%s lib-ver=8" % self.library if path or self.library else b"") + b"\n"


def _written(data: bytes) -> None:
    """One row for each line: a byte for its shape, then address, name and library, separated by tabs."""
    text, meant = b"", []
    for number, line in enumerate(data.split(b"\n")[:20], 1):
        shape = line[0] if line else 0
        addr, name, library = (*line[1:].split(b"\t"), b"", b"", b"")[:3]
        name, library = _plain(name), _plain(library)
        tag = f"{OURS}-{number}".encode()
        if shape & 1:
            name = tag if shape & 2 else b"app-" + tag
        elif shape & 2:
            library = b"redis-py(" + tag + b")"
        # A path is the server's bind address, which has no newline; the other addresses are made by the system.
        if shape & 4:
            # With " laddr=" in it, it is read as far as that, for all connections by it alike.
            host, port = b"/" + addr.replace(b"\0", b"").replace(b" laddr=", b""), b"0"
            if shape & 8:  # as newer servers write it
                host = b"[" + host + b":0]"
        else:
            host, port = (b"[fd00::%x]" if shape & 8 else b"10.0.0.%d") % shape, b"%d" % (1024 + number)
        row = Written(
            number,
            host + b":" + port,
            host,
            shape,
            COMMANDS[(shape >> 6) & 3],
            b"NP"[shape >> 7 :][:1] if shape & 64 else b"U",
            name,
            library if shape & 34 else b"",
            bool(shape & 3),
        )
        meant.append(row)
        text += row.text(row.addr if shape & 16 else b"", bool(shape & 32))
    try:
        rows = proof.parse(text)
    except UnreadableError as error:
        raise AssertionError(f"a server could have written this: {text!r}") from error
    assert len(rows) == len(meant)
    for found, one in zip(rows, meant, strict=True):
        _same(found, one)
    place = rows[0].host if rows[0] is not proof.FOREIGN else None
    for known in {place, None}:
        _judged(rows, meant, known)


def _same(row: Row, meant: Written) -> None:
    """What was read is what was written; of a connection with a foreign name, that it is one."""
    if row is proof.FOREIGN:
        assert meant.name and not meant.ours, f"taken for a foreign one: {meant}"
        return
    found = row.id, row.addr, row.host, row.name, row.age, row.command, row.library, row.flags
    text = meant.addr, meant.host, meant.name, meant.command, meant.library, meant.flags
    addr, host, name, command, library, flags = (one.decode("ascii", "replace") for one in text)
    assert found == (meant.id, addr, host, name, meant.age, command, library, flags), f"{row} was written as {meant}"
    ours = row.tag is not None and (row.tag.process, row.tag.serial) == (OURS, meant.id)
    assert ours == meant.ours, f"{row} was written as {meant}"


def _judged(rows: list[Row], meant: list[Written], host: str | None) -> None:
    """Nothing of ours is overlooked, and what has no name yet is suspected if it may be ours, and not otherwise."""
    ours = [one for one in meant if one.ours]
    suspects = [
        one.id
        for one in meant
        if not one.name and not one.library and one.age <= 60 and one.command in WAITING
        if host is None or one.host.decode("ascii", "replace") == host
    ]
    places = None if host is None else {host}
    verdict = proof.judge(rows, {OURS}, fresh=0, host=host, handshake=60.0, ours=places)
    assert [*verdict.suspects] == suspects, f"{verdict.suspects} are suspected, and {suspects} may be ours"
    assert (verdict.gone == {OURS}) == (not ours and not suspects)
    assert {*verdict.leftovers} == {one.id for one in ours if host and one.host.decode("ascii", "replace") == host}


def _plain(text: bytes) -> bytes:
    """As a server takes it for a name, and no copy of a tag of ours."""
    return bytes(byte for byte in text if byte in PLAIN).replace(b"pm1", b"")
