"""Replies to CLIENT LIST, as servers write them and as none does: a row is understood or refused, in whatever list it
stands, and no connection of ours is overlooked in what a server could have written.

The first byte says what the others are: a reply, or the parts that a client, or whoever makes the path of a Unix
socket, decides in each row of a reply.
"""

from __future__ import annotations

from poolmgr.supervisor.upstreams import proof
from poolmgr.supervisor.upstreams.proof import Row, UnreadableError

OURS = "pm1.0123abcd.00ff11.41.1000.abcdef"
PLAIN = bytes(range(ord("!"), ord("~") + 1))
"""What names may hold: CLIENT SETNAME and CLIENT SETINFO refuse everything else."""


def play(data: bytes) -> None:
    if data[:1] > b"\x7f":
        _written(data[1:])
    else:
        _any(data[1:])


def _any(text: bytes) -> None:
    """A list is understood as its rows are, each by itself."""
    lines = text.split(b"\n")
    rows = [_parsed(line) for line in lines]
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


def _written(data: bytes) -> None:
    """One row for each line: a byte for its shape, then address, name and library, separated by tabs."""
    text, ours, unnamed = b"", [], 0
    for number, line in enumerate(data.split(b"\n")[:20], 1):
        shape = line[0] if line else 0
        addr, name, library = (*line[1:].split(b"\t"), b"", b"", b"")[:3]
        name, library = _plain(name), _plain(library)
        tag = f"{OURS}-{number}".encode()
        if shape & 1:
            name = tag if shape & 2 else b"app-" + tag
        elif shape & 2:
            library = b"redis-py(" + tag + b")"
        if shape & 3:
            ours.append(number)
        unnamed += not name and not library
        # A path is the server's bind address, which has no newline; the other addresses are made by the system.
        addr = b"/" + addr.replace(b"\0", b"") + b":0" if shape & 4 else b"10.0.0.%d:%d" % (shape, 1024 + number)
        if shape & 8 and shape & 4:
            addr = b"[" + addr + b"]:0"  # as newer servers write it
        row = b"id=%d addr=%s" % (number, addr)
        row += b" laddr=" + addr if shape & 16 else b""
        row += b" fd=%d name=%s age=%d idle=0 flags=N db=0 sub=0" % (number + 7, name, shape)
        row += b" cmd=client|list user=default redir=-1 resp=3"
        row += b" lib-name=%s lib-ver=8" % library if shape & 32 or shape & 2 else b""
        text += row + b"\n"
    try:
        rows = proof.parse(text)
    except UnreadableError as error:
        raise AssertionError(f"a server could have written this: {text!r}") from error
    assert len(rows) == text.count(b"\n")
    found = [row.id for row in rows if row.tag is not None and row.tag.process == OURS]
    assert set(ours) <= set(found), f"{ours} are ours, and {found} were found in {text!r}"
    assert all(row.tag.serial == row.id for row in rows if row.id in ours and row.tag is not None)
    verdict = proof.judge(rows, {OURS}, fresh=0, host=None, handshake=60.0)
    if ours:
        assert not verdict.gone
        assert set(ours) <= set(verdict.leftovers) | set(found)
    elif not found and not verdict.suspects:
        assert verdict.gone == {OURS}


def _plain(text: bytes) -> bytes:
    """As a server takes it for a name, and no copy of a tag of ours."""
    return bytes(byte for byte in text if byte in PLAIN).replace(b"pm1", b"")
