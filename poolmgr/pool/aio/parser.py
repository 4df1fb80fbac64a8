"""redis-py's parser for hiredis, fed by its stream."""

from __future__ import annotations

import functools
from typing import Any

from redis._parsers import _AsyncHiredisParser

from poolmgr.pool.aio.stream import Stream


class Parser(_AsyncHiredisParser):
    """What comes goes into its reader without a copy in between."""

    _reader: Any
    _stream: Any

    def on_connect(self, connection: Any) -> None:
        super().on_connect(connection)  # type: ignore[no-untyped-call]
        connection._stream.attach(self._reader.feed)

    async def read_from_socket(self) -> bool:
        """For redis-py's own ``read_response``, if somebody has wrapped it."""
        stream = self._stream
        if not isinstance(stream, Stream):
            return bool(await super().read_from_socket())  # type: ignore[no-untyped-call]
        if stream.error is not None:
            raise stream.error
        await stream.wait(None)
        return True


@functools.cache
def in_front(parser_class: type) -> type:
    """The class of parsers fed by their stream, in the place of redis-py's for hiredis, with a bound or without."""
    if parser_class is _AsyncHiredisParser:
        return Parser
    return type("Parser", (Parser, parser_class), {})
