"""The questions that the table's script answers, and its answers, as types.

Pure: it makes the arguments of EVALSHA and reads what came back. ``table.lua`` says what each question does, and runs
as one step in the server (https://redis.io/docs/latest/develop/programmability/eval-intro/).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

Reply = int | bytes | Sequence["Reply"]

KEY = "poolmgr:1:{{{}}}"
"""The table's key. The number is the format's: records of another format are another table. The braces make a cluster
keep all keys of a fleet in one slot."""

NAME = re.compile(r"[0-9a-f]{16}\Z")
"""A lease's name: the fleet's mark, and ten random digits."""


def key(fleet: str) -> str:
    """The key of a fleet's table."""
    return KEY.format(fleet)


def mark(fleet: str) -> str:
    """What the names of a fleet's leases begin with. Two fleets can share a server: neither kills the other's."""
    return hashlib.sha256(fleet.encode()).hexdigest()[:6]


def new_name(fleet: str) -> str:
    """A name for a lease, which no other host has."""
    return mark(fleet) + secrets.token_hex(5)


class Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """What a host says of itself when it renews, joins or claims its lease.

    Attributes:
        run: the server process's ``run_id``, by INFO on the connection that carries the request.
        table: the table it speaks of; empty: ``name`` is new, and joins.
        seq: larger in each request of this host.
        word: connections that the host may hold until it is answered.
        demand: how many it could use. floor: how many of these it gets before others get more.
        budget, slack: the fleet's, as this host was configured.
        lease: milliseconds that the lease shall last.
        until: the end that it was last told, in milliseconds of the server's clock.
        able: the host may list and kill clients.
        host: for people. One word.
        unproven: milliseconds after which a marked lease is free although no host may list clients; 0: never.
    """

    run: str
    table: str
    name: str
    seq: int
    word: int
    demand: int
    floor: int
    budget: int
    slack: int
    lease: int
    until: int
    able: bool
    host: str
    unproven: int = 0

    def arguments(self) -> tuple[str | int, ...]:
        """The script's ARGV."""
        return (
            "renew",
            self.run,
            self.table or "-",
            self.name,
            self.seq,
            self.word,
            self.demand,
            self.floor,
            self.budget,
            self.slack,
            self.lease,
            self.until,
            int(self.able),
            self.host,
            self.unproven,
        )


class Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """The lease stands.

    Attributes:
        table: the table that has it.
        grant: connections that the table charges the lease with: the host may hold so many.
        target: what would be this host's fair part. wanted: others need what it holds beyond that.
        now, end: milliseconds of the server's clock.
        budget, slack: the fleet's, in force.
        hosts: how many have a lease. others: clients of the server that are not the fleet's; None: not counted yet.
        duty: what this host is asked to do for all.
        learning: the table is new: no grant is raised and no gate opens before a census.
        unproven: leases that were freed without a proof.
    """

    table: str
    now: int
    grant: int
    target: int
    end: int
    wanted: bool
    budget: int
    slack: int
    hosts: int
    others: int | None
    duty: Literal["", "census", "fence", "audit"]
    learning: bool
    unproven: int = 0


class Refused(msgspec.Struct, frozen=True):
    """The lease was not renewed.

    Attributes:
        why: ``table``: the request speaks of another table than ``table``, which is there now. ``old``: it is not newer
            than one that was executed, whose number is ``last``. ``fenced``: the name is over.
    """

    why: Literal["table", "old", "fenced"]
    table: str
    now: int
    last: int = 0


class UnreadableError(ValueError):
    """The script answered something that this version does not understand. The text quotes it."""


def answer(reply: Reply) -> Renewed | Refused:
    """What a renewal was answered.

    Raises:
        UnreadableError: the reply is not an answer to a renewal.
    """
    try:
        match _plain(reply):
            case ["ok", str() as table, int() as now, *rest]:
                grant, target, end, wanted, budget, slack, hosts, others, duty, learning, unproven = rest
                return msgspec.convert(
                    {
                        "table": table,
                        "now": now,
                        "grant": grant,
                        "target": target,
                        "end": end,
                        "wanted": wanted == 1,
                        "budget": budget,
                        "slack": slack,
                        "hosts": hosts,
                        "others": None if others == "-" else int(str(others)),
                        "duty": duty,
                        "learning": learning == 1,
                        "unproven": unproven,
                    },
                    Renewed,
                )
            case ["old", str() as table, int() as now, int() as last]:
                return Refused("old", table, now, last)
            case ["table" | "fenced" as why, str() as table, int() as now]:
                return Refused(why, table, now)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise UnreadableError(f"the fleet's table answered {reply!r:.200}") from error
    raise UnreadableError(f"the fleet's table answered {reply!r:.200}")


class Survey(msgspec.Struct, frozen=True):
    """All leases of a table, after those were marked that had to be.

    Attributes:
        learning: the table is new, and raises no grant before a census. made: when, in the server's milliseconds.
    """

    table: str
    now: int
    learning: bool
    made: int
    live: frozenset[str]
    marked: frozenset[str]


def survey(run: str) -> tuple[str, ...]:
    """Ask for a :class:`Survey`."""
    return ("survey", run)


def condemned(run: str, table: str, lease: int, names: Iterable[str]) -> tuple[str | int, ...]:
    """Ask which of these names must have no connection."""
    return ("condemned", run, table, lease, *names)


def proven(run: str, table: str, names: Iterable[str]) -> tuple[str, ...]:
    """Free what is marked under these names: a list has shown that nothing of them is left."""
    return ("proven", run, table, *names)


def census(run: str, table: str, names: Iterable[str]) -> tuple[str, ...]:
    """These are all names in a list that is newer than the table."""
    return ("census", run, table, *names)


def audited(run: str, table: str, others: int) -> tuple[str | int, ...]:
    """A list was compared with the table; so many clients are not the fleet's."""
    return ("audited", run, table, others)


def leave(run: str, table: str, name: str) -> tuple[str, ...]:
    """The lease ends in good order."""
    return ("leave", run, table, name)


def surveyed(reply: Reply) -> Survey | None:
    """The answer to :func:`survey`; None: this server process has no table.

    Raises:
        UnreadableError: the reply is not an answer to that question.
    """
    match _plain(reply):
        case ["ok", str() as table, int() as now, int() as learning, int() as made, list() as live, list() as marked]:
            return Survey(table, now, learning == 1, made, frozenset(map(str, live)), frozenset(map(str, marked)))
        case ["none"]:
            return None
    raise UnreadableError(f"the fleet's table answered {reply!r:.200}")


def named(reply: Reply) -> frozenset[str] | None:
    """The answer to :func:`condemned`; None: the question speaks of a table that is gone.

    Raises:
        UnreadableError: the reply is not an answer to that question.
    """
    match _plain(reply):
        case ["ok", list() as names]:
            return frozenset(map(str, names))
        case ["none"] | ["table", *_]:
            return None
    raise UnreadableError(f"the fleet's table answered {reply!r:.200}")


def _plain(reply: Reply) -> object:
    if isinstance(reply, bytes):
        return reply.decode("utf-8", "replace")
    if isinstance(reply, str | int):
        return reply
    return [_plain(part) for part in reply]
