"""Connections whose permits are per socket, made from redis-py's connection classes or a user's own.

:func:`derive` puts :class:`Pooled` in front of a connection class and our own dialling behind it, so
that every connect, disconnect, reconnect and retry passes here, those that redis-py makes inside a
command too:

- ``_connect`` claims a permit before a socket is made: the one the pool took for the ticket, or one
  that it waits for. It also names the connection after the permit.
- ``disconnect`` never shuts a socket down or closes it: it hands it to ``permit.close``, and the
  member closes it so that its end is proven (rule M3).
- Where a connect failed and the server cannot have seen a connection, ``permit.gone``.

The socket is kept in ``_raw`` from the instant it can be connected, so that no exception, wherever it
strikes, loses a connected socket together with the knowledge of its permit.

What makes a connection clean is in :mod:`poolmgr.pool.accounting`; what makes it stale is here
(:meth:`Pooled._look`). Neither decides what becomes of it.
"""

from __future__ import annotations

import errno
import functools
import os
import select
import socket
import ssl
import weakref
from typing import TYPE_CHECKING, Any

from redis.connection import (
    AbstractConnection,
    Connection as RedisConnection,
    SSLConnection as RedisSSLConnection,
    UnixDomainSocketConnection as RedisUnixConnection,
)
from redis.driver_info import DriverInfo

from poolmgr.member.closing import discard
from poolmgr.member.ports import Permit
from poolmgr.pool.accounting import Accounted, Counted
from poolmgr.pool.foreign import Bare
from poolmgr.pool.handshake import Handshake
from poolmgr.pool.placed import Placed

if TYPE_CHECKING:
    pass

_CLOSED = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR | select.POLLNVAL
_READABLE = select.POLLIN | getattr(select, "POLLRDHUP", 0)


class _HandedOver:
    """Stands where a socket was, for the code of redis-py that shuts it down and closes it."""

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


def _close_copy(sock: Any) -> None:
    """In a forked child: close our copy of the parent's socket. Its end is the parent's business."""
    try:
        sock.close() if not isinstance(sock, ssl.SSLSocket) else os.close(sock.detach())
    except OSError:
        pass


class Pooled(Handshake, Accounted, Placed):
    """In front of a class that derives from :class:`redis.connection.AbstractConnection`."""

    if TYPE_CHECKING:  # redis-py's
        _sock: Any
        client_name: Any
        driver_info: Any
        pid: int
    _permit: Permit | None = None
    _raw: socket.socket | None = None
    _poll: Any = None
    _given_name: Any = _HandedOver  # not set yet
    _given_info: DriverInfo | None = None
    _secured = False
    _dialled_in = 0
    """The process in which the socket was made."""

    # ---- connecting ------------------------------------------------------------------------------

    def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if self._sock is not None:
            return
        super().connect_check_health(check_health=check_health, retry_socket_connect=retry_socket_connect)
        self._authenticated()

    def _connect(self) -> Any:
        try:
            sock = super()._connect()
        except BaseException:
            self._hand_over()
            raise
        if self._secured:
            spare, self._raw = self._raw, sock
            if spare is None:  # another thread has disconnected meanwhile: the connection is not ours any more
                self._raw = None
                sock.close()
                raise ConnectionAbortedError("disconnected while it was being connected")
            spare.close()  # the second descriptor of the same connection
        return sock

    def _dial(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket:
        """One attempt to connect a socket, with a permit for it."""
        self._hand_over()
        origin = self._origin
        permit = None
        sock = socket.socket(family, kind, protocol)
        try:
            self._prepare(sock)
            sock.settimeout(self.socket_connect_timeout)
            self._dialled_in = os.getpid()
            # redis-py shuts down what was made in this process, and would forge the end that is waited for.
            self.pid = 0
            permit = None if origin is None else origin.claim(self)
            # In this order: another thread that disconnects in between closes the socket, and the connect fails. The
            # other way round it would give the permit back, and the connect would succeed without one.
            self._raw = sock
            self._permit = permit
            sock.connect(address)
            if self._secured:
                self._raw = sock.dup()
            if permit is not None:
                self._name(permit)
            sock.settimeout(self.socket_timeout)
        except BaseException:
            if self._never_connected(sock):
                self._raw = None
                sock.close()
                if permit is not None:
                    permit.gone()
            self._hand_over()
            raise
        return sock

    def _prepare(self, sock: socket.socket) -> None:
        """Set options before the connect."""

    @staticmethod
    def _never_connected(sock: socket.socket) -> bool:
        """Whether the server cannot have seen a connection. Stops an attempt that is still under way, so
        that it cannot succeed after all (a FIN is what it gets then, and the answer is no)."""
        try:
            sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        try:
            sock.getpeername()
        except OSError as error:
            return error.errno != errno.EBADF  # else it was handed over and closed, whatever it was
        return False

    def _name(self, permit: Permit) -> None:
        """Carry the permit's name in the client name and in LIB-NAME."""
        if self._given_name is _HandedOver:
            self._given_name, self._given_info = self.client_name, self.driver_info
        if not permit.name:
            return
        self.client_name = f"{self._given_name}:{permit.name}" if self._given_name else permit.name
        info = self._given_info
        if info is not None:
            library = info.formatted_name
            self.driver_info = DriverInfo(
                name=f"{library}:{permit.name}" if library else permit.name, lib_version=info.lib_version
            )

    # ---- disconnecting ---------------------------------------------------------------------------

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Hand the socket over to be closed. Never blocks; may be called by the garbage collector."""
        if self._raw is not None or self._permit is not None:
            self._hand_over()
        if self._dialled_in and self._sock is not None:
            self._sock = _HandedOver()  # also where another thread has handed it over while this one was connecting
        super().disconnect(*args, **kwargs)
        self._settle()
        self._since = 0.0

    def _hand_over(self) -> None:
        raw, permit = self._raw, self._permit
        if raw is not None:
            if self._dialled_in != os.getpid():
                _close_copy(raw)
            elif permit is None:
                discard(raw)
            else:
                permit.close(raw)
        elif permit is not None:
            permit.gone()
        self._raw = self._permit = self._poll = None

    def _abandon(self) -> None:
        """After a fork, in the child: close our copy of the socket; it and its permit are the parent's."""
        raw, sock = self._raw, self._sock
        self._raw = self._permit = self._poll = None
        self._sock = None
        for copy in (raw, sock):
            if copy is not None:
                _close_copy(copy)
        try:
            self._parser.on_disconnect()
        except Exception:  # the parser of a thread that does not exist here may be in any state
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
        """Let redis-py's handlers refer to the connection weakly: a connection that its holder lost ends
        with the last reference then, and not when the garbage collector next looks for cycles."""
        for name in ("_maint_notifications_pool_handler", "_maint_notifications_connection_handler"):
            handler: Any = getattr(self, name, None)
            if getattr(handler, "connection", None) is self:
                handler.connection = weakref.proxy(self)

    def _look(self) -> str:
        """Why the idle connection cannot be used, from one look at its socket; empty if it can.

        Nothing is owed, so nothing should be there to read. A push may be, under RESP3.
        """
        sock = self._sock
        if sock is None:
            return "disconnected"
        poll = self._poll
        if poll is None:
            poll = self._poll = select.poll()
            poll.register(sock, _READABLE)
        try:
            events = poll.poll(0)
        except OSError:
            return "stale"
        if not events:
            return ""
        if events[0][1] & _CLOSED:
            return "stale"
        return self._peek(sock)

    def _peek(self, sock: Any) -> str:
        if isinstance(sock, ssl.SSLSocket):
            return self._peek_secured(sock)
        try:
            first = sock.recv(1, socket.MSG_PEEK)  # there is something: it does not block
        except OSError:
            return "stale"
        if not first:
            return "stale"
        return "" if first == b">" and self.protocol in (3, "3") else "dirty"

    def _peek_secured(self, sock: ssl.SSLSocket) -> str:
        """TLS has records of its own (session tickets), which are no data; they are read away."""
        sock.settimeout(0)
        try:
            data = sock.recv(65536)
        except (ssl.SSLWantReadError, BlockingIOError):
            return ""
        except OSError:
            return "stale"
        finally:
            sock.settimeout(self.socket_timeout)
        if not data:
            return "stale"
        reader: Any = getattr(self._parser, "_reader", None)
        if data[:1] == b">" and self.protocol in (3, "3") and hasattr(reader, "feed"):
            reader.feed(data)
            return ""
        return "dirty"


class _Tcp(RedisConnection):
    """Our dialling, behind whatever derives from redis-py's TCP connection."""

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def _connect(self) -> socket.socket:
        """Connect to the first address of the host that answers."""
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(
            self.host, self.port, self.socket_type, socket.SOCK_STREAM
        ):
            try:
                return self._dial(family, kind, protocol, address)  # type: ignore[attr-defined,no-any-return]
            except OSError as error:
                failure = error
        raise failure or OSError(f"no address for {self.host}")


class _Unix(RedisUnixConnection):
    """The same for Unix sockets."""

    def _connect(self) -> socket.socket:
        return self._dial(socket.AF_UNIX, socket.SOCK_STREAM, 0, self.path)  # type: ignore[attr-defined,no-any-return]


_derived: dict[type, type] = {}


def derive(base: type) -> type:
    """The class of pooled connections for a connection class; the same for the same class."""
    made = _derived.get(base)
    if made is None:
        made = _derived.setdefault(base, _made(base))
    return made


def _made(base: type) -> type:
    if issubclass(base, Placed):
        return base
    if not issubclass(base, AbstractConnection):
        return type(base.__name__, (Bare, base), {"__module__": __name__})
    mixins: tuple[type, ...] = (Pooled,)
    if base.read_response is not AbstractConnection.read_response:
        mixins = (_Guarded,)
    behind: tuple[type, ...] = ()
    members: dict[str, Any] = {"__module__": __name__, "_secured": issubclass(base, RedisSSLConnection)}
    if issubclass(base, RedisConnection):
        behind = (_Tcp,)
        members["_prepare"] = _Tcp._prepare
    elif issubclass(base, RedisUnixConnection):
        behind = (_Unix,)
    bases = (*mixins, *behind) if base in (RedisConnection, RedisUnixConnection) else (*mixins, base, *behind)
    return type(base.__name__, bases, members)


class _Guarded(Counted, Pooled):
    """For classes with a ``read_response`` of their own (Sentinel's)."""


@functools.cache
def _driver() -> DriverInfo:
    return DriverInfo()


def with_driver(base: type, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a connection, the driver's name and version among them.

    redis-py looks its own version up in the package's metadata for every connection, which takes longer
    than a connect on this host; here it is done once.
    """
    if not issubclass(base, AbstractConnection) or arguments.keys() & {"driver_info", "lib_name", "lib_version"}:
        return arguments
    return {**arguments, "driver_info": _driver()}
