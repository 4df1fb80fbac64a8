"""How error replies are read: replies to a caller's commands keep the server's own words, whatever these say.

redis-py makes exceptions of error replies by their first words, and takes some for the end of the connection (LOADING,
NOAUTH). A script may answer with any words. An error about the server itself is also the answer to ECHO, and
:mod:`worker.exchange` relies on that.
"""

from __future__ import annotations

from typing import Any

from redis.connection import DefaultParser
from redis.exceptions import ResponseError


class Parser(DefaultParser):  # type: ignore[valid-type, misc]
    """redis-py's parser. It raises redis-py's exceptions in the handshake, and while :attr:`verbatim` is not set."""

    verbatim = False

    def on_connect(self, connection: Any, **options: Any) -> None:
        self.verbatim = False
        super().on_connect(connection, **options)

    def parse_error(self, response: str) -> Exception:
        error: Exception = ResponseError(response) if self.verbatim else super().parse_error(response)
        return error
