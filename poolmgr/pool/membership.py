"""The member from which a pool has its permits, and what is reported to it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from redis.exceptions import AuthenticationError

from poolmgr import certificates, settings
from poolmgr.exceptions import ServerDownError
from poolmgr.lazy import load
from poolmgr.member.ports import Permits, PoolPort
from poolmgr.native import time as now
from poolmgr.wire import Endpoint

REFUSAL = "max number of clients"
"""How a server says that it takes no more connections."""


class Member(Protocol):
    """The part of its process's member that a pool needs."""

    def attach(self, endpoint: Endpoint, pool: PoolPort) -> Permits: ...


class ProcessMember(Member, Protocol):
    """The same of the process's own, for connections whose pool cannot be asked any more."""

    def permits(self, endpoint: Endpoint) -> Permits: ...

    def rest(self) -> None: ...


_get_member: Callable[[], ProcessMember] | None = None
"""Kept: at the interpreter's end nothing can be loaded."""


def process_member() -> ProcessMember:
    """This process's own; made when first asked for."""
    global _get_member
    if _get_member is None:  # not before the first checkout
        module = "poolmgr.member.unshared" if settings.unenforced() else "poolmgr.member.member"
        _get_member = load(module).get_member
        assert _get_member is not None
    return _get_member()


def say_goodbye() -> None:
    """Close what lies idle in this process, and leave, unless something is in use. Blocks for a moment."""
    if _get_member is not None:
        _get_member().rest()


def outage_error(permits: Permits | None) -> ServerDownError | None:
    """The error for a caller that would have to connect to a server known to be down."""
    outage = None if permits is None else permits.outage
    if permits is None or outage is None:
        return None
    since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(outage.since))
    seconds = max(0, math.floor(now() - outage.since))
    return ServerDownError(f"{permits.endpoint} has been down since {since} ({seconds} s): {outage.error}")


def tell_failure(permits: Permits, error: BaseException, began: float, *, tls: bool) -> None:
    """Report what a failed connect, begun then, says of the server."""
    text = str(error)
    if isinstance(error, ServerDownError):
        return
    if REFUSAL in text:
        permits.trouble("refused", text, began)
    elif isinstance(error, AuthenticationError):
        permits.trouble("auth", text, began)
    elif certificates.unusable(error, tls=tls):
        permits.trouble("way", text, began)
    elif isinstance(error, (OSError, ConnectionError)) or type(error).__module__.startswith("redis"):
        permits.trouble("unreachable", text, began)


def tell_nameless(permits: object, why: str) -> None:
    """A client list cannot prove the ends of this process's connections: the supervisor must know."""
    trouble = getattr(permits, "trouble", None)
    if trouble is not None:
        trouble("nameless", why)
