"""Connections whose permits are per socket, made from redis-py's connection classes or a user's own.

:func:`derive` puts :class:`Pooled` in front of a connection class and our own dialling and closing behind it, so
that every connect, disconnect, reconnect and retry passes here, even those that redis-py makes inside a command.
Overrides of a user's class, a mixin or an agent are called in between, in redis-py's order:

- ``_connect`` claims a permit before a socket is made: the one the pool took for the ticket, or one
  that it waits for. It also names the connection after the permit. A class that makes sockets of its own gets its
  permit before its code runs.
- ``disconnect`` never shuts a socket down or closes it: behind all that a class does about it, the socket is handed
  to ``permit.close``, and the member closes it so that its end is proven (rule M3).
- If a connect failed and the server cannot have seen a connection, ``permit.gone``.

The socket is kept in ``_raw`` from the instant it can be connected, so that no exception, wherever it
strikes, loses a connected socket together with the knowledge of its permit.

Two files say what may be done with it: :mod:`poolmgr.pool.owed` whether it is clean, :mod:`poolmgr.pool.sync.look`
whether it is stale. Neither decides its fate. :mod:`poolmgr.pool.sync.derivation` says which class gets which of these
parts.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from redis.exceptions import ConnectionError as RedisConnectionError, ResponseError

from poolmgr import certificates
from poolmgr.exceptions import GateShutError
from poolmgr.forklock import whole
from poolmgr.lazy import importable
from poolmgr.member.closer import close, close_copy, discard, never_connected
from poolmgr.member.ports import Permit
from poolmgr.native import monotonic
from poolmgr.pool import misdirected
from poolmgr.pool.entry import PoolEntry
from poolmgr.pool.gate import shut_for_good
from poolmgr.pool.handlers import loosen
from poolmgr.pool.handshake import name_login
from poolmgr.pool.naming import Named
from poolmgr.pool.sync.handshake import Handshake
from poolmgr.pool.sync.look import Looked
from poolmgr.pool.sync.sockets import ending


class Pooled(Looked, Handshake, Named, PoolEntry):
    """In front of a class that derives from :class:`redis.connection.AbstractConnection`."""

    if TYPE_CHECKING:  # redis-py's
        _sock: Any

        def _settle(self) -> None: ...

        def _authenticated(self) -> None: ...

    _permit: Permit | None = None
    _raw: socket.socket | None = None
    _secured = False
    _dialled_in = 0
    """The process in which the socket was made; 0: none was, or it is not a socket of the kernel's."""
    _connected_at = 0.0
    """When it last connected (monotonic seconds)."""
    _reached = False
    """Whether the last connect reached :meth:`_dial`."""
    _ahead = False
    """The permit is for a socket that foreign code is about to connect: do not give it back meanwhile."""
    _stopped = False
    """Another thread has disconnected meanwhile."""
    _own_way = False
    """Foreign code stands between a connect and the socket."""
    _socketless = False
    """Connections of this class are in memory, and need no permit."""

    @property
    def pid(self) -> int:
        """The process in which the connection was made.

        redis-py's own ``disconnect`` shuts down (``SHUT_RDWR``) sockets made in its process, which would forge the
        end-of-file that the member waits for; so it finds 0 here while it runs.
        """
        return 0 if ending.connection is self else int(self.__dict__["pid"])

    @pid.setter
    def pid(self, value: int) -> None:
        self.__dict__["pid"] = value

    def __await__(self) -> Any:
        """``redis.asyncio.Redis(connection_pool=pool)`` awaits the pool's connection: say what is wrong, and release
        it."""
        pool = None if self._origin is None else self._origin.pool
        if pool is not None:
            pool.release(self)
        raise TypeError(
            "this pool is for threads: give it to redis.Redis(connection_pool=...); "
            "for redis.asyncio.Redis(connection_pool=...) use poolmgr.asyncio.ConnectionPool"
        )

    # ---- connecting ------------------------------------------------------------------------------

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        self._reached = False
        importable()
        try:
            result = super().connect(*args, **kwargs)
        except Exception as error:
            name_login(error, self)
            if self._secured:
                certificates.name(error, certificates.of(self))
            raise
        if not self._reached and self._raw is None and isinstance(self._sock, socket.socket):
            self._claim()  # the class's connect() bypasses _connect()
            self._adopt(self._sock)
        return result

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self._sock is not None:
            super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
            return
        attempt = 1
        while True:
            try:
                self._connect_named(check_health, retry_socket_connect)
                return
            except GateShutError as error:
                shut_for_good(attempt, error)
            attempt += 1

    def _connect_named(self, check_health: bool, retry_socket_connect: bool) -> None:
        self._naming = not self._together
        try:
            try:
                super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
            except RedisConnectionError as error:
                if not self._name_is_in_the_way(error):
                    raise
                # It may have been killed, or the server has ended: once proves nothing.
                super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
        except (ResponseError, RedisConnectionError) as error:
            if not self._name_is_in_the_way(error):
                raise
            self._nameless = True
            super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
            self._is_nameless(str(error))
        finally:
            self._nameless = False
        if self._gated and not self._passed:  # a function of the user's greets the server
            try:
                self._ask_gate()
            except BaseException:
                self.disconnect()
                raise
        self._authenticated()

    def set_parser(self, parser_class: Any) -> None:
        super().set_parser(parser_class)
        misdirected.watch(self)

    def _connect(self) -> Any:
        self._begin()
        if self._own_way:
            self._hand_over()
            if not self._socketless:
                self._claim()
            self._stopped, self._ahead = False, True
        try:
            sock = super()._connect()
        except BaseException:
            self._ahead = False
            self._hand_over()
            raise
        self._ahead = False
        if not self._reached:
            self._adopt(sock)
            if self._stopped:
                if not self._dialled_in:
                    sock.close()
                self._hand_over()
                raise ConnectionAbortedError("disconnected while it was being connected")
        elif self._secured:
            spare, self._raw = self._raw, sock
            if spare is None:  # another thread has disconnected: the connection is not ours any more
                self._raw = None
                close(sock)
                raise ConnectionAbortedError("disconnected while it was being connected")
            with whole():  # else a child would know one of the two, and keep a copy of the other
                if self._permit is not None:
                    self._permit.hold(sock)
                close(spare)  # the second descriptor of the same connection
        elif self._own_way and self._raw is not None and self._raw.fileno() < 0 and isinstance(sock, socket.socket):
            self._raw = sock  # a wrapper has taken over its descriptor
        return sock

    def _begin(self) -> None:
        """A new socket, and a new session."""
        self._reached = False
        self._connected_at = monotonic()
        if self._retired == misdirected.MISDIRECTED:
            self._retired = ""
        misdirected.watch(self)

    def _claim(self) -> None:
        """Claim a permit for the socket to come."""
        origin = self._origin
        self._permit = None if origin is None else origin.claim(self)

    def _adopt(self, sock: Any) -> None:
        """Take over what foreign code has connected, under the permit claimed for it."""
        self._reached = True
        if isinstance(sock, socket.socket):
            self._dialled_in = os.getpid()
            self._raw = sock
            if self._permit is not None:
                self._permit.hold(sock)
        else:  # the class closes it, whatever it is, and then the permit is free
            self._dialled_in = 0
        if self._permit is not None:
            self._name(self._permit)

    def _dial(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        """One attempt to connect a socket, with a permit for it."""
        if self._raw is not None:
            self._hand_over()  # else there may be a permit claimed in advance
        self._reached = True
        origin = self._origin
        permit = self._permit
        if permit is None and origin is not None:
            permit = origin.claim(self, None if self._own_way else address)
        sock = None
        try:
            with whole():
                sock = socket.socket(family, kind, protocol)
                if permit is not None:
                    permit.hold(sock)
            self._prepare(sock)
            sock.settimeout(self.socket_connect_timeout)
            self._dialled_in = os.getpid()
            # In this order: another thread that disconnects in between closes the socket, and the connect fails. In
            # the other order it would give the permit back, and the connect would succeed without one.
            self._raw = sock
            self._permit = permit
            self._ahead = False
            sock.connect(address)
            if self._secured:
                with whole():
                    self._raw = sock.dup()
                    if permit is not None:
                        permit.hold(self._raw, sock.fileno())
            if permit is not None:
                self._name(permit)
            sock.settimeout(self.socket_timeout)
        except BaseException:
            if sock is None or never_connected(sock):
                self._raw = None
                if sock is not None:
                    close(sock)
                if permit is not None:
                    permit.gone()
            self._hand_over()
            raise
        return sock

    def _prepare(self, sock: socket.socket) -> None:
        """Set options before the connect."""

    # ---- disconnecting ---------------------------------------------------------------------------

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """As the class's; behind it :class:`poolmgr.pool.sync.sockets.Ended` hands the socket over."""
        try:
            super().disconnect(*args, **kwargs)
        finally:
            if self._sock is None:
                if self._raw is not None or self._permit is not None:  # the class has closed it on its own
                    self._hand_over()
                self._settle()
                self._since = 0.0

    def _hand_over(self) -> None:
        raw, permit = self._raw, self._permit
        if raw is not None:
            if self._dialled_in != os.getpid():
                close_copy(raw)
            elif permit is None:
                discard(raw)
            else:
                permit.close(raw)
        elif permit is not None:
            if self._ahead:
                self._stopped = True
                return
            permit.gone()
        self._raw = self._permit = self._poll = None

    def _abandon(self) -> None:
        """In a forked child: close our copy of the socket; it and its permit are the parent's."""
        raw, sock = self._raw, self._sock
        self._raw = self._permit = self._poll = None
        self._ahead = False
        self._sock = None
        for copy in (raw, sock):
            if copy is not None:
                close_copy(copy)
        try:
            self._parser.on_disconnect()
        except Exception:  # noqa: S110 (the parser of a thread that does not exist here may be in any state)
            pass
        self._settle()
        self._since = 0.0

    # ---- at release and checkout -----------------------------------------------------------------

    def mark_for_reconnect(self) -> None:
        super().mark_for_reconnect()
        self._special = True

    def set_re_auth_token(self, token: Any) -> None:
        super().set_re_auth_token(token)
        self._special = True

    def re_auth(self) -> None:
        super().re_auth()
        self._authenticated()

    def set_maint_notifications_pool_handler_for_connection(self, maint_notifications_pool_handler: Any) -> None:
        super().set_maint_notifications_pool_handler_for_connection(maint_notifications_pool_handler)
        self._loosen()

    def set_maint_notifications_cluster_handler_for_connection(self, handler: Any) -> None:
        super().set_maint_notifications_cluster_handler_for_connection(handler)
        self._loosen()

    def _loosen(self) -> None:
        """Let redis-py's handlers refer to the connection weakly: a connection that its holder lost then ends
        with the last reference, and not when the garbage collector next looks for cycles."""
        for name in ("_maint_notifications_pool_handler", "_maint_notifications_connection_handler"):
            loosen(getattr(self, name, None), self)
