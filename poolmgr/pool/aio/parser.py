"""redis-py's parser for hiredis, fed by its stream."""

from __future__ import annotations

import functools
from typing import Any

from redis._parsers import _AsyncHiredisParser


class Parser(_AsyncHiredisParser):
    """What comes goes into its reader without a copy in between."""

    _reader: Any

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        connection._stream.attach(self._reader.feed)


@functools.cache
def in_front(parser_class: type) -> type:
    """The class of parsers fed by their stream, in the place of redis-py's for hiredis, with a bound or without."""
    if parser_class is _AsyncHiredisParser:
        return Parser
    return type("Parser", (Parser, parser_class), {})
