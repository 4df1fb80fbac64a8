"""How connections get their permits: the one link from a connection back to its pool and the member. Which address of
its server's name the next one is for, :mod:`poolmgr.pool.names` chooses.

A connection refers to its :class:`PermitSource`, never to its pool, and the source to its pool only weakly:
no cycle keeps sockets alive. One source belongs to one pool in one process; after a fork it starts over
(:meth:`PermitSource.forget`), so that a connection which the child inherited and uses asks the child's member.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from poolmgr.exceptions import ServerDownError
from poolmgr.member.ports import Permit, Permits, PoolPort
from poolmgr.native import monotonic
from poolmgr.pool.endpoints import Way, arguments_of, endpoint_of, is_name, key_of, opens_no_socket
from poolmgr.pool.membership import Member, outage_error, process_member, tell_failure, tell_nameless
from poolmgr.pool.names import Found, Name, addresses_of, look_up
from poolmgr.taking import NO_LOCK, Lock, taken

ending = sys.is_finalizing

NAMELESS = 60.0
"""Seconds for which a pool whose server has refused our names opens connections without one."""

PATIENCE = 5.0
"""Seconds that a connection without a pool waits for others."""


class Pool(PoolPort, Protocol):
    """The part of a pool that is read here."""

    timeout: float | None
    connection_class: Any
    connection_kwargs: dict[str, Any]

    def _connections(self) -> list[Any]: ...

    def _forget_refusal(self) -> None:
        """A refused permit says nothing any more: the next one is another address's."""


class _Later:
    """Stands for a permit that is claimed once the address is known."""

    serial = 0
    name = ""
    gate = None
    permits: Any = None

    def gone(self) -> None:
        pass

    def hold(self, sock: Any, below: int = -1) -> None:
        pass

    def close(self, sock: Any) -> None:
        sock.close()


LATER = _Later()


class PermitSource:
    """A pool, as its connections know it.

    Args:
        way_of: how connections of a class get to their server, as the pool's flavour knows it.
        ask: what a provider of credentials says, likewise.
    """

    def __init__(
        self,
        pool: Pool,
        member: Member | None,
        way_of: Callable[[type], Way],
        ask: Callable[[Any], Any] = lambda provider: provider.get_credentials(),
    ) -> None:
        self._pool = weakref.ref(pool)
        self._way_of = way_of
        self._ask = ask
        self._member = member
        self._all: dict[str, Permits] = {}
        self._own: Permits | None = None
        self._own_class: object = None
        self._nameless_until = float("-inf")
        self._name: Name | None = None
        """The name of the pool's server, if it has one, and where it has led."""

    @property
    def pool(self) -> Pool | None:
        return self._pool()

    def forget(self) -> None:
        """After a fork: another process, another member."""
        self._all = {}
        self._own = None
        self._name = None
        self.__dict__.pop("_attaching", None)

    # ---- the pool's own server -------------------------------------------------------------------

    @property
    def fixed(self) -> bool:
        """Whether the host is known before a connection is made. With Sentinel it is not, nor if a function makes
        the connections; connections in memory have none."""
        pool = self._pool()
        return (
            pool is not None
            and "connection_pool" not in pool.connection_kwargs
            and isinstance(pool.connection_class, type)
            and not opens_no_socket(pool.connection_class)
        )

    def attach(self) -> Permits | None:
        """The permits of the address to which the next connection is likely to lead; None: not known yet. Does
        not block."""
        pool = self._pool()
        own = self._own
        if own is not None and (pool is None or self._is_next(own, pool)) and not self._is_over(own):
            return own
        if pool is None or not self.fixed:
            return None
        kind, arguments = pool.connection_class, pool.connection_kwargs
        host, port = arguments.get("host") or "localhost", arguments.get("port")
        address = ""
        way = self._way_of(kind)
        if way.tcp and not way.own and is_name(host):
            if self._name is None or self._name.host != host:
                self._name = Name(host)
            address = self._name.chosen
            if not address:
                return None
        else:
            self._name = None
        self._own_class = kind  # it may be set on a pool
        self._own = own = self._permits(host, port, address=address)
        return own

    def is_ready(self) -> bool:
        """Whether :meth:`attach` and :meth:`look_up` do not block: the member has started, and a name was looked up."""
        pool, own = self._pool(), self._own
        if pool is None or (own is not None and self._is_next(own, pool) and not self._is_over(own)):
            return True
        return not self.fixed

    def _is_next(self, own: Permits, pool: Pool) -> bool:
        """Whether these are still for the pool's next address. Asked each time: nothing else ensures that, when
        two threads change it, the later one has the last word."""
        name = self._name
        return pool.connection_class is self._own_class and (name is None or own.endpoint.address == name.chosen)

    def take(self) -> Permit | None:
        """A permit for a connection of the pool, without waiting."""
        permits = self.attach()
        return LATER if permits is None else permits.take()

    @property
    def known(self) -> list[Permits]:
        """All permits this pool draws on."""
        return list(self._all.values())

    def down(self) -> ServerDownError | None:
        """The error for a caller that would have to connect to a server known to be down. If the server has a name,
        another of its addresses is tried next, and another thread looks the name up again."""
        permits = self.attach()
        error = outage_error(permits)
        if error is None or self._name is None:
            return error
        self._choose()
        if self.attach() is not permits:
            return None
        self._name.look_behind(self._follow)
        return error

    # ---- its name --------------------------------------------------------------------------------

    def look_up(self) -> Permits | None:
        """Like :meth:`attach`, after looking the name up if that was never done. Takes as long as that does;
        if it finds nothing, the connect will say so."""
        permits, name = self.attach(), self._name
        if permits is None and name is not None and not name.addresses:
            with contextlib.suppress(OSError):
                self.leads(name, self._found(name))
            permits = self.attach()
        return permits

    def _found(self, name: Name) -> tuple[str, ...]:
        pool = self._pool()
        arguments = {} if pool is None else pool.connection_kwargs
        return addresses_of(look_up(name.host, arguments.get("port") or 6379, arguments.get("socket_type", 0)))

    def _follow(self) -> None:
        name = self._name
        if name is not None:
            found = self._found(name)
            name.dead.clear()  # all are down, and each is tried once more: also those that are left for the first now
            self.leads(name, found)
            name.dead.clear()

    def leads(self, name: Name, addresses: tuple[str, ...]) -> None:
        """A look-up of the name has found these addresses."""
        if name is self._name and addresses:
            name.leads(addresses, monotonic())
            self._choose()

    def _choose(self) -> None:
        """Take the name's best address, and keep nothing for those that are of no use any more."""
        name = self._name
        if name is None or not name.addresses:
            return
        if name.choose(self._is_down):
            own, pool = self.attach(), self._pool()
            if own is not None and pool is not None:
                own.prefer()
                pool._forget_refusal()
        for permits in self.known:
            known = permits.endpoint
            if known.host == name.host and name.leaves(known.address, unreached=permits.unreached):
                self._all.pop(known.key, None)
                permits.leave()

    def _is_down(self, address: str) -> bool:
        pool, name = self._pool(), self._name
        permits = None if pool is None else self._all.get(key_of(address, pool.connection_kwargs.get("port"), None))
        if permits is None:
            return name is not None and address in name.dead
        return permits.outage is not None

    def ordered(self, connection: Any, found: list[Found]) -> list[Found]:
        """A connection's addresses in the order in which it tries them: first the one that its permit is for, or, if it
        has none, the one that the next permit would be for."""
        host = getattr(connection, "host", None)
        if not is_name(host):
            return found
        addresses = addresses_of(found)
        name = self._name
        if name is not None and name.host == host:
            self.leads(name, addresses)
        ticket = connection._ticket
        held = None if ticket is None else ticket.permit
        permits = self._own if held is None or held is LATER else held.permits
        first = "" if permits is None else permits.endpoint.address
        return sorted(found, key=lambda one: one[4][0] != first)

    # ---- a connection's server -------------------------------------------------------------------

    def claim(self, connection: Any, place: Any = None) -> Permit:
        """The permit for a socket that a connection is about to open; waits if it must.

        Args: as :meth:`drawn`.

        Raises:
            ConnectionPoolTimeoutError: no permit came in time (:mod:`poolmgr.member.core.bounds`).
            ServerDownError: the server is known to be down.
        """
        while True:
            permit = self.drawn(connection, place)
            if permit is None:
                permits = connection._draws
                permit = permits.wait(self.patience(connection))
                if permit is None:
                    self.must_be_over(permits)
                    continue
            return permit

    def drawn(self, connection: Any, place: Any = None) -> Permit | None:
        """The permit for a socket that a connection is about to open, if there is one now; ``connection._draws`` says
        from where. A permit taken for it in advance is given back if it is for another address.

        Args:
            place: the address as the kernel takes it; None: not known, and the host stands for it.
        """
        ticket = connection._ticket
        prepared: Permit | None = ticket.claim() if ticket is not None else None
        connection._draws = permits = self.attached(connection, place)
        if prepared is not None and prepared is not LATER:
            if prepared.permits is permits:
                return prepared
            prepared.gone()
        return permits.take()

    def patience(self, connection: Any) -> float | None:
        """How long a connection waits for a permit that others hold."""
        if connection._refused is not None:
            return 0.0  # it has waited before another one of its servers
        pool = self._pool()
        return PATIENCE if pool is None else pool.timeout

    def attached(self, connection: Any, place: Any = None) -> Permits:
        """The permits of the address to which a connection is about to go. Unless :meth:`is_attached` it may block: the
        member starts, a provider of credentials is called."""
        host, port, path, address = self._target(connection, place)
        return self._permits(host, port, path, connection, address)

    def is_attached(self, connection: Any, place: Any = None) -> bool:
        """Whether :meth:`attached` and :meth:`drawn` do not block."""
        pool = self._pool()
        if pool is None:
            return True
        host, port, path, address = self._target(connection, place)
        permits = self._all.get(key_of(address or host, port, path or self._path(pool)))
        return permits is not None and not self._is_over(permits)

    @staticmethod
    def _target(connection: Any, place: Any) -> tuple[str | None, int | None, str | None, str]:
        host, port = getattr(connection, "host", None), getattr(connection, "port", None)
        address = str(place[0]) if isinstance(place, tuple) and is_name(host) else ""
        return host, port, getattr(connection, "path", None), address

    def must_be_over(self, permits: Permits) -> None:
        """After a wait that gave no permit: whether it is worth drawing again.

        Raises:
            ServerDownError: it is not.
        """
        if not self._is_over(permits):
            raise ServerDownError("this connection's member has left, and there is no other one")

    def _permits(
        self, host: str | None, port: int | None, path: str | None = None, connection: Any = None, address: str = ""
    ) -> Permits:
        pool = self._pool()
        if pool is None:
            if self._own is not None and not self._is_over(self._own):
                return self._own
            # A destructor that uses the pool may run after the garbage collector has cut all weak references to it.
            endpoint = endpoint_of(self._way_of(type(connection)), arguments_of(connection), host, port, address)
            return process_member().permits(endpoint)
        key = key_of(address or host, port, path or self._path(pool))
        permits = self._all.get(key)
        if permits is None or self._is_over(permits):
            kind, arguments = pool.connection_class, pool.connection_kwargs
            if not isinstance(kind, type):  # a function that makes connections may have its own arguments
                kind, arguments = type(connection), arguments_of(connection)
            arguments = self._with_login(arguments)  # before the lock: a provider may wait for a loop
            lock = self._lock()
            for _ in taken(lock):
                try:
                    permits = self._all.get(key)
                    if permits is None or self._is_over(permits):
                        member = self._member or process_member()
                        among = self._name is not None and self._name.is_among(host, address)
                        endpoint = endpoint_of(self._way_of(kind), arguments, host, port, address, among=among)
                        self._all[key] = permits = member.attach(endpoint, pool)
                finally:
                    lock.release()
            assert permits is not None
        return permits

    def _with_login(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The same arguments, with the credentials instead of their provider."""
        provider = arguments.get("credential_provider")
        if provider is None:
            return arguments
        found = tuple(self._ask(provider))
        username, password = found if len(found) == 2 else (None, *found)
        return {**arguments, "credential_provider": None, "username": username, "password": password}

    def renew(self, key: str) -> None:
        """Report the credentials for this endpoint to the member if they have changed. Calls their provider."""
        pool, permits = self._pool(), self._all.get(key)
        if pool is None or permits is None:
            return
        kind, arguments, known = pool.connection_class, pool.connection_kwargs, permits.endpoint
        if not isinstance(kind, type):
            made = next(iter(pool._connections()), None)
            if made is None:
                return
            kind, arguments = type(made), arguments_of(made)
        way = msgspec.structs.replace(self._way_of(kind), own=known.own)
        arguments = self._with_login(arguments)
        endpoint = endpoint_of(way, arguments, known.host or None, known.port or None, known.address, among=known.among)
        if endpoint != known and endpoint.key == key:
            permits.renew(endpoint)

    def _lock(self) -> Lock:
        """Guards that a pool is attached to a server once. Made when first needed: after gevent has
        patched, and again after a fork. Held while the member starts, so a release never takes it;
        reentrant, since a signal handler may use the pool meanwhile. At the interpreter's end a stopped
        thread may hold it, and only one thread runs."""
        if ending():
            return NO_LOCK
        lock: Lock = self.__dict__.setdefault("_attaching", threading.RLock())
        return lock

    def _is_over(self, permits: Permits) -> bool:
        """Whether their membership has ended, and the process can join again."""
        return permits.over and self._member is None

    def _path(self, pool: Pool) -> str | None:
        kind = pool.connection_class
        return pool.connection_kwargs.get("path") if isinstance(kind, type) and self._way_of(kind).unix else None

    # ---- what connecting has shown ---------------------------------------------------------------

    def goes_nameless(self, connection: Any) -> bool:
        """Whether the server has refused our names lately: do not ask it again for each connection."""
        if monotonic() >= self._nameless_until:
            return False
        tell_nameless(connection._draws, "its user may not say CLIENT SETNAME")
        return True

    def note_nameless(self, connection: Any, why: str) -> None:
        """The server does not know this connection by a name of ours."""
        self._nameless_until = monotonic() + NAMELESS
        tell_nameless(connection._draws, why)

    def reached(self, connection: Any) -> None:
        """A connection was opened. It may have led to another address than the pool's next one."""
        reached = getattr(connection._draws, "reached", None)
        if reached is not None:
            reached()

    def tell(self, error: BaseException, began: float) -> None:
        """Report a failed connect to the member; the attempt ``began`` then."""
        pool, own = self._pool(), self._own
        if own is not None:
            kind = None if pool is None else pool.connection_class
            tell_failure(own, error, began, tls=isinstance(kind, type) and self._way_of(kind).tls)
