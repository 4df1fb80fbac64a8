"""So much of RESP2 as the supervisor speaks (https://redis.io/docs/latest/develop/reference/protocol-spec/).

Pure but for the function that brings more bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

PASSING = frozenset(
    {"BUSY", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "OOM", "MISCONF", "READONLY"}
)
"""First words of errors that mean "not just now" (a script runs, a file is loaded, ...)."""

LONGEST = 1 << 16
"""Bytes of a line; a longer one is none of a Redis server's."""


class ReplyError(Exception):
    """The server answered a command with an error."""

    @property
    def passing(self) -> bool:
        """The server cannot answer just now. Any other error means that it never will: it forbids the command, or does
        not know it."""
        return str(self).partition(" ")[0] in PASSING


class NotRedisError(Exception):
    """What came is not RESP2; the text says what it is."""


def packed(*commands: tuple[str | int, ...]) -> bytes:
    """Commands as the server reads them."""
    return b"".join(_packed(command) for command in commands)


def _packed(command: tuple[str | int, ...]) -> bytes:
    parts = [str(part).encode() for part in command]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Reader:
    """Reads replies.

    Args:
        fill: returns the next bytes, and waits for them.
    """

    def __init__(self, fill: Callable[[], bytes]) -> None:
        self._fill = fill
        self._buffer = bytearray()

    def read(self) -> Any:
        """The next reply: bytes, int, None, a list, or a :class:`ReplyError`.

        Raises:
            NotRedisError: it is something else.
        """
        line = self._line()
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return ReplyError(rest.decode("utf-8", "replace"))
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._exactly(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else [self.read() for _ in range(int(rest))]
        raise NotRedisError(f"it said {bytes(line[:60])!r}")

    def _line(self) -> bytes:
        start = 0
        while (end := self._buffer.find(b"\r\n", start)) < 0:
            start = max(0, len(self._buffer) - 1)
            if start > LONGEST:
                raise NotRedisError("a line without end")
            self._buffer += self._fill()
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _exactly(self, length: int) -> bytes:
        while len(self._buffer) < length + 2:
            self._buffer += self._fill()
        with memoryview(self._buffer) as whole:
            data = bytes(whole[:length])
        del self._buffer[: length + 2]
        return data
