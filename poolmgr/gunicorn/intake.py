"""One HTTP/1 request while it arrives: is it whole? Pure: it gets bytes and does no I/O.

It does not judge a request, and parses only what it must: gunicorn's parser reads the same bytes
afterwards and decides. This module only finds the point where that parser needs no more input, so that no thread waits
for a caller. If the two ever differ, the parser meets the end of its input, and the caller the end of its
connection.

The source is RFC 9112: the head ends with an empty line (section 2.1), ``Content-Length`` counts the body (6.2),
``chunked`` delimits it (7.1).
"""

from __future__ import annotations

import re
from collections import deque

import msgspec

_FRAMING = re.compile(rb"(?i)\r\n(content-length|transfer-encoding|expect)[ \t]*:[ \t]*([^\r\n]*)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?\r\n", re.DOTALL)
_BARE = re.compile(rb"(?:^|[^\r])\n")

_END = b"\r\n\r\n"


class Limits(msgspec.Struct, frozen=True):
    """How many bytes of a request are waited for; of a longer one no more than shows that it is too long."""

    line: int
    head: int
    body: int


class Intake:
    """A request that is arriving.

    Attributes:
        pieces: the bytes so far, in order; the head is one of them, once it is there.
        size: how many bytes these are.
        whole: the request is complete, or given up.
        excessive: it was given up before its end, so the bytes that follow on its connection are not a request.
        too_long: it was given up because the chunks announce more than ``Limits.body``.
        expects: its caller waits for ``100 Continue`` before it sends the body.
        target: the request's target, once the head is there.
    """

    __slots__ = (
        "_body",
        "_buffer",
        "_feed",
        "_left",
        "_limits",
        "excessive",
        "expects",
        "pieces",
        "size",
        "target",
        "too_long",
        "whole",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._feed = self._head
        self._buffer = bytearray()  # of the head, of a chunk's first line or of a trailer
        self._left = 0  # bytes of the body, or of a chunk with its line end
        self._body = 0  # bytes of all chunks
        self.pieces: deque[bytes] = deque()
        self.size = 0
        self.whole = self.excessive = self.too_long = self.expects = False
        self.target = b""

    def feed(self, data: bytes) -> bool:
        """Take more bytes; whether it is whole now. What comes after the request is in :attr:`pieces` too."""
        self.size += len(data)
        self._feed(data)
        return self.whole

    def _end(self, *, excessive: bool = False) -> None:
        self.whole = True
        self.excessive = excessive

    # ---- the head ------------------------------------------------------------------------------

    def _head(self, data: bytes) -> None:
        seen = len(self._buffer)
        head: bytes | bytearray = data
        if seen:
            self._buffer += data
            head = self._buffer
        start = 2 if head[:2] == b"\r\n" else 0  # one empty line may come first (section 2.2)
        end = head.find(_END, max(start, seen - 3))
        if end < 0:
            if not seen:
                self._buffer += data
            self._unended(start, seen)
            return
        self._buffer = bytearray()
        if seen:
            head = bytes(head)
        line = head.find(b"\r\n", start)
        words = head[start:line].split(b" ", 2)
        self.target = bytes(words[1]) if len(words) == 3 else b""
        self.pieces.append(bytes(head[: end + 4]))
        self._frame(head[line : end + 2])
        rest = bytes(head[end + 4 :])
        if rest and self.whole:
            self.pieces.append(rest)
        elif rest:
            self._feed(rest)

    def _unended(self, start: int, seen: int) -> None:
        """A head without its end: gunicorn refuses it at once if it is too long, or has a bare LF."""
        head = self._buffer
        line = head.find(b"\r\n", start)
        size = len(head) - 2 if line < 0 else line
        if (
            size - start > self._limits.line
            or len(head) > self._limits.head
            or _BARE.search(head, max(0, seen - 1)) is not None
        ):
            self.pieces.append(bytes(head))
            self._end(excessive=True)

    def _frame(self, fields: bytes | bytearray) -> None:
        """How long the body is. Contradictory fields are left to gunicorn, which refuses the request unread."""
        length: bytes | None = None
        coding: bytes | None = None
        for found in _FRAMING.finditer(fields):
            name, value = found[1].lower(), found[2].strip(b" \t").lower()
            if name == b"expect":
                self.expects = value == b"100-continue"
            elif name == b"content-length" and length is None:
                length = value
            elif name == b"transfer-encoding" and coding is None:
                coding = value
            else:
                self._end(excessive=True)
                return
        if coding is not None:
            self._feed = self._chunks
            if coding != b"chunked" or length is not None:
                self._end(excessive=True)
        elif length is None:
            self._end()
        elif _LENGTH.fullmatch(length) is None or int(length) > self._limits.body:
            self._end(excessive=True)
        else:
            self._left = int(length)
            self._feed = self._counted
            if not self._left:
                self._end()

    # ---- the body ------------------------------------------------------------------------------

    def _counted(self, data: bytes) -> None:
        self.pieces.append(data)
        self._left -= len(data)
        if self._left <= 0:
            self._end()

    def _chunks(self, data: bytes) -> None:
        self.pieces.append(data)
        at = 0
        while at < len(data) and not self.whole:
            if self._left > 0:  # a chunk and its line end, which gunicorn looks at
                step = min(self._left, len(data) - at)
                self._left -= step
                at += step
                continue
            end = data.find(b"\n", at) + 1
            self._buffer += data[at : end or len(data)]
            at = end or len(data)
            if end:
                line, self._buffer = bytes(self._buffer), bytearray()
                self._line(line)
            elif len(self._buffer) > self._limits.line:
                self._end(excessive=True)

    def _line(self, line: bytes) -> None:
        """A chunk's first line; or, after the last chunk (-1), a trailer or the empty line in the end."""
        if self._left < 0:
            self._body += len(line)
            if line == b"\r\n":
                self._end()
            elif not line.endswith(b"\r\n") or self._body > self._limits.head:
                self._end(excessive=True)
            return
        found = _CHUNK.fullmatch(line)
        length = int(found[1], 16) if found is not None else self._limits.body + 1
        self._body += length
        if self._body > self._limits.body:
            self.too_long = found is not None
            self._end(excessive=True)
        elif length:
            self._left = length + 2
        else:
            self._left, self._body = -1, 0
