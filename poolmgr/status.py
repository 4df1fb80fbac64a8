"""What the supervisor answers to ``Query("status")``: the JSON that ``poolmgr status`` shows.

The supervisor fills these values from its ledger; the command line, tests and people's own scripts
read them. This file is the schema of ``poolmgr status --json``: fields are only ever added, with
defaults. It must never hold a secret: endpoints appear by their keys, never with credentials.
"""

from __future__ import annotations

import msgspec

SCHEMA = 1
"""Version of this schema; grows only if a field changes its meaning."""


class MemberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process's share of one server.

    Attributes:
        pid: its process id.
        title: what it is, for people: ``gunicorn worker``, the script's name.
        tag: the name by which the server knows its connections.
        limit: permits it may use, as the supervisor last sent it.
        charge: permits the ledger counts as held; never less than what it has open.
        open: sockets it reports: connecting, idle, in use or closing.
        in_use: connections lent to callers.
        pinned: of these, those that have been out for so long that recalls do not wait for them.
        waiting: callers that wait for a connection.
        acked: whether it has acknowledged its newest limit.
        silent_for: seconds since its last report; None before the first.
        state: ``live``, ``restored`` (known from the snapshot, not yet registered) or ``silent``
            (has not acknowledged for so long that it gets no headroom).
        ceiling: most connections it could use; 0: no bound.
        processor: seconds of processor time since the process's start; None: not read yet, as with the next three.
        memory: resident bytes.
        descriptors: open files, sockets included; also None where the system does not say.
        threads: how many it has.
    """

    pid: int
    title: str = ""
    tag: str = ""
    limit: int = 0
    charge: int = 0
    open: int = 0
    in_use: int = 0
    pinned: int = 0
    waiting: int = 0
    acked: bool = True
    silent_for: float | None = None
    state: str = "live"
    ceiling: int = 0
    processor: float | None = None
    memory: int | None = None
    descriptors: int | None = None
    threads: int | None = None


class HealthStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a server, as the processes that use it and the supervisor see it.

    Attributes:
        up: processes can connect, as far as is known.
        since: seconds of the epoch at which they no longer could; 0 while up. error: why not.
        unseen: why the supervisor cannot reach it, list its clients or log in: proofs are delayed, and waits
            replace them; processes go on. Empty: it can.
        unseen_since: seconds of the epoch; 0 while it can, or since it first met the server.
    """

    up: bool = True
    since: float = 0.0
    error: str = ""
    unseen: str = ""
    unseen_since: float = 0.0


class LeaseStatus(msgspec.Struct, frozen=True, kw_only=True):
    """This host's part of its fleet at one server.

    Attributes:
        fleet: its name. name: the lease's; empty: none yet. table: the number of the table that gave it.
        grant: connections that this host may hold. demand: how many it could use. target: its fair part.
        wanted: other hosts need what it holds beyond that.
        seconds_left: until the lease ends, as last heard; None: not known.
        budget, slack, hosts, others: the fleet's, as last heard. others: clients that are not the fleet's.
        learning: the table is new, and nothing is granted before a census.
        trouble: why the lease could not be renewed; empty: it was. outside: why this server takes no part in the fleet.
        renewals: by outcome: ``ok``, ``fenced``, ``table``, ``old``, ``error``. renew_seconds: all of them together.
        fenced: leases of this host that others have proven over. gates_shut: new connections that were not let in.
        tables: how often another table was met. freed, killed: leases and connections, by this host for all.
        unproven: leases that were freed without a proof when this host asked (REDIS_FLEET_UNPROVEN).
    """

    fleet: str
    name: str = ""
    table: str = ""
    grant: int = 0
    demand: int = 0
    target: int = 0
    wanted: bool = False
    seconds_left: float | None = None
    budget: int | None = None
    slack: int | None = None
    hosts: int | None = None
    others: int | None = None
    learning: bool = False
    trouble: str = ""
    outside: str = ""
    renewals: dict[str, int] = {}
    renew_seconds: float = 0.0
    fenced: int = 0
    gates_shut: int = 0
    tables: int = 0
    freed: int = 0
    unproven: int = 0
    killed: int = 0


class ServerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One server and its ledger.

    Attributes:
        id: the endpoint by which it was first learned, ``tcp://host:port`` or ``unix:///path``.
        aliases: all endpoints that reach it, ``id`` included.
        run_id: the server's own name for its run; empty until learned.
        budget: connections that all processes together may hold; None until it is known.
        derivation: how the budget came about, as one line.
        charged: sum of the members' charges.
        quarantine: permits of dead processes whose end is not yet proven.
        own: permits the supervisor itself holds.
        free: permits that are none of these; negative while a shrunken budget is being recalled.
        unproven: permits freed after a bounded wait instead of a proof, since the start.
        lease: this host's part of its fleet; None: it is in none.
    """

    id: str
    aliases: tuple[str, ...] = ()
    run_id: str = ""
    budget: int | None = None
    derivation: str = ""
    charged: int = 0
    quarantine: int = 0
    own: int = 0
    free: int = 0
    unproven: int = 0
    health: HealthStatus = HealthStatus()
    members: tuple[MemberStatus, ...] = ()
    lease: LeaseStatus | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Ledger, kernel and server disagree about a process: found by the audit.

    Attributes:
        server: the server's id.
        pid: the process; 0 if it is not known.
        title: what the process is, for people.
        ledger: permits the ledger charges; None: not known to the ledger.
        kernel: established sockets the kernel shows; None: it cannot be seen.
        server_sees: connections in the server's list; None: it cannot be asked.
        since: seconds of the epoch at which it was first seen.
        text: one sentence for people.
    """

    server: str
    pid: int = 0
    title: str = ""
    ledger: int | None = None
    kernel: int | None = None
    server_sees: int | None = None
    since: float = 0.0
    text: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer.

    Attributes:
        pid: the supervisor's process id.
        version: the version of poolmgr that it runs.
        uptime: seconds since it started.
        socket: the Unix socket on which it listens.
        clients: open connections of members and tools to the supervisor.
        servers: every server it knows, in the order in which they were learned.
        differences: what the audit found and still holds.
        notes: warnings that hold now, one line each.
        schema: :data:`SCHEMA`.
    """

    pid: int
    version: str = ""
    uptime: float = 0.0
    socket: str = ""
    clients: int = 0
    servers: tuple[ServerStatus, ...] = ()
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``Query("limits")`` for one server: how its budget was derived.

    Attributes:
        id: the server's id.
        budget: the effective budget; None until it is known.
        derivation: the derivation as one line.
        parts: every bound, ``(name, value, remark)``; value None: no bound or not known, and the remark says which.
    """

    id: str
    budget: int | None = None
    derivation: str = ""
    parts: tuple[tuple[str, int | None, str], ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to ``Query("limits")``."""

    servers: tuple[ServerLimits, ...] = ()
    schema: int = SCHEMA


_status = msgspec.json.Decoder(Status)
_limits = msgspec.json.Decoder(Limits)
_encoder = msgspec.json.Encoder()


def dump(value: Status | Limits) -> str:
    """The JSON text that goes into :attr:`poolmgr.wire.Answer.body`."""
    return _encoder.encode(value).decode()


def load_status(text: str) -> Status:
    """Read an answer to ``Query("status")``; fields of a newer version are skipped.

    Raises:
        msgspec.ValidationError: it is not a status.
    """
    return _status.decode(text)


def load_limits(text: str) -> Limits:
    """Read an answer to ``Query("limits")``.

    Raises:
        msgspec.ValidationError: it is not an answer to that question.
    """
    return _limits.decode(text)
