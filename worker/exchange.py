"""One request's exchange with the server on one connection: everything is sent, everything is read, within a deadline.

The policy is the first line of defence; this is the second. If the server says more on a connection than it was asked,
one caller would get another's data. So each exchange ends with an ECHO of a text that only this exchange knows. If that
reply does not come in its place, or if anything comes before or after it, we close the connection and answer the
request with an error. (Over RESP2 a late push cannot be told from a reply in any other way.)

Whatever is raised here, the connection is closed or all its replies have been read.
"""

from __future__ import annotations

import logging
import secrets
import select
import socket
import time
from typing import Any

from redis import exceptions as redis_errors

from worker.errors import Problem, is_busy, is_loading
from worker.protocol import Command

log = logging.getLogger("poolmgr.worker")

WATCH_EVERY = 0.25
"""Seconds between two looks at a caller whose command blocks."""

_HANGUP = select.POLLRDHUP | select.POLLHUP | select.POLLERR


class Exchange:
    """A connection for one request.

    Args:
        connection: the one that was just taken from the pool.
        seconds: all replies of the request must come within this time.
    """

    def __init__(self, connection: Any, seconds: float) -> None:
        self.connection = connection
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    def ask(self, commands: list[Command], *, caller: socket.socket | None = None) -> list[Any]:
        """The replies, in order; error replies are exceptions among them.

        Args:
            caller: the caller's socket, watched until each reply begins to arrive.

        Raises:
            Problem: the server says more than it was asked, does not run ECHO, or the caller has gone.
            ResponseError: the server is BUSY with a script, or LOADING its data.
            redis_errors.RedisError: the server failed; it is unknown which commands it ran.
        """
        mark = secrets.token_hex(12).encode()
        self._stays()
        if self.connection.can_read(0):
            raise self.stray("before anything was asked")
        replies = self.unbracketed([*commands, [b"echo", mark]], caller=caller)
        last = replies.pop()
        if last != mark:
            self._not_echoed(replies, last)
        if any(map(is_loading, replies)):
            self._is_loaded()
        try:
            more = self.connection.can_read(0)
        except redis_errors.ConnectionError:  # closed just now: the question is answered
            self.connection.disconnect()
        else:
            if more:
                raise self.stray("after all was answered")
        return replies

    def unbracketed(self, commands: list[Command], *, caller: socket.socket | None = None) -> list[Any]:
        """The same without that proof: inside MULTI, where ECHO would be queued, and where the server is BUSY."""
        connection = self.connection
        self._stays()
        connection.send_packed_command(connection.pack_commands(commands), check_health=False)
        connection._parser.verbatim = True  # until the connection has another socket
        replies: list[Any] = []
        for _ in commands:
            if caller is not None:
                self._watch(caller)
            try:
                replies.append(connection.read_response(disable_decoding=True, timeout=self._left()))
            except redis_errors.ResponseError as error:
                replies.append(error)
        return replies

    def _stays(self) -> None:
        """Check that the connection is the one that was asked about the server: a new one may lead to another server.

        Raises:
            ConnectionError: it was closed since. redis-py would make another one.
        """
        if self.connection._sock is None:
            raise redis_errors.ConnectionError("Redis has closed the connection in the middle of a request")

    def close(self) -> None:
        """Close the connection, so that no other request gets it."""
        self.connection.disconnect()

    def _not_echoed(self, replies: list[Any], last: Any) -> None:
        """The last reply is not the text that we sent to be echoed."""
        if is_busy(last):
            if not all(map(is_busy, replies)):
                self.close()
            raise last  # the connection is kept if it said nothing else: no new one can be made while this lasts
        if not isinstance(last, redis_errors.ResponseError):
            raise self.stray("instead of the last reply")
        self.close()
        if not str(last).startswith(("NOPERM ", "NOAUTH ", "ERR unknown command")):
            raise self.stray("instead of the last reply")
        raise Problem(
            503, f"Redis does not run ECHO, without which no reply is certain (allow it +echo): {last}", retry_after=5
        )

    def _is_loaded(self) -> None:
        """A server answers ECHO while it loads its data, but not PING; a script may say LOADING at any time.

        Raises:
            ResponseError: it is loading.
        """
        reply = self.unbracketed([[b"ping"]])[0]
        if is_loading(reply):
            raise reply

    def stray(self, when: str) -> Problem:
        """What to raise where the server said more than it was asked. Closes the connection."""
        self.close()
        log.error(
            "worker.stray_data", extra={"when": when, "remedy": "report it: no command of a caller may cause this"}
        )
        return Problem(
            503,
            "Redis sent what this service had not asked for, so the connection was closed: "
            "the command may or may not have been run",
            retry_after=1,
        )

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise redis_errors.TimeoutError(f"no reply within {self.seconds:g} s")
        return left

    def _watch(self, caller: socket.socket) -> None:
        """Until a reply begins to come; if the caller goes away first, close the connection."""
        poller = select.poll()
        try:
            poller.register(caller, _HANGUP)
        except (OSError, ValueError):
            self.close()
            raise Problem(503, "the caller has gone") from None
        while not self.connection.can_read(timeout=min(WATCH_EVERY, self._left())):
            if poller.poll(0):
                self.close()
                raise Problem(503, "the caller has gone")
