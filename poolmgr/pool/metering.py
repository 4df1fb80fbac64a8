"""The option ``max_reply``: a reply's size is counted while it is read, and one that grows too large is not read on.

redis-py reads a whole reply before it can be found too long. Here a parser derived from its own feeds its
reader through a counter. Without the option neither exists.

It counts bytes, and :data:`ELEMENT` for each element, since Python keeps an object for each: an empty list is four
bytes on the wire and eighty in memory. All replies that are outstanding together count together, so that a pipeline,
whose replies are kept until the last one is there, has one allowance. A push counts alone.
"""

from __future__ import annotations

import functools
import re
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import hiredis
from redis._parsers.hiredis import NOT_ENOUGH_DATA

from poolmgr.exceptions import ReplyTooLargeError
from poolmgr.pool.session_state import outstanding

ELEMENT = 48
"""Bytes that an element counts in addition. Signs at the beginning of a line are counted, so a text with such lines
also counts for more than it is."""

ERROR = 384
"""Bytes that an error counts in addition: it is an exception, of 340 bytes (CPython 3.11)."""

PIECE = 1 << 14
"""Bytes that the reader is fed at a time, and a quarter of a smaller bound: what follows a reply in the same piece
counts with it, such as further messages of a channel."""

_begun = re.compile(rb"\r\n[$*:+_#,%~]").findall

Push: Any = getattr(hiredis, "PushNotification", ())

if TYPE_CHECKING:
    _Parser: Any  # redis-py's, or one derived from it
else:
    _Parser = object


class Meter:
    """Stands before a hiredis reader. What comes waits here until a reply needs it: so replies are counted as they are
    read, however many of them have come."""

    def __init__(self, reader: Any, most: int, connection: Any) -> None:
        self._gets = reader.gets
        self._has_data = reader.has_data
        self._feed = reader.feed
        self._most = most
        self._piece = max(1, min(PIECE, most // 4))
        self._connection = weakref.ref(connection)
        self._waiting: deque[bytes] = deque()
        self._begin = 0
        """How much of the first one the reader has."""
        self._taken = 0
        """By the replies that are outstanding together, and by what has come of the next one."""
        self._kept = 0
        """Of that, by whole replies."""

    def feed(self, data: Any, start: int = 0, size: int = -1) -> None:
        self._waiting.append(bytes(data if size < 0 else memoryview(data)[start : start + size]))

    def has_data(self) -> bool:
        return bool(self._waiting) or bool(self._has_data())

    def gets(self, *arguments: Any) -> Any:
        """As hiredis': the next reply.

        Raises:
            ReplyTooLargeError: it is too large. Raises it again if asked again.
        """
        while True:
            reply = self._gets(*arguments)
            if reply is not NOT_ENOUGH_DATA:
                if isinstance(reply, Push):
                    self._taken = self._kept
                elif outstanding(getattr(self._connection(), "_owed", 0)) <= 1:
                    self._taken = self._kept = 0  # the last outstanding one
                else:
                    self._kept = self._taken
                return reply
            if not self._waiting:
                return reply
            self._feed_more()

    def _feed_more(self) -> None:
        data, start = self._waiting[0], self._begin
        end = min(start + self._piece, len(data))
        before = max(0, start - 2)  # a sign may be the first one of its piece
        elements = errors = 0
        if data.find(b"\r", before, end) >= 0:  # there is none in a long text, and this look takes no time
            elements, errors = len(_begun(data, before, end)), data.count(b"\r\n-", before, end)
        taken = self._taken + end - start + ELEMENT * elements + ERROR * errors
        if taken > self._most:
            raise ReplyTooLargeError(
                f"a reply takes more than {self._most} bytes (max_reply), so the rest was not read and its connection "
                "is closed: ask for less at a time (SCAN, LRANGE, GETRANGE), or raise max_reply"
            )
        self._taken, self._begin = taken, end
        if end == len(data):
            self._waiting.popleft()
            self._begin = 0
        self._feed(data, start, end - start)


class Metered(_Parser):  # type: ignore[misc]
    """In front of redis-py's parser for hiredis, or of one derived from it: with a bound."""

    most = 0
    _reader: Any

    def on_connect(self, connection: Any, **options: Any) -> None:
        super().on_connect(connection, **options)
        self._reader = Meter(self._reader, self.most, connection)


@functools.cache
def parser(most: int, base: type) -> type:
    """The class of parsers with this bound."""
    return type("Metered", (Metered, base), {"most": most})


def is_plain(parser_class: type, default: type) -> bool:
    """Whether it is redis-py's own parser, with a bound or without."""
    return parser_class is default or parser_class.__bases__ == (Metered, default)


def arguments_of(max_reply: int, arguments: dict[str, Any], default: type) -> dict[str, Any]:
    """The arguments of a connection, with the parser for this bound; unchanged if there is none.

    Args:
        default: redis-py's parser for hiredis, of the pool's flavour.

    Raises:
        ValueError: they name a parser not derived from redis-py's for hiredis, so it cannot be bounded.
    """
    if not max_reply:
        return arguments
    base = arguments.get("parser_class", default)
    if not issubclass(base, default):
        raise ValueError(
            f'"max_reply" needs redis-py\'s {default.__name__}, its parser for hiredis, or one derived from it'
            " (parser_class)"
        )
    return {**arguments, "parser_class": parser(max_reply, base)}


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as they were before :func:`arguments_of`, for people."""
    kind = arguments.get("parser_class")
    if kind is None or getattr(kind, "__bases__", ())[:1] != (Metered,):
        return arguments
    base = kind.__bases__[1]
    if base.__module__.startswith("redis._parsers"):
        return {name: value for name, value in arguments.items() if name != "parser_class"}
    return {**arguments, "parser_class": base}
