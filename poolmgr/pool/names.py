"""Where the name of a pool's server leads. Every connect looks the name up, and it can lead elsewhere each time.

A permit is for an address. So the pool takes one for the address that it believes to be next, and the connect, which
looks the name up, exchanges it if that has changed (:meth:`poolmgr.pool.permit_source.PermitSource.claim`). Here is
what one process knows of one name; the permit source decides which connection gets which permit.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from poolmgr.lazy import load

AGAIN = 0.5
"""Seconds from the end of one look-up to the next, while callers find the server down."""

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
        self._looking = threading.Lock()
        """Held during a look-up that is not for a particular connection."""
        self._look_at = 0.0

    def leads(self, addresses: tuple[str, ...], now: float) -> None:
        """A look-up has found these addresses."""
        self.addresses = addresses
        self.dead.intersection_update(addresses)
        self.seen = {address: at for address, at in self.seen.items() if now < at + REMEMBERED}
        self.seen.update(dict.fromkeys(addresses, now))

    def look_up(self, port: int | None, family: int) -> list[Found]:
        """See :func:`look_up`."""
        return look_up(self.host, port or 6379, family)

    def may_look(self, now: float) -> bool:
        """Whether it is time to look it up again, and no other thread does; :meth:`looked` must follow."""
        return now >= self._look_at and self._looking.acquire(blocking=False)

    def looked(self, now: float) -> None:
        """That look-up is done."""
        self._look_at = now + AGAIN
        self._looking.release()
