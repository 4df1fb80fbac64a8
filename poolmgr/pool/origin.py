"""How connections get their permits: the one link from a connection back to its pool and the member.

A connection refers to its :class:`Origin`, never to its pool, and the origin to its pool only weakly:
no cycle keeps sockets alive. One origin belongs to one pool in one process; after a fork it begins anew
(:meth:`Origin.forget`), so that a connection which the child inherited and uses asks the child's member.
"""

from __future__ import annotations

import math
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from redis.connection import SSLConnection, UnixDomainSocketConnection
from redis.exceptions import AuthenticationError

from poolmgr.exceptions import ServerDownError
from poolmgr.loading import load
from poolmgr.member.ports import Permit, Permits, PoolPort
from poolmgr.wire import Endpoint

if TYPE_CHECKING:
    from poolmgr.pool.sync import ConnectionPool

FOREVER = 1e8
"""Seconds that stand for no time limit where a number is needed: three years."""


class Member(Protocol):
    """What a pool needs of its process's member."""

    def attach(self, endpoint: Endpoint, pool: PoolPort) -> Permits: ...


class _Later:
    """Stands for a permit that is claimed when the address is known."""

    serial = 0
    name = ""

    def gone(self) -> None:
        pass

    def close(self, sock: Any) -> None:
        sock.close()


LATER = _Later()


def key_of(host: str | None, port: int | None, path: str | None) -> str:
    """The name of an endpoint: ``tcp://host:port`` or ``unix:///path``."""
    if path:
        return f"unix://{path}"
    return f"tcp://{host or 'localhost'}:{port or 6379}"


def endpoint_of(connection_class: type, arguments: dict[str, Any], host: str | None, port: int | None) -> Endpoint:
    """How the supervisor reaches the server that connections with these arguments reach."""
    username, password = arguments.get("username"), arguments.get("password")
    provider = arguments.get("credential_provider")
    if provider is not None:
        credentials = tuple(provider.get_credentials())
        username, password = credentials if len(credentials) == 2 else (None, *credentials)
    path = arguments.get("path") if issubclass(connection_class, UnixDomainSocketConnection) else None
    tls: dict[str, str | bool | int] | None = None
    if issubclass(connection_class, SSLConnection):
        tls = {k: v for k, v in arguments.items() if k.startswith("ssl_") and isinstance(v, (str, bool, int))}
    return Endpoint(
        key=key_of(host, port, path),
        host="" if path else (host or "localhost"),
        port=0 if path else int(port or 6379),
        path=path or "",
        username=username,
        password=password,
        tls=tls,
    )


class Origin:
    """A pool, as its connections know it."""

    def __init__(self, pool: ConnectionPool, member: Member | None) -> None:
        self._pool = weakref.ref(pool)
        self._member = member
        self._all: dict[str, Permits] = {}
        self._own: Permits | None = None

    @property
    def pool(self) -> ConnectionPool | None:
        return self._pool()

    def forget(self) -> None:
        """After a fork: another process, another member."""
        self._all = {}
        self._own = None
        self.__dict__.pop("_attaching", None)

    # ---- the pool's own server -------------------------------------------------------------------

    @property
    def fixed(self) -> bool:
        """Whether the address is known before a connection looks it up (with Sentinel it is not)."""
        pool = self._pool()
        return pool is not None and "connection_pool" not in pool.connection_kwargs

    def attach(self) -> Permits | None:
        """The permits of the pool's server; None while its address is not known."""
        own = self._own
        if own is not None or not self.fixed:
            return own
        pool = self._pool()
        assert pool is not None
        arguments = pool.connection_kwargs
        self._own = own = self._permits(arguments.get("host"), arguments.get("port"))
        return own

    def take(self) -> Permit | None:
        """A permit for a connection of the pool, without waiting."""
        permits = self.attach()
        return LATER if permits is None else permits.take()

    @property
    def known(self) -> list[Permits]:
        """All permits this pool draws on."""
        return list(self._all.values())

    # ---- a connection's server -------------------------------------------------------------------

    def claim(self, connection: Any) -> Permit:
        """The permit for a socket that a connection is about to open; waits if it has to.

        Raises:
            ConnectionPoolTimeoutError: none came in the pool's ``timeout``.
            ServerDownError: the server is known to be down.
        """
        ticket = connection._ticket
        prepared: Permit | None = ticket.claim() if ticket is not None else None
        host, port = getattr(connection, "host", None), getattr(connection, "port", None)
        permits = self._permits(host, port, getattr(connection, "path", None))
        connection._draws = permits
        if prepared is not None and prepared is not LATER:
            if permits is self._own:
                return prepared
            prepared.gone()  # it was for another server: the connection has been moved
        permit = permits.take()
        if permit is None:
            pool = self._pool()
            patience = None if pool is None else pool.timeout
            permit = permits.wait(FOREVER if patience is None else min(patience, FOREVER))
        return permit

    def _permits(self, host: str | None, port: int | None, path: str | None = None) -> Permits:
        pool = self._pool()
        if pool is None:
            if self._own is None:
                raise ServerDownError("the pool of this connection does not exist any more")
            return self._own
        key = key_of(host, port, path or self._path(pool))
        permits = self._all.get(key)
        if permits is None:
            with self._lock():
                permits = self._all.get(key)
                if permits is None:
                    member = self._member or _process_member()
                    endpoint = endpoint_of(pool.connection_class, pool.connection_kwargs, host, port)
                    self._all[key] = permits = member.attach(endpoint, pool)
        return permits

    def _lock(self) -> Any:
        """Guards that a pool is attached to a server once. Made when it is first needed: after gevent has
        patched, and anew after a fork. Held while the member is started, so never taken by a release;
        reentrant, since a signal handler may use the pool in the middle of that."""
        return self.__dict__.setdefault("_attaching", threading.RLock())

    @staticmethod
    def _path(pool: ConnectionPool) -> str | None:
        unix = issubclass(pool.connection_class, UnixDomainSocketConnection)
        return pool.connection_kwargs.get("path") if unix else None

    def tell(self, error: BaseException) -> None:
        """Tell the member of a failed connect."""
        own = self._own
        if own is None or isinstance(error, ServerDownError):
            return
        text = str(error)
        if "max number of clients" in text:
            own.trouble("refused", text)
        elif isinstance(error, AuthenticationError):
            own.trouble("auth", text)
        elif isinstance(error, (OSError, ConnectionError)) or type(error).__module__.startswith("redis"):
            own.trouble("unreachable", text)


def _process_member() -> Member:
    member: Member = load("poolmgr.member.agent").get_member()  # not before the first checkout: it brings a thread
    return member


def outage_error(permits: Permits | None) -> ServerDownError | None:
    """The error for a caller that would have to connect to a server known to be down."""
    outage = None if permits is None else permits.outage
    if outage is None:
        return None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(outage.since))
    seconds = max(0, math.floor(time.time() - outage.since))
    return ServerDownError(f"the server is down since {since} ({seconds} s): {outage.error}")
