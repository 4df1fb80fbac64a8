"""Connections of an event loop whose permits are per socket, made from redis.asyncio's connection classes or a user's.

:func:`poolmgr.pool.aio.derivation.derive` puts :class:`Pooled` in front of a connection class and our own dialling and
closing (:mod:`poolmgr.pool.aio.sockets`) behind it, so that every connect, disconnect, reconnect and retry passes here,
even those that redis-py makes inside a command.

The socket has two descriptors. The transport has one, and closes it when it likes: it ends with its loop, or at the
peer's word, and proves nothing. The other one, ``_raw``, is the permit's: the member closes it so that the connection's
end is proven (rule M3), whether or not the loop still lives.

``disconnect`` and all that cleans up are coroutines that never suspend, so nothing can cancel them. A connect that is
interrupted anywhere leaves no connection: half a handshake may be without a user, or on another database.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from redis._parsers import _AsyncHiredisParser
from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError

from poolmgr import certificates
from poolmgr.errors import PoolmgrError
from poolmgr.exceptions import GateShutError
from poolmgr.lazy import importable
from poolmgr.member.closer import close_copy, discard
from poolmgr.member.ports import Permit
from poolmgr.native import monotonic
from poolmgr.pool import misdirected
from poolmgr.pool.aio.claims import claim
from poolmgr.pool.aio.handshake import Later
from poolmgr.pool.aio.parser import in_front
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.gate import question, shut_for_good
from poolmgr.pool.handlers import loosen
from poolmgr.pool.handshake import name_login
from poolmgr.pool.metering import is_plain
from poolmgr.pool.naming import Named


class Foreign:
    """Stands for the stream of a connection that foreign code has made: nothing is known of it without a look."""

    error = None
    stirred = True


FOREIGN = Foreign()

if TYPE_CHECKING:
    _Base: Any
else:
    _Base = object


class Pooled(Named, PoolEntry, _Base):  # type: ignore[misc]
    """In front of a class that derives from :class:`redis.asyncio.connection.AbstractConnection`."""

    _reader: Any = None
    """redis-py's, and so is the next one. A class of a user's may not call redis-py's constructor."""
    _writer: Any = None
    _permit: Permit | None = None
    _raw: socket.socket | None = None
    _stream: Any = None
    """Its :class:`poolmgr.pool.aio.stream.Stream`, or :data:`FOREIGN`; None: it is not connected."""
    _shard: Any = None
    """The part of its pool that lives in its loop."""
    _secured = False
    _own_way = False
    """Foreign code stands between a connect and the socket."""
    _together = True
    """Whether commands may be sent together: in a class that sends and reads as redis-py does."""
    _direct = True
    """Whether its stream feeds hiredis."""
    _eager = False
    """``connect``, ``can_read`` or ``is_connected`` is foreign, and asked for every checkout."""
    _asked = False
    """``can_read`` is."""
    _socketless = False
    """Connections of this class are in memory, and need no permit."""
    _dialled_in = 0
    _connected_at = 0.0
    """When it last connected (monotonic seconds)."""

    @property
    def _is_open(self) -> bool:
        return self._stream is not None

    def __del__(self) -> None:
        if self._raw is not None or self._permit is not None or self._stream is not None:
            self._hand_over(lost=True)

    # ---- connecting ------------------------------------------------------------------------------

    async def connect(self) -> None:
        importable()
        try:
            await super().connect()
        except Exception as error:
            name_login(error, self)
            if self._secured:
                certificates.name(error, certificates.of(self))
            raise
        if self._stream is None and self.is_connected:
            await self._connected_by_itself()

    async def _connected_by_itself(self) -> None:
        """The class's ``connect`` bypasses ``_connect``."""
        try:
            if self._permit is None and getattr(self._writer, "get_extra_info", str)("socket"):
                self._permit = await self._claim()
            self._adopt()
        except BaseException:
            await self.disconnect()
            raise

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self.is_connected:
            return
        attempt = 1
        while True:
            try:
                await self._connect_named(check_health, retry_socket_connect)
                return
            except GateShutError as error:
                shut_for_good(attempt, error)
            attempt += 1

    async def _connect_named(self, check_health: bool, retry_socket_connect: bool) -> None:
        self._naming = not self._together
        try:
            try:
                await self._attempt(check_health, retry_socket_connect)
            except RedisConnectionError as error:
                if not self._name_is_in_the_way(error):
                    raise
                # It may have been killed, or the server has ended: once proves nothing.
                await self._attempt(check_health, retry_socket_connect)
        except (ResponseError, RedisConnectionError) as error:
            if not self._name_is_in_the_way(error):
                raise
            self._nameless = True
            await self._attempt(check_health, retry_socket_connect)
            self._is_nameless(str(error))
        finally:
            self._nameless = False
        if self._gated and not self._passed:  # a function of the user's greets the server
            try:
                await self._ask_gate()
            except BaseException:
                await self.disconnect(nowait=True)
                raise
        self._authenticated()

    async def _ask_gate(self) -> None:
        """Ask the gate of its fleet one by one, if that has not been done.

        Raises:
            redis.exceptions.RedisError: the connection must not be used.
        """
        asked = question(self)
        if asked is None:
            return
        for words in asked.alone:
            await self.send_command(*words, check_health=False)
            try:
                asked.take(words, await self.read_response())
            except ResponseError as error:
                asked.take(words, error)
        asked.pass_through()

    async def _attempt(self, check_health: bool, retry_socket_connect: bool) -> None:
        """As redis-py's ``connect_check_health``, but all or nothing: redis-py leaves a connection behind
        without a user, if its task is cancelled while it waits for credentials."""
        try:
            await super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
        except BaseException as error:
            await self.disconnect(nowait=True)
            if isinstance(error.__cause__, PoolmgrError) and type(error) is RedisConnectionError:
                raise error.__cause__ from None  # redis-py makes a ConnectionError of it, a dead server's
            raise

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """As redis-py's; waits once for all replies after that to HELLO, not one by one."""
        if not self._together:
            await super().on_connect_check_health(check_health=check_health)
            await self._ask_gate()
            return
        later = Later(self)
        mine = self.__dict__  # for this connection and moment only: the usual methods stay as quick as they are
        try:
            mine["send_command"], mine["read_response"] = later.send, later.read
            await super().on_connect_check_health(check_health=check_health)
            await later.end()
        finally:
            mine.pop("send_command", None)
            mine.pop("read_response", None)

    def set_parser(self, parser_class: Any) -> None:
        self._direct = self._together and is_plain(parser_class, _AsyncHiredisParser)
        super().set_parser(in_front(parser_class) if self._direct else parser_class)
        misdirected.watch(self)

    async def _connect(self) -> None:
        self._connected_at = monotonic()
        if self._retired == misdirected.MISDIRECTED:
            self._retired = ""
        misdirected.watch(self)
        if not self._own_way:
            await super()._connect()
            return
        self._hand_over()
        if not self._socketless:
            self._permit = await self._claim()
        try:
            await super()._connect()
            self._adopt()
        except BaseException:
            self._hand_over()
            raise

    async def _claim(self, address: Any = None) -> Permit | None:
        """Claim a permit for the socket to come."""
        origin = self._origin
        return None if origin is None else await claim(origin, self, address)

    def _adopt(self) -> None:
        """Take over what foreign code has connected, under the permit claimed for it."""
        self._stream = FOREIGN
        sock = None if self._writer is None else self._writer.get_extra_info("socket")
        if sock is None:  # the class ends it, whatever it is, and then the permit is free
            return
        self._dialled_in = os.getpid()
        self._raw = raw = socket.socket(fileno=os.dup(sock.fileno()))
        if self._permit is not None:
            self._permit.hold(raw)
            self._name(self._permit)

    # ---- disconnecting ---------------------------------------------------------------------------

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """As the class's, but it never suspends; behind it :class:`poolmgr.pool.aio.sockets.Ended` hands over."""
        try:
            await super().disconnect(*args, **kwargs)
        finally:
            if self._stream is FOREIGN and not self.is_connected:
                self._stream = None
            if self._stream is None:
                if self._raw is not None or self._permit is not None:  # the class has closed it on its own
                    self._hand_over()
                self._settle()
                self._since = 0.0

    def _close(self) -> None:
        """redis-py's clients call it when they are collected."""
        self._hand_over(lost=True)

    def _hand_over(self, *, lost: bool = False) -> None:
        """Have the member close the socket. Never blocks; any thread, and the garbage collector, may call it."""
        raw, permit, stream, writer = self._raw, self._permit, self._stream, self._writer
        self._raw = self._permit = self._stream = self._reader = self._writer = None
        if raw is not None:
            if self._dialled_in != os.getpid():
                close_copy(raw)
            elif permit is None:
                discard(raw)
            else:
                permit.close(raw)
        elif permit is not None:
            permit.gone()
        if stream is None:
            return
        if stream is not FOREIGN:
            stream.abort(later=lost)
        elif writer is not None and not lost:
            getattr(getattr(writer, "transport", None), "abort", writer.close)()

    def _abandon(self) -> None:
        """In a forked child: close our copy of the socket; it and its permit are the parent's, and so is the loop."""
        raw = self._raw
        self._raw = self._permit = self._stream = self._reader = self._writer = None
        if raw is not None:
            close_copy(raw)
        self._settle()
        self._since = 0.0

    # ---- at release and checkout -----------------------------------------------------------------

    def mark_for_reconnect(self) -> None:
        super().mark_for_reconnect()
        self._special = True

    def set_re_auth_token(self, token: Any) -> None:
        super().set_re_auth_token(token)
        self._special = True

    async def re_auth(self) -> None:
        await super().re_auth()
        self._authenticated()

    def set_maint_notifications_pool_handler_for_connection(self, maint_notifications_pool_handler: Any) -> None:
        super().set_maint_notifications_pool_handler_for_connection(maint_notifications_pool_handler)
        self._loosen()

    def set_maint_notifications_cluster_handler_for_connection(
        self, oss_cluster_maint_notifications_handler: Any
    ) -> None:
        super().set_maint_notifications_cluster_handler_for_connection(oss_cluster_maint_notifications_handler)
        self._loosen()

    def _loosen(self) -> None:
        """Let redis-py's handlers refer to the connection weakly: a connection that its holder lost then ends
        with the last reference, and not when the garbage collector next looks for cycles."""
        for name in ("_maint_notifications_pool_handler", "_maint_notifications_connection_handler"):
            loosen(getattr(self, name, None), self)
