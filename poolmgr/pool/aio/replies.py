"""Sending commands and reading replies with few suspensions: redis-py's work, without its task and timeouts for each.

A command suspends its task once, for its reply; twice if the transport is full. What is sent is counted before its
first byte leaves, and what is read afterwards (:mod:`poolmgr.pool.owed`): so a task that is cancelled anywhere leaves
a connection that says itself that it is not clean. Nothing that cleans up suspends, so nothing can cancel it.

It must never shield: a blocking command must be cancellable (redis-py's issue 2665).
"""

from __future__ import annotations

import asyncio
import codecs
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import hiredis
from redis._parsers import Encoder, _AsyncHiredisParser
from redis._parsers.hiredis import NOT_ENOUGH_DATA
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError, TimeoutError as RedisTimeoutError

from poolmgr.pool.aio.stream import CLOSED, Stream
from poolmgr.pool.owed import Counts, Packed
from poolmgr.pool.session_state import ORDINARY

READ = _AsyncHiredisParser.read_response
"""redis-py's own."""

Push: Any = getattr(hiredis, "PushNotification", ())

UTF_8 = codecs.lookup("utf-8").name

SIMPLE = frozenset((bytes, str, int, type(None), float, bool))
"""Types of replies that are neither an error nor a push."""

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object


class Quick(Counts):
    """For classes in which all methods that send and read are redis-py's, with its parser for hiredis."""

    _pushes: list[Any] | None = None
    """Pushes that a checkout has met: the next read hands them to their handlers."""

    _words_in_c = False
    """Whether hiredis packs commands as this connection's encoder would."""

    def set_parser(self, parser_class: Any) -> None:
        super().set_parser(parser_class)
        encoder = self.encoder
        self._words_in_c = type(encoder) is Encoder and codecs.lookup(encoder.encoding).name == UTF_8
        self._pushes = self._pushes  # an attribute of its own is found sooner than its class's

    # ---- sending -------------------------------------------------------------------------------------

    async def send_command(self, *args: Any, **kwargs: Any) -> None:
        """As redis-py's, in one call instead of three."""
        try:
            plain = args[0] in ORDINARY and self._words_in_c
            packed = hiredis.pack_command(args if plain else self._split(args))
        except (TypeError, ValueError):  # redis-py takes some of these, and says what is wrong with the others
            plain, packed = False, self._packed(args)
        stream = self._writer
        if stream is None or self.health_check_interval:
            if stream is None:
                await self.connect_check_health(check_health=False)
            if self.health_check_interval and kwargs.get("check_health", True):
                await self.check_health()
            stream = self._writer
        if plain:
            self._owed += 1
        else:
            self._record((args,))
        if stream is None or stream.error is not None:
            await self._transmit(packed)
            return
        stream.transport.write(packed)
        if stream.choked is not None:
            await self._flush(stream)

    def _split(self, words: Any) -> tuple[Any, ...]:
        """A command for hiredis: redis-py writes ``CONFIG GET`` as one word.

        Raises:
            TypeError: hiredis would not pack it as this connection's encoder does, or its name is not a string.
        """
        name = words[0]
        if name.__class__ is not str or not self._words_in_c:
            raise TypeError(name)
        return (*name.split(), *words[1:]) if " " in name else tuple(words)

    def _packed(self, args: tuple[Any, ...]) -> bytes:
        return b"".join(super().pack_command(*args))

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """As redis-py's; counts the commands sent."""
        if self._writer is None:
            await self.connect_check_health(check_health=False)
        if check_health and self.health_check_interval:
            await self.check_health()
        self._record_packed(command)
        if isinstance(command, str):
            command = command.encode()
        await self._transmit(command if isinstance(command, (bytes, bytearray, memoryview)) else b"".join(command))

    async def _transmit(self, data: Any) -> None:
        """Write, to a connection that may have ended."""
        stream = self._writer
        try:
            if stream is None:
                raise RedisConnectionError("Error UNKNOWN while writing to socket. Connection lost.")
            if stream.error is not None:
                if not self._unread():  # else the server's last words are there to read
                    raise RedisConnectionError(f"Error UNKNOWN while writing to socket. {CLOSED}")
                return
        except BaseException:
            await self.disconnect(nowait=True)
            raise
        stream.transport.write(data)
        if stream.choked is not None:
            await self._flush(stream)

    async def _flush(self, stream: Stream) -> None:
        """Wait while the transport is full. A command sent in part cannot be taken back."""
        try:
            if not await stream.flush(self.socket_timeout):
                raise RedisTimeoutError("Timeout writing to socket")
            if stream.error is not None:
                raise RedisConnectionError(f"Error UNKNOWN while writing to socket. {CLOSED}")
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    def _unread(self) -> bool:
        reader = self._parser._reader
        return reader is not None and bool(reader.has_data())

    def pack_command(self, *args: Any) -> Any:
        """As redis-py's; the result knows what it is."""
        return Packed(super().pack_command(*args), [args])

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        """As redis-py's; the result knows what it is."""
        commands = list(commands)
        try:
            return Packed([hiredis.pack_command(self._split(words)) for words in commands], commands)
        except (TypeError, ValueError):
            pass
        return Packed([self._packed(tuple(words)) for words in commands], commands)

    # ---- reading -------------------------------------------------------------------------------------

    async def read_response(
        self,
        disable_decoding: bool = False,
        timeout: float | None = None,
        *,
        disconnect_on_error: bool = True,
        push_request: bool | None = False,
    ) -> Any:
        """As redis-py's; takes one off what is owed.

        With ``push_request`` nothing is taken off: it may have read a push, and a connection that asks
        for pushes is subscribed (and so not clean) or owed nothing.

        Args:
            timeout: None: the connection's ``socket_timeout``; infinity: for ever; a number: the answer is None if
                nothing came within so many seconds, and the connection can still be used.
        """
        parser, stream = self._parser, self._reader
        try:
            own = type(parser).read_response is READ
        except AttributeError:
            own = False
        if not own:  # it was replaced, or its method wrapped
            response = await super().read_response(
                disable_decoding, timeout, disconnect_on_error=disconnect_on_error, push_request=push_request
            )
            self._owed -= not push_request
            return response
        reader = parser._reader
        turn: Any = None
        refused = False
        try:
            if stream is None or reader is None:
                raise RedisConnectionError(CLOSED)
            while True:
                if self._pushes:
                    response = self._pushes.pop(0)
                elif disable_decoding:
                    response = reader.gets(False)
                else:
                    response = reader.gets()
                if response is NOT_ENOUGH_DATA:
                    if stream.error is not None:
                        raise stream.error
                    if timeout is None:
                        turn = stream.more(self.socket_timeout)
                        self._active_read_timeout = stream
                        await turn
                        turn = self._active_read_timeout = None
                        if stream.waiter is not None and not stream.woken():
                            raise RedisTimeoutError(f"Timeout reading from {self._host_error()}")
                    elif not await stream.wait(None if timeout == math.inf else timeout):
                        return None
                elif type(response) in SIMPLE:
                    break
                elif response.__class__ is Push:
                    response = await parser.handle_push_response(response)
                    if push_request:
                        break
                else:
                    failure = response[0] if response.__class__ is list and response else response
                    if isinstance(failure, RedisConnectionError):
                        raise failure
                    refused = isinstance(response, ResponseError)
                    break
        except BaseException as error:
            if turn is not None:
                self._active_read_timeout = None
                stream.leave()
            if disconnect_on_error:
                await self.disconnect(nowait=True)
            if isinstance(error, OSError):
                raise RedisConnectionError(f"Error while reading from {self._host_error()} : {error.args}") from error
            raise
        if not push_request:
            self._owed -= 1
        if self.health_check_interval:
            self.next_health_check = asyncio.get_running_loop().time() + self.health_check_interval
        if refused:
            try:
                raise response
            finally:
                del response  # the traceback would refer to this frame, and the frame to the error
        return response

    def _socket_is_empty(self) -> bool:
        return not self._unread() and not self._pushes

    async def can_read(self) -> bool:
        """As redis-py's: whether there is something to read, or the connection has ended."""
        stream = self._reader
        return stream is None or stream.error is not None or self._unread() or bool(self._pushes)

    def _look(self) -> str:
        """Why the idle connection cannot be used; empty if it can. Nothing is owed, so nothing should be there to
        read, but a push under RESP3."""
        stream, reader = self._reader, self._parser._reader
        if stream is None or reader is None:
            return "disconnected"
        if stream.error is not None:
            return "stale"
        stream.stirred = False
        while reader.has_data():
            try:
                found = reader.gets()
            except Exception:  # not RESP
                return "dirty"
            if found.__class__ is not Push:
                return "dirty"
            if self._pushes is None:
                self._pushes = []
            self._pushes.append(found)
        return ""
