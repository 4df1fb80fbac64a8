"""Where the name of a pool's server leads. Every connect looks the name up, and it can lead elsewhere each time.

A permit is for an address. So the pool takes one for the address that it believes to be next, and the connect, which
looks the name up, exchanges it if that has changed (:meth:`poolmgr.pool.permit_source.PermitSource.claim`). Here is
what one process knows of one name, and which address it takes; the permit source decides which connection gets which
permit.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Any

from poolmgr import threads
from poolmgr.lazy import load
from poolmgr.native import monotonic

AGAIN = 0.5
"""Seconds from the end of one look-up to the next, while callers find the server down."""

LONGEST = 30.0
"""Seconds that a look-up has until another thread may begin one. The resolver's defaults give it as long: two attempts
of five seconds at each of three name servers (resolv.conf(5))."""

REMEMBERED = 60.0
"""Seconds for which a name counts as leading to an address: name servers may return a part of them at a time."""

Found = tuple[Any, ...]
"""What ``socket.getaddrinfo`` returns for one address: family, kind, protocol, name, address."""


def look_up(host: str, port: int, family: int = 0) -> list[Found]:
    """Where a host leads, looked up as redis-py does. Takes as long as the name server does.

    Raises:
        OSError: nowhere.
    """
    load("encodings.idna")  # getaddrinfo loads it for any host
    return list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))


def addresses_of(found: list[Found]) -> tuple[str, ...]:
    """The addresses in it, each once."""
    return tuple(dict.fromkeys(str(one[4][0]) for one in found))


class Name:
    """One host's name.

    Attributes:
        addresses: where it led at the last look-up; empty: never looked up.
        chosen: the address to which the next connection is likely to lead.
        seen: every address to which it has led lately, and when it last did.
        dead: addresses that were never reached. They are tried again when all others are down.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        self.chosen = ""
        self.seen: dict[str, float] = {}
        self.dead: set[str] = set()
        self._look_at = 0.0
        """When the next look-up that is not for a particular connection may begin."""

    def leads(self, addresses: tuple[str, ...], now: float) -> None:
        """A look-up has found these addresses."""
        self.addresses = addresses
        self.dead.intersection_update(addresses)
        self.seen = {address: at for address, at in self.seen.items() if now < at + REMEMBERED}
        self.seen.update(dict.fromkeys(addresses, now))

    def is_among(self, host: str | None, address: str) -> bool:
        """Whether it is the name of this host, and also leads to other addresses."""
        return self.host == host and address in self.addresses and len(self.addresses) > 1

    def choose(self, is_down: Callable[[str], bool]) -> bool:
        """Choose the first address that is not down; if all are, keep the present one. Whether it is another now."""
        best = next((address for address in self.addresses if not is_down(address)), "")
        if not best:
            best = self.chosen if self.chosen in self.addresses else self.addresses[0]
        before, self.chosen = self.chosen, best
        return best != before

    def leaves(self, address: str, *, unreached: bool) -> bool:
        """Whether to keep nothing for an address: one that was never reached (``localhost`` has one if the server
        listens by IPv4 only), or one to which the name does not lead any more."""
        if not address or address == self.chosen:
            return False
        if unreached and address in self.addresses:
            self.dead.add(address)
            return True
        return address not in self.seen

    def look_behind(self, look_up: Callable[[], None]) -> None:
        """Look it up again in another thread, unless one does, or has just done so."""
        if not self.may_look(monotonic()):
            return
        if not threads.started(threads.make(self._look, "poolmgr-name", look_up)):
            self._look(look_up)

    def _look(self, look_up: Callable[[], None]) -> None:
        try:
            with contextlib.suppress(OSError):
                look_up()
        finally:
            self.looked(monotonic())

    def may_look(self, now: float) -> bool:
        """Whether it is time to look it up again, and no other thread does. :meth:`looked` is to follow. If a signal
        handler's exception comes between, the next look-up waits for :data:`LONGEST`."""
        if now < self._look_at:
            return False
        self._look_at = now + LONGEST
        return True

    def looked(self, now: float) -> None:
        """That look-up is done."""
        self._look_at = now + AGAIN
