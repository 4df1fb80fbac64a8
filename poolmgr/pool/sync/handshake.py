"""The handshake of :mod:`poolmgr.pool.handshake`, for threads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from redis.connection import AbstractConnection
from redis.exceptions import ResponseError

from poolmgr.pool.gate import question
from poolmgr.pool.handshake import OK, Deferral

SOCKET = socket.socket
"""As it was when this was loaded: a test may put another thing in its place."""


class _Later(Deferral):
    """Stands before ``send_command`` and ``read_response`` of one connection during its handshake."""

    def __init__(self, connection: Any) -> None:
        super().__init__(connection)
        self._send = connection.send_command
        self._read = connection.read_response

    def send(self, *words: Any, **options: Any) -> None:
        if self.puts_off(words):
            return
        self._flush()
        self.sends(words)
        self._send(*words, **options)

    def _flush(self) -> None:
        unsent = self.unsent()
        for words in unsent:
            self.sends(words)
        if not isinstance(self._connection._sock, SOCKET):  # what stands for one may take one command at a time
            for words in unsent:
                self._send(*words, check_health=False)
        elif unsent:
            self._connection.send_packed_command(self._connection.pack_commands(unsent), check_health=False)

    def read(self, *arguments: Any, **options: Any) -> Any:
        words, taken_for_ok = self.reads()
        if taken_for_ok:
            return OK
        self.settle()
        try:
            reply = self._read(*arguments, **options)
        except ResponseError as error:
            if not self.forgives(words, error):
                raise
            return OK
        self.replied(words)
        return reply

    def end(self) -> None:
        """The handshake is done, except the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        self.over()
        self.settle()
        self.done()

    def settle(self) -> None:
        """Read the replies still owed.

        Raises:
            redis.exceptions.RedisError: what redis-py raises for such a reply.
        """
        self._flush()
        while self.owed:
            words = self.owed.popleft()
            try:
                reply = self._read()
            except ResponseError as error:
                self.judge(words, error)
            else:
                self.judge(words, reply)


class Handshake(AbstractConnection if TYPE_CHECKING else object):  # type: ignore[misc]
    """Mixed in before a connection class of redis-py, or a user's."""

    _together = True
    """Whether commands may be sent together: in a class that sends and reads as redis-py does."""

    def _ask_gate(self) -> None:
        """Ask the gate of its fleet one by one, if that has not been done.

        Raises:
            redis.exceptions.RedisError: the connection must not be used.
        """
        asked = question(self)
        if asked is None:
            return
        for words in asked.alone:
            self.send_command(*words, check_health=False)
            try:
                asked.take(words, self.read_response())
            except ResponseError as error:
                asked.take(words, error)
        asked.pass_through()

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """As redis-py's; waits once for all replies after that to HELLO, not one by one."""
        if not self._together:
            try:
                super().on_connect_check_health(check_health=check_health)
                self._ask_gate()
            except BaseException:
                self.disconnect()
                raise
            return
        later = _Later(self)
        mine = self.__dict__  # for this connection and moment only: the usual methods stay as quick as they are
        try:
            mine["send_command"], mine["read_response"] = later.send, later.read
            super().on_connect_check_health(check_health=check_health)
            later.end()
        except BaseException:
            self.disconnect()  # half a handshake: it may be on another database than its user believes
            raise
        finally:
            mine.pop("send_command", None)
            mine.pop("read_response", None)
