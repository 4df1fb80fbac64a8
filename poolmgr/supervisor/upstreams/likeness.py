"""Whether two addresses lead to one server that does not give its run_id (a user without ``INFO``).

A connection open by one address is searched for by the other. If its name is seen there, the server is the same: the
name is unique. If only numbers can be asked for, a client may have that number by chance. So that connection is closed,
to the server's end-of-file, and must then be missing; and once more with another one. Servers never give a number
twice. If neither is allowed, the connection listens on a secret channel, if it may.

Two servers that were started together give the same numbers, also to the connections that we open at both to compare a
third one with them. So numbers are asked of one server after the other, once it is known which of them may match.

:class:`Sign` is what can be searched for. Nothing here decides what follows:
:mod:`poolmgr.supervisor.upstreams.resolution` does.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from poolmgr.supervisor.upstreams.admin import Admin, AdminError
from poolmgr.supervisor.upstreams.resp import ReplyError


class Seen(Enum):
    """What one server says about a connection to another, or to itself."""

    NAMED = "it is there"
    NUMBERED = "one with its number is there"
    MISSING = "it is not there"
    UNTOLD = "no question that is allowed tells"


class Sign(msgspec.Struct, frozen=True):
    """An open connection. ``id``: the server's number for it, 0 if unknown; ``listens``: it listens on the channel of
    its name."""

    name: str
    id: int
    listens: bool = False

    @property
    def channel(self) -> str:
        return f"poolmgr:{self.name}"


def sees(admin: Admin, sign: Sign) -> Seen:
    """Search for it through an open connection. Blocks.

    Raises:
        AdminError: there was no answer.
    """
    if sign.listens:
        return _listening(admin, sign)
    if not sign.id:
        return Seen.UNTOLD
    try:
        row = admin.call("CLIENT", "LIST", "ID", sign.id)
    except ReplyError as error:
        if error.passing:
            raise AdminError("unreachable", str(error)) from None
        return _numbered(admin, sign)
    if not isinstance(row, bytes) or not row.strip():
        return Seen.MISSING
    if sign.name.encode() in row:
        return Seen.NAMED
    return Seen.MISSING if b" name= " not in row else Seen.NUMBERED


def _numbered(admin: Admin, sign: Sign) -> Seen:
    """``CLIENT TRACKING ... REDIRECT`` takes only numbers of existing clients (Redis' tracking.c)."""
    try:
        admin.call("CLIENT", "TRACKING", "ON", "REDIRECT", sign.id)
        admin.call("CLIENT", "TRACKING", "OFF")
    except ReplyError as error:
        return Seen.MISSING if "does not exist" in str(error) else Seen.UNTOLD
    return Seen.NUMBERED


def _listening(admin: Admin, sign: Sign) -> Seen:
    try:
        reply = admin.call("PUBSUB", "NUMSUB", sign.channel)
    except ReplyError:
        return Seen.UNTOLD
    return Seen.NAMED if isinstance(reply, list) and reply[1:2] and reply[1] not in (0, b"0") else Seen.MISSING


def listen(admin: Admin, sign: Sign) -> Sign | None:
    """Have the connection listen; None: it may not. It is good for nothing else after that. Blocks.

    Raises:
        AdminError: there was no answer.
    """
    try:
        admin.call("SUBSCRIBE", sign.channel)
    except ReplyError:
        return None
    return msgspec.structs.replace(sign, listens=True)


class NoPermitError(Exception):
    """No permit to look with was free."""
