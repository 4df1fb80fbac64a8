"""Our ways to a socket and to its end, behind all that a connection class and its mixins do about them.

They stand next to redis-py's own code in the order of methods: :class:`Tcp` and :class:`Unix` in its place, and only
while it is redis-py's own; :class:`Ended` before it. The state that they use is
:class:`poolmgr.pool.aio.connection.Pooled`'s.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import (
    AbstractConnection,
    Connection as RedisConnection,
    UnixDomainSocketConnection as RedisUnixConnection,
)
from redis.asyncio.observability.recorder import record_connection_closed, record_error_count
from redis.maint_notifications import MaintenanceState
from redis.observability.metrics import CloseReason

from poolmgr.exceptions import ServerDownError
from poolmgr.forklock import whole
from poolmgr.member.closer import close, never_connected
from poolmgr.member.ports import Permit
from poolmgr.native import monotonic
from poolmgr.pool.aio.aside import aside
from poolmgr.pool.aio.stream import Stream
from poolmgr.pool.endpoints import is_name
from poolmgr.pool.names import Found, look_up

AGAIN = 0.01
"""Seconds between two attempts at a Unix socket whose backlog is full."""

if TYPE_CHECKING:
    _Abstract: Any  # redis-py's methods are typed in part only
    _Connection: Any
    _Unix: Any
else:
    _Abstract, _Connection, _Unix = AbstractConnection, RedisConnection, RedisUnixConnection


class Ended(_Abstract):  # type: ignore[misc]
    """Our way to end a connection, instead of redis-py's."""

    if TYPE_CHECKING:
        maintenance_state: Any

    async def disconnect(
        self,
        nowait: bool = False,
        error: Exception | None = None,
        failure_count: int | None = None,
        health_check_failed: bool = False,
    ) -> None:
        """Hand the socket over to be closed, and keep redis-py's books. Never suspends."""
        was_connected = self._stream is not None
        self._hand_over()
        self._reset_himport_state()
        self._parser.on_disconnect()
        self.reset_should_reconnect()
        if not was_connected:
            return
        if error is None:
            await record_connection_closed(close_reason=CloseReason.APPLICATION_CLOSE)
        else:
            if failure_count is not None and failure_count > self.retry.get_retries():
                host: Any = getattr(self, "host", None)
                port: Any = getattr(self, "port", None)
                await record_error_count(host, port, host, port, error, failure_count)
            reason = CloseReason.HEALTHCHECK_FAILED if health_check_failed else CloseReason.ERROR
            await record_connection_closed(close_reason=reason, error_type=error)
        if self.maintenance_state == MaintenanceState.MAINTENANCE:
            self.reset_tmp_settings(reset_relaxed_timeout=True)
            self.maintenance_state = MaintenanceState.NONE
            self.reset_received_notifications()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Dials(_Abstract):  # type: ignore[misc]
    """One attempt to connect."""

    if TYPE_CHECKING:
        _raw: socket.socket | None
        _permit: Permit | None
        _stream: Any
        _reader: Any
        _writer: Any

    async def _dial(
        self, family: int, kind: int, protocol: int, address: Any, options: dict[str, Any] | None = None
    ) -> None:
        """Connect a socket to this address, with a permit for it.

        Args:
            options: further arguments of the transport: TLS.
        """
        loop = asyncio.get_running_loop()
        if self._raw is not None:
            self._hand_over()
        permit = await self._claim(address)
        sock = raw = None
        try:
            with whole():
                sock = socket.socket(family, kind, protocol)
                stream = Stream(loop, sock)
                raw = sock.dup()
                if permit is not None:
                    permit.hold(raw)
            sock.setblocking(False)
            self._prepare(sock)
            self._dialled_in = os.getpid()
            self._raw, self._permit = raw, permit
            async with asyncio.timeout(self.socket_connect_timeout):
                await self._reach(loop, sock, address)
                if permit is not None:
                    self._name(permit)
                await loop.create_connection(lambda: stream, sock=sock, **(options or {}))
            if self._raw is not raw:
                raise ConnectionAbortedError("disconnected while it was being connected")
        except BaseException as error:
            if sock is not None:
                close(sock)
            if raw is None or never_connected(raw):
                self._raw = self._permit = None
                if raw is not None:
                    close(raw)
                if permit is not None:
                    permit.gone()
            self._hand_over()
            if loop.is_closed() and isinstance(error, RuntimeError):
                raise GeneratorExit from None  # asyncio's own cleaning up has failed; this task is thrown away
            raise
        self._stream = stream
        if self._direct:
            self._reader = self._writer = stream
        else:
            reader = asyncio.StreamReader(loop=loop)
            reader.set_transport(stream.transport)
            stream.attach(reader.feed_data, reader.feed_eof)
            self._reader, self._writer = reader, stream

    async def _reach(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        """What ``loop.sock_connect`` does, and nothing to a loop that was closed meanwhile: uvloop's own crashes the
        process then."""
        try:
            sock.connect(address)
            return
        except (BlockingIOError, InterruptedError):
            pass
        future: asyncio.Future[None] = loop.create_future()
        number = sock.fileno()
        loop.add_writer(number, _settle, future)
        try:
            await future
        finally:
            if not loop.is_closed():
                loop.remove_writer(number)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"Connect call failed {address}")

    def _prepare(self, sock: socket.socket) -> None:
        """Set options before the connect."""


class Tcp(Dials, _Connection):  # type: ignore[misc]
    """Our dialling, behind all classes derived from redis-py's TCP connection."""

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    async def _connect(self) -> None:
        """Connect to the first address of the host that answers."""
        # Certificates are read from disk.
        options = dict(await aside(self._connection_arguments) if self._secured else self._connection_arguments())
        host, port = options.pop("host"), options.pop("port")
        if options.get("ssl"):
            options.setdefault("server_hostname", host)
        failure: OSError | ServerDownError | None = None
        failed: list[tuple[Any, OSError, float]] = []
        for family, kind, protocol, _, address in await self._found(host, port):
            began = monotonic()
            try:
                await self._dial(family, kind, protocol, address, options)
            except (OSError, ServerDownError) as error:
                tell = getattr(self._draws, "trouble", None)
                if tell is not None and isinstance(error, OSError):
                    failed.append((tell, error, began))
                if failure is None or isinstance(error, OSError):  # a fresh error says more than a known outage
                    failure = error
            else:
                for tell, refusal, at in failed:  # nothing else reports these: the connect succeeds
                    tell("unreachable", str(refusal), at)
                return
        try:
            raise failure or OSError(f"no address for {host}")
        finally:
            del failure, failed  # their tracebacks refer to this frame

    async def _found(self, host: str, port: int) -> list[Found]:
        """Where the host leads, in the order in which it is tried. Only a name takes a thread, and time."""

        def find() -> list[Found]:
            found = look_up(host, port, self.socket_type)
            return found if self._origin is None else self._origin.ordered(self, found)

        return await aside(find) if is_name(host) else find()


class Unix(Dials, _Unix):  # type: ignore[misc]
    """The same for Unix sockets."""

    async def _connect(self) -> None:
        await self._dial(socket.AF_UNIX, socket.SOCK_STREAM, 0, self.path)

    async def _reach(self, loop: asyncio.AbstractEventLoop, sock: socket.socket, address: Any) -> None:
        """Both loops take a full backlog (EAGAIN) for a connection in progress, and report it as made."""
        while True:
            try:
                sock.connect(address)
                return
            except BlockingIOError:
                await asyncio.sleep(AGAIN)
