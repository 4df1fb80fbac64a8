"""The option ``max_reply``: a reply's size is counted while it is read, and one that grows too large is not read on.

redis-py reads a whole reply before it can be found too long. Here a parser derived from its own feeds its
reader through a counter. Without the option neither exists.

It counts bytes, and :data:`ELEMENT` for each element, since Python keeps an object for each: an empty list is four
bytes on the wire and eighty in memory. All replies that are outstanding together count together, so that a pipeline,
whose replies are kept until the last one is there, has one allowance.
"""

from __future__ import annotations

import functools
import re
import weakref
from typing import Any

from redis.connection import DefaultParser

from poolmgr.exceptions import ReplyTooLargeError

ELEMENT = 48
"""Bytes that an element counts in addition. Signs at the beginning of a line are counted, so a text with such lines
also counts for more than it is."""

ERROR = 384
"""Bytes that an error counts in addition: it is an exception, of 340 bytes (CPython 3.11)."""

_begun = re.compile(rb"\r\n[$*:+_#,%~]").findall

_OUTSTANDING = (1 << 40) - 1
"""The bits of ``_owed`` that count replies; see :mod:`poolmgr.pool.owed`."""


class _Meter:
    """Stands before a hiredis reader."""

    def __init__(self, reader: Any, most: int) -> None:
        self.gets = reader.gets
        self.has_data = reader.has_data
        self._feed = reader.feed
        self._most = most
        self.taken = 0

    def feed(self, data: Any, start: int = 0, size: int = -1) -> None:
        end = len(data) if size < 0 else start + size
        elements, errors = len(_begun(data, start, end)), data.count(b"\r\n-", start, end)
        self.taken = taken = self.taken + end - start + ELEMENT * elements + ERROR * errors
        if taken > self._most:
            raise ReplyTooLargeError(
                f"a reply takes more than {self._most} bytes (max_reply), so the rest was not read and its connection "
                "is closed: ask for less at a time (SCAN, LRANGE, GETRANGE), or raise max_reply"
            )
        self._feed(data, start, end - start)


class Metered(DefaultParser):  # type: ignore[valid-type, misc]
    """redis-py's parser for hiredis, or one derived from it, with a bound."""

    most = 0
    _reader: Any
    _connection: Any = staticmethod(lambda: None)

    def on_connect(self, connection: Any, **options: Any) -> None:
        super().on_connect(connection, **options)
        self._reader = _Meter(self._reader, self.most)
        self._connection = weakref.ref(connection)

    def read_response(self, *arguments: Any, **options: Any) -> Any:
        reply = super().read_response(*arguments, **options)
        if getattr(self._connection(), "_owed", 0) & _OUTSTANDING <= 1 and self._reader is not None:
            self._reader.taken = 0  # the last outstanding one
        return reply


@functools.cache
def parser(most: int, base: type = DefaultParser) -> type:
    """The class of parsers with this bound."""
    bases = (Metered,) if base is DefaultParser else (Metered, base)
    return type("Metered", bases, {"most": most})


def arguments_of(max_reply: int, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a connection, with the parser for this bound; unchanged if there is none.

    Raises:
        ValueError: they name a parser not derived from redis-py's for hiredis, so it cannot be bounded.
    """
    if not max_reply:
        return arguments
    base = arguments.get("parser_class", DefaultParser)
    if not issubclass(base, DefaultParser):
        raise ValueError('"max_reply" needs redis-py\'s parser for hiredis, or a "parser_class" derived from it')
    return {**arguments, "parser_class": parser(max_reply, base)}
