"""The body of an answer: replies as JSON. No I/O.

As a rule replies become text and then JSON. Long ones do not: Python takes up to four bytes for each
character, and JSON six for a byte that is not one. Only a slice of these is text at a time, and their JSON has its own
bound.
"""

from __future__ import annotations

import codecs
import json
from base64 import b64encode
from io import BytesIO
from typing import Any

from redis.exceptions import RedisError

from worker.errors import Problem, words
from worker.protocol import MAX_DEPTH, TOO_DEEP, Encoder, TooDeepError, as_base64, item, to_json

SHORT = 1 << 18
"""Bytes of replies that are turned into text as a whole, with :data:`ELEMENT` for each element."""

ELEMENT = 48

SLICE = 3 << 14
"""Bytes of a long reply that are turned into text at a time. A multiple of three, for base64."""


def of_one(reply: Any, encode: Encoder, most: int) -> tuple[bytes, bool]:
    """The body for one command's reply, and whether it is an error.

    Args:
        most: bytes that the body may take; 0: no bound.

    Raises:
        Problem: it takes more (400).
    """
    if _left(reply, SHORT) >= 0:
        found = item(reply, encode)
        return to_json(found), "error" in found
    writer = _Writer(encode, most)
    is_error = writer.item(reply)
    return writer.out.getvalue(), is_error


def of_many(replies: list[Any], encode: Encoder, most: int) -> bytes:
    """The body for the replies to a pipeline or a transaction.

    Raises:
        Problem: it takes more than ``most`` (400).
    """
    if _left(replies, SHORT) >= 0:
        return to_json([item(reply, encode) for reply in replies])
    writer = _Writer(encode, most)
    for at, reply in enumerate(replies):
        writer.add(b"," if at else b"[")
        writer.item(reply)
    writer.add(b"]")
    return writer.out.getvalue()


def _left(reply: Any, left: int, depth: int = MAX_DEPTH) -> int:
    """How many of this many bytes a reply leaves. Stops as soon as none is left."""
    if isinstance(reply, bytes):
        return left - len(reply)
    if isinstance(reply, list):
        left -= ELEMENT * len(reply)
        for element in reply:
            if left < 0 or not depth:
                break
            left = _left(element, left, depth - 1)
        return left
    return left - len(words(reply)) if isinstance(reply, Exception) else left


_json = json.JSONEncoder(ensure_ascii=False).encode


class _Writer:
    def __init__(self, encode: Encoder, most: int) -> None:
        self.out = BytesIO()  # getvalue() does not copy
        self._base64 = encode is as_base64
        self._most = most

    def add(self, piece: bytes) -> None:
        self.out.write(piece)
        if self._most and self.out.tell() > self._most:
            raise Problem(
                400,
                f"ERR the replies to this request take more than {self._most} bytes as JSON (one and a half times "
                "WORKER_MAX_REPLY); the commands have been run. Ask for less, or with Upstash-Encoding: base64",
            )

    def item(self, reply: Any) -> bool:
        """Whether it is an error."""
        begin = self.out.tell()
        error = words(reply) if isinstance(reply, Exception) else ""
        if not isinstance(reply, Exception):
            self.add(b'{"result":')
            try:
                self._value(reply, MAX_DEPTH)
            except TooDeepError:
                self.out.seek(begin)
                self.out.truncate()
                error = TOO_DEEP
        is_error = self.out.tell() == begin
        if is_error:
            self.add(b'{"error":')
            self._string(error)
        self.add(b"}")
        return is_error

    def _value(self, reply: Any, depth: int) -> None:
        if isinstance(reply, bytes):
            self._bytes(reply)
        elif isinstance(reply, list):
            if not depth:
                raise TooDeepError
            self.add(b"[")
            for at, element in enumerate(reply):
                if at:
                    self.add(b",")
                self._value(element, depth - 1)
            self.add(b"]")
        elif isinstance(reply, RedisError):
            self._string(words(reply))
        elif type(reply) is int:
            self.add(b"%d" % reply)
        else:
            self.add(_json(reply).encode())

    def _bytes(self, value: bytes) -> None:
        if self._base64 and value == b"OK":
            self.add(b'"OK"')
            return
        if len(value) <= SLICE:  # nearly all values of a long list
            self.add(b'"%b"' % b64encode(value) if self._base64 else _json(value.decode("utf-8", "replace")).encode())
            return
        self.add(b'"')
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for at in range(0, len(value), SLICE):
            part = value[at : at + SLICE]
            if self._base64:
                self.add(b64encode(part))
            else:
                self.add(_json(decoder.decode(part, at + SLICE >= len(value)))[1:-1].encode())
        self.add(b'"')

    def _string(self, text: str) -> None:
        self.add(b'"')
        for at in range(0, len(text), SLICE):
            self.add(_json(text[at : at + SLICE])[1:-1].encode(errors="replace"))
        self.add(b'"')
