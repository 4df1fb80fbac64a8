"""Error replies by which a server says that it is the wrong one for the next user of this connection.

After a failover a name leads to another server, and open connections stay where they were: at a primary that is a
replica now, or that was left behind. Nothing is closed and nothing is owed, so only the error shows it. The
connection is closed when it comes back (``misdirected``), and its replacement looks the name up again.
A few errors are a server's last words before it closes the connection, which is then of no use either.

docs/contract.md judges each error. The judgement happens where redis-py's parser makes an exception of an
error reply: every way to read reaches that place, even for errors inside a transaction's or a script's reply, and
only errors do.
"""

from __future__ import annotations

import re
import weakref
from typing import Any

from poolmgr.native import monotonic

MISDIRECTED = "misdirected"

PACE = 1.0
"""Seconds after one connection was found misdirected; those opened meanwhile are kept, as a replica may be read on
purpose and written to by mistake, and a name may change later than its servers. So each is replaced at most once in
this time."""

QUIET = 10.0
"""Seconds without a misdirected connection after which the next one is logged."""

_told = re.compile(
    r"(?:EXECABORT .*?because of: "  # the role has changed between MULTI and EXEC
    r"|ERR Error running script .*?: -)?"  # before Redis 7
    r"(READONLY|MASTERDOWN|NOREPLICAS|REDIRECT) "
).match

_last = re.compile(r"(UNBLOCKED) force unblock|ERR Protocol error: ").match


class Errors:
    """Stands for ``parse_error`` of one connection's parser: makes exceptions of error replies."""

    __slots__ = ("_connection", "_make")

    def __init__(self, connection: Any, make: Any) -> None:
        self._connection = weakref.ref(connection)
        self._make = make

    def __call__(self, error: Any) -> Any:
        connection = self._connection()
        if connection is not None and isinstance(error, str):
            judge(connection, error)
        return self._make(error)


def watch(connection: Any) -> None:
    """See the error replies of a connection, whatever parser it has."""
    parser: Any = getattr(connection, "_parser", None)
    make = getattr(parser, "parse_error", None)
    if make is None or isinstance(make, Errors):
        return
    try:
        parser.parse_error = Errors(connection, make)
    except AttributeError:  # a user's own parser, with slots
        pass


def judge(connection: Any, error: str) -> None:
    """Mark the connection for closing when it comes back, if this error reply says that it is of no more use."""
    told, last = _told(error), _last(error)
    pool = None if connection._origin is None else connection._origin.pool
    if not (told or last) or pool is None or connection._retired:
        return
    if told and not _may_help(pool, connection, told[1], error):
        return
    connection._retired = MISDIRECTED if told or (last and last[1]) else "broken"
    connection._special = True


def _may_help(pool: Any, connection: Any, word: str, error: str) -> bool:
    """Whether a new connection may lead elsewhere; notes that this one did not lead to the right server."""
    if word == "READONLY" and not getattr(pool, "is_master", True):  # Sentinel was asked for a replica
        return False
    if connection._connected_at <= pool._misdirected_at:
        return True
    now = monotonic()
    since = now - pool._misdirected_at
    if since < PACE:
        return False
    if since >= QUIET:
        pool._misdirected_by = error  # logged when it comes back: no user's code may run in the middle of a reply
    pool._misdirected_at = now
    return True
