"""Sending commands and reading replies for threads, and counting both (:mod:`poolmgr.pool.owed`).

It must never make a command slower than redis-py's own: the common case does redis-py's work in fewer
calls than redis-py does.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError, TimeoutError as RedisTimeoutError
from redis.utils import SENTINEL

from poolmgr.pool.owed import Counts, Packed
from poolmgr.pool.session_state import KINDS, kind


class Accounted(Counts):
    """For classes in which all methods that send and read are redis-py's: their work, in fewer calls.

    If one of them was changed, :mod:`poolmgr.pool.sync.overridden` counts instead.
    """

    # ---- sending ---------------------------------------------------------------------------------

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's; counts the commands sent."""
        if self._sock is None:
            self.connect_check_health(check_health=False)
        if check_health and self.health_check_interval:
            self.check_health()
        self._record_packed(command)
        self._transmit([command] if isinstance(command, (str, bytes)) else command)

    def send_command(self, *args: Any, **kwargs: Any) -> None:
        """As redis-py's, in one call instead of two."""
        packed = self._command_packer.pack(*args)
        if self._sock is None:
            self.connect_check_health(check_health=False)
        if self.health_check_interval and kwargs.get("check_health", True):
            self.check_health()
        try:
            special = KINDS[args[0]]
        except (KeyError, TypeError):  # not seen before; a bytearray
            special = kind(args[0])
        if special:
            self._record((args,))
        else:
            self._owed += 1
        try:
            for item in packed:
                self._sock.sendall(item)
        except BaseException as error:
            self._send_failed(error)

    def _transmit(self, chunks: Any) -> None:
        try:
            for item in chunks:
                self._sock.sendall(item)
        except BaseException as error:
            self._send_failed(error)

    def _send_failed(self, error: BaseException) -> None:
        """A command sent in part cannot be taken back: the connection is closed, whatever the error was."""
        self.disconnect()
        if isinstance(error, socket.timeout):
            raise RedisTimeoutError("Timeout writing to socket")
        if isinstance(error, OSError):
            number, text = error.args[:2] if len(error.args) > 1 else ("UNKNOWN", *error.args)
            raise RedisConnectionError(f"Error {number} while writing to socket. {text}.")
        raise error

    def pack_command(self, *args: Any) -> Any:
        """As redis-py's; the result knows what it is."""
        return Packed(super().pack_command(*args), [args])

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        """As redis-py's; the result knows what it is."""
        commands = list(commands)
        return Packed(super().pack_commands(commands), commands)

    # ---- reading ---------------------------------------------------------------------------------

    def read_response(
        self,
        disable_decoding: bool = False,
        *,
        timeout: float | object = SENTINEL,
        disconnect_on_error: bool = True,
        push_request: bool = False,
    ) -> Any:
        """As redis-py's; takes one off what is owed.

        With ``push_request`` nothing is taken off: it may have read a push, and a connection that asks
        for pushes is subscribed (and so not clean) or owed nothing.
        """
        try:
            if self.protocol == 3 or self.protocol == "3":
                response = self._parser.read_response(
                    disable_decoding=disable_decoding, push_request=push_request, timeout=timeout
                )
            else:
                response = self._parser.read_response(disable_decoding=disable_decoding, timeout=timeout)
        except BaseException as error:
            where = self._host_error()
            if disconnect_on_error:
                self.disconnect()
            if isinstance(error, socket.timeout):
                raise RedisTimeoutError(f"Timeout reading from {where}") from error
            if isinstance(error, OSError):
                raise RedisConnectionError(f"Error while reading from {where} : {error.args}") from error
            raise
        if not push_request:
            self._owed -= 1
        if self.health_check_interval:
            now = time.monotonic()  # noqa: TID251 (redis-py's check_health reads it so)
            self.next_health_check = now + self.health_check_interval
        if isinstance(response, ResponseError):
            try:
                raise response
            finally:
                del response  # the traceback would refer to this frame, and the frame to the error
        return response


class Counted(Accounted):
    """For a base whose :meth:`read_response` is that of redis-py's connections through Sentinel."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """The base's; takes one off what is owed when a reply, an error reply included, was read."""
        try:
            response = super(Accounted, self).read_response(*args, **kwargs)
        except ResponseError:
            if self._owed and not kwargs.get("push_request"):
                self._owed -= 1
            raise
        if not kwargs.get("push_request"):
            self._owed -= 1
        return response
