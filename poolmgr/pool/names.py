"""Where the name of a pool's server leads. A name is looked up at every connect, and can lead elsewhere each time.

A permit is for an address. So the pool takes one for the address that it believes to be next, and the connect, which
looks the name up, exchanges it if that has changed (:meth:`poolmgr.pool.permit_source.PermitSource.claim`). Here is
what is known of one name in one process; who connects, and with which permit, is decided there.
"""

from __future__ import annotations

import socket
import threading
from typing import Any

from poolmgr.lazy import load

AGAIN = 0.5
"""Seconds from the end of one look-up to the next, while callers find that the server is down."""

REMEMBERED = 60.0
"""Seconds for which an address counts as one of a name's that it led to: name servers may tell a part at a time."""

Found = tuple[Any, ...]
"""What ``socket.getaddrinfo`` says of one address: family, kind, protocol, name, address."""


def look_up(host: str, port: int, family: int = 0) -> list[Found]:
    """Where a host leads, as redis-py asks for it. Takes as long as the name server does.

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
        addresses: where it led when it was looked up last; empty: it has not been looked up.
        chosen: that of them to which the next connection is likely to lead.
        seen: every address to which it has led lately, and when it did so last.
        dead: those of them at which nobody has ever been reached. They are tried again when all others are down.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        self.chosen = ""
        self.seen: dict[str, float] = {}
        self.dead: set[str] = set()
        self._looking = threading.Lock()
        """Taken while it is being looked up for nobody in particular."""
        self._look_at = 0.0

    def leads(self, addresses: tuple[str, ...], now: float) -> None:
        """It has been looked up."""
        self.addresses = addresses
        self.dead.intersection_update(addresses)
        self.seen = {address: at for address, at in self.seen.items() if now < at + REMEMBERED}
        self.seen.update(dict.fromkeys(addresses, now))

    def look_up(self, port: int | None, family: int) -> list[Found]:
        """See :func:`look_up`."""
        return look_up(self.host, port or 6379, family)

    def may_look(self, now: float) -> bool:
        """Whether it is time to look it up again, and nobody does; :meth:`looked` must follow."""
        return now >= self._look_at and self._looking.acquire(blocking=False)

    def looked(self, now: float) -> None:
        """That is done."""
        self._look_at = now + AGAIN
        self._looking.release()
