"""Our ways to a socket and to its end, behind all that a connection class and its mixins do about them.

They stand next to redis-py's own code in the order of methods: :class:`Tcp` and :class:`Unix` in its place, and only
while it is redis-py's own; :class:`Ended` before it. The state that they use is
:class:`poolmgr.pool.sync.connection.Pooled`'s.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from redis.connection import (
    AbstractConnection,
    Connection as RedisConnection,
    UnixDomainSocketConnection as RedisUnixConnection,
)

from poolmgr.exceptions import ServerDownError
from poolmgr.native import monotonic
from poolmgr.pool.names import look_up
from poolmgr.pool.sync.overrides import dials_as

if TYPE_CHECKING:
    from poolmgr.member.ports import Permit
    from poolmgr.pool.permit_source import PermitSource

if TYPE_CHECKING:
    _Abstract: Any  # redis-py's methods are typed in part only
else:
    _Abstract = AbstractConnection


class HandedOver:
    """Stands where a socket was, for the code of redis-py that shuts it down and closes it."""

    def shutdown(self, how: int) -> None:
        pass

    def close(self) -> None:
        pass


class Ending(threading.local):
    """The connection on which redis-py's own ``disconnect`` works in this thread."""

    connection: object = None


ending = Ending()
"""See :attr:`poolmgr.pool.sync.connection.Pooled.pid`."""


class Ended(_Abstract):  # type: ignore[misc]
    """Our way to end a connection, behind the class's own and redis-py's."""

    if TYPE_CHECKING:
        _raw: socket.socket | None
        _permit: Permit | None
        _dialled_in: int
        _sock: Any

        def _hand_over(self) -> None: ...

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        """Hand the socket over to be closed. Never blocks; the garbage collector may call it."""
        if not self._dialled_in and self._sock is not None:
            super().disconnect(*args, **kwargs)
            return
        if self._raw is not None or self._permit is not None:
            self._hand_over()
        if self._sock is not None:
            self._sock = HandedOver()  # also where another thread has handed it over while this one was connecting
        before, ending.connection = ending.connection, self
        try:
            super().disconnect(*args, **kwargs)
        finally:
            ending.connection = before


class Tcp(RedisConnection):
    """Our dialling, behind all classes derived from redis-py's TCP connection."""

    if TYPE_CHECKING:
        _origin: PermitSource | None

        _draws: Any

        def _dial(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket: ...

    def _prepare(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.socket_keepalive:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self.socket_keepalive_options.items():
                sock.setsockopt(socket.IPPROTO_TCP, option, value)

    def _connect(self) -> Any:
        """Connect to the first address of the host that answers."""
        if not dials_as(RedisConnection):
            return super()._connect()  # type: ignore[no-untyped-call]
        failure: OSError | ServerDownError | None = None
        found = look_up(self.host, self.port, self.socket_type)
        failed: list[tuple[Any, OSError, float]] = []
        for family, kind, protocol, _, address in found if self._origin is None else self._origin.ordered(self, found):
            began = monotonic()
            try:
                sock = self._dial(family, kind, protocol, address)
            except (OSError, ServerDownError) as error:
                tell = getattr(self._draws, "trouble", None)
                if tell is not None and isinstance(error, OSError):
                    failed.append((tell, error, began))
                if failure is None or isinstance(error, OSError):  # a fresh error says more than a known outage
                    failure = error
            else:
                for tell, refusal, at in failed:  # nothing else reports these: the connect succeeds
                    tell("unreachable", str(refusal), at)
                return sock
        raise failure or OSError(f"no address for {self.host}")


class Unix(RedisUnixConnection):
    """The same for Unix sockets."""

    if TYPE_CHECKING:

        def _dial(self, family: int, kind: int, protocol: int, address: Any) -> socket.socket: ...

    def _connect(self) -> Any:
        if not dials_as(RedisUnixConnection):
            return super()._connect()  # type: ignore[no-untyped-call]
        return self._dial(socket.AF_UNIX, socket.SOCK_STREAM, 0, self.path)
