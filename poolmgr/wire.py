"""Every message on the supervisor's Unix socket, and the bounds of its fields.

This file is the whole protocol between a member and its supervisor; :mod:`poolmgr.frames` makes bytes of it. It must
never decide anything: the ledger (:mod:`poolmgr.budget.ledger`) decides how many connections a process may hold, and
the member (:mod:`poolmgr.member.core.process`) what to do with an answer.

Messages carry *states, not deltas*, so that loss, repetition and a restart of either side are harmless.

Versions: a :class:`Hello` names the versions its sender speaks; the :class:`Welcome` names the one
that is used. Fields are only ever added, with defaults; unknown fields are skipped by the decoder.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from poolmgr.frames import (
    MAX_FRAME as MAX_FRAME,
    Decoder as Decoder,
    Message as Message,
    WireError as WireError,
    encode as encode,
)

VERSION = 3
"""Version of the protocol this code speaks. 2: scopes (:mod:`poolmgr.tags`). 3: gates."""

GATES = 3
"""Oldest version of a member that asks a gate, as a fleet demands (:mod:`poolmgr.fleet.gate`)."""

OLDEST = 1
"""Oldest version this code still understands."""

MOST = 10_000_000
"""Largest count of anything."""

MANY = 10_000
"""Most entries in a list."""

Count = Annotated[int, Meta(ge=0, le=MOST)]
Number = Annotated[int, Meta(ge=0)]
Time = Annotated[float, Meta(ge=0.0)]
"""NaN is refused too."""
Name = Annotated[
    str, Meta(min_length=1, max_length=1024, pattern=r"\A[^\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]+\Z")
]
"""Without control characters, which a terminal would obey."""
NameOrNone = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00-\x1f\x7f-\xa0\u2028\u2029\ud800-\udfff]*\Z")]
"""Likewise; may be empty."""
Serials = Annotated[tuple[Count, ...], Meta(max_length=MANY)]


# ---- values inside messages ------------------------------------------------------------------


class Endpoint(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to reach one server: what a pool was configured with, credentials included.

    ``key`` names it (``tcp://host:port`` or ``unix:///path``) and is safe to log; the rest is not.
    Credentials stay in memory: never in a log, a status or the snapshot.
    """

    key: Name
    host: NameOrNone = ""
    """The name as the user gave it: TLS verifies this one."""
    address: NameOrNone = ""
    """The address that a member found for the name; ``key`` names it. Empty: look the name up."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    path: NameOrNone = ""
    username: str | None = None
    password: str | None = None
    tls: dict[str, str | bool | int] | None = None
    """redis-py's ``ssl_*`` arguments that have a plain value; None for plain text. Paths are absolute."""
    among: bool = False
    """The name led to other addresses as well, so it does no harm if no server listens at this one."""
    unseen: str = ""
    """Why only the member itself can connect this way; empty: the supervisor can too."""
    own: bool = False
    """The connection class connects in its own way (a tunnel): by this address other processes may reach this server,
    another server, or none."""

    @property
    def named(self) -> str:
        """The key as a person knows it: with the host's name, where its address was looked up."""
        return f"tcp://{self.host}:{self.port}" if self.address else self.key

    def __str__(self) -> str:
        return f"{self.named} ({self.address})" if self.address else self.key

    def __repr__(self) -> str:
        return f"Endpoint({self.key!r})"


class Gate(msgspec.Struct, frozen=True):
    """What a new connection asks its server before it is used, in a fleet (:mod:`poolmgr.fleet.gate`)."""

    key: str
    """Of the fleet's table."""
    lease: str
    """This host's, which the connection's name bears."""
    table: str
    """Number of the table that gave this host what it has. Empty: nothing may be opened now."""
    sure: float = 0.0
    """Seconds for which the lease certainly stands, when this is sent."""


class Hold(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a member holds at one server when it registers (rule M4)."""

    server: Name
    """The server's id as an earlier supervisor named it."""
    endpoints: tuple[Name, ...]
    """Keys of the endpoints by which the member reaches it."""
    stated: Count
    """``max(limit, open)``: what the ledger must charge."""
    open: Count = 0
    by: dict[str, Count] = msgspec.field(default_factory=dict)
    """How many of these by each endpoint, in case an endpoint is another server by now. Empty: not known."""
    leases: Annotated[tuple[NameOrNone, ...], Meta(max_length=MANY)] = ()
    """In a fleet: the leases that the names of these connections bear."""


class Counters(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pool's counters since it was made, for metrics. Monotonic; times in seconds."""

    checkouts: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    wait_buckets: tuple[int, ...] = ()
    """Waits by :data:`WAIT_BOUNDS`, not cumulative; one more entry than bounds."""
    timeouts: dict[str, int] = msgspec.field(default_factory=dict)
    created: int = 0
    closed: dict[str, int] = msgspec.field(default_factory=dict)
    leaks: int = 0
    connect_errors: int = 0


WAIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds of the histogram of waits."""


# ---- member to supervisor --------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message on a link: which process this is and what it holds (rule M4)."""

    tag: str
    link: Count
    versions: tuple[Count, Count] = (1, 1)
    """Oldest and newest that the sender speaks. The default never changes: it stands for a field that is not on the
    wire. If it were the receiver's own versions, every sender would seem to speak these."""
    holds: Annotated[tuple[Hold, ...], Meta(max_length=MANY)] = ()
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=MANY)] = ()
    title: str = ""
    """What the process is, for people: ``gunicorn worker``, ``celery``, the script's name."""
    budget: str = ""
    """The budget in the member's own environment; the supervisor's decides, a difference is logged."""
    descriptors: Count = 0
    """How many connections the member's file-descriptor limit leaves; 0: unknown."""
    replaces: Annotated[tuple[str, ...], Meta(max_length=MANY)] = ()
    """Earlier tags of this very process, which have said goodbye, or whose descriptors were closed."""
    scope: str = ""
    """The scope that an earlier supervisor sent, and that the names of this member's connections bear; empty: none."""
    mark: Number = 0
    """See :func:`poolmgr.kernel.processes.mark`."""


class Attach(Message, frozen=True):
    """The member wants connections to this endpoint. Answered by :class:`Resolved`."""

    endpoint: Endpoint
    number: Number = 0
    """Of the question, on this link; 0: the member does not number them."""


class Detach(Message, frozen=True):
    """The member has no connection to this endpoint any more, and wants none."""

    endpoint: NameOrNone
    """Empty: none in particular."""
    server: NameOrNone = ""
    """If set, the member has no connection to this server either. It has forgotten the server's limit and opens nothing
    there before it has attached again. Empty: it has other endpoints there, or never learned which server that is."""
    seq: Count = 0
    """Sequence of the newest limit at that server that the member had received."""


class Report(Message, frozen=True):
    """State of a member at one server. The newest report replaces all earlier ones."""

    server: Name
    acked: Count
    """Newest sequence at which ``open <= limit`` held (rule M2); 0: none yet on this link."""
    open: Count = 0
    """Sockets connecting, idle, in use, closing or lost (rule M1)."""
    in_use: Count = 0
    """Permits that are busy: connections out with callers, and sockets that are :class:`Lost`."""
    waiting: Count = 0
    """Callers that wait for a connection now."""
    peak: Count = 0
    """Largest ``in_use + waiting`` of the last second."""
    spare: Count = 0
    """Permits that nothing here has used for the guard's time: what can be recalled at no cost."""
    ceiling: Count = 0
    """Most connections this member could use (its pools' own ceilings, descriptors); 0: no bound."""
    timeout: Time = 5.0
    """Shortest time in seconds that its callers wait for a connection: bounds the quantum."""
    pinned: Count = 0
    """Of ``in_use``, those in use for so long that their end cannot be predicted."""
    replied: Time = 0.0
    """When the server last replied, in monotonic seconds of this host; 0: not known."""


class Lost(Message, frozen=True):
    """Sockets closed without the server's confirmation within M3's time, by serial number."""

    server: Name
    serials: Serials


class Trouble(Message, frozen=True):
    """The server did not behave: connect refused, ``max number of clients reached``..."""

    server: str
    kind: str
    """``refused`` (maxclients), ``unreachable``, ``auth``, ``way`` (with its own files and credentials
    this client cannot connect, whatever the server does); ``nameless``: connections have no name there; ``gate``: a
    new connection was not let in (:class:`Gate`); ``doubt``: the member does not know whether the lease still stands.
    After both nothing is opened before another limit comes."""
    detail: str = ""
    way: str = ""
    """The endpoint's key."""
    began: Time = 0.0
    """When the attempt began, in monotonic seconds of this host; 0: not known."""
    replied: Time = 0.0
    """As in :class:`Report`."""


class Stats(Message, frozen=True):
    """Counters of one pool, for metrics; sent about once a second while they change."""

    server: Name
    pool: Name
    counters: Counters
    idle: int = 0
    in_use: int = 0
    since: float = 0.0
    """Monotonic seconds of this host when the pool began to count. What it counted before this supervisor began was
    counted by the previous one."""


class Ping(Message, frozen=True):
    """Are you there? Answered by :class:`Pong`."""

    nonce: int = 0


class Bye(Message, frozen=True):
    """The member leaves with nothing open: its charge may fall at once, being zero by statement."""


# ---- tools to supervisor ---------------------------------------------------------------------


class Query(Message, frozen=True):
    """A question of a tool (the CLI); answered by :class:`Answer`. ``what``: status, limits, metrics."""

    what: str


class SetBudget(Message, frozen=True):
    """Change a server's budget live; ``budget`` is a number, ``auto``, or ``reset`` (what the
    environment says). Answered by Answer."""

    server: str
    budget: str


# ---- supervisor to member --------------------------------------------------------------------


class Welcome(Message, frozen=True):
    version: int
    pid: int
    budget: str = ""
    scope: str = ""
    """The scope that the names of connections bear from now on."""
    lock: tuple[int, int] = (0, 0)
    """Device and inode of its lock file. If that name leads to another file, there may be another supervisor."""
    parts: bool = False
    """This supervisor accepts a goodbye to a single server (:class:`Detach`)."""


class Resolved(Message, frozen=True):
    """This endpoint is that server. Until this arrives an endpoint has no limit, and the member opens nothing."""

    endpoint: str
    server: str
    number: int = 0
    """Number of the last question about this endpoint that the supervisor received on this link; 0: it received none
    beside the registration. An answer to an earlier question than the member's last is void: in between the member
    said goodbye to the endpoint, and the supervisor may have forgotten where it led."""


class Limit(Message, frozen=True):
    """The member may hold ``limit`` connections to ``server`` (rules M1, M2)."""

    server: str
    seq: int
    limit: int
    gate: Gate | None = None
    """In a fleet: what each connection that is opened within this limit has to ask."""


class Ask(Message, frozen=True):
    """Another member waits: report at once, and again when a permit has been spare for ``guard`` seconds."""

    server: str
    guard: float = 0.005
    login: str = ""
    """The endpoint whose credentials the server refuses: attach it again, with the present ones."""


class Gone(Message, frozen=True):
    """The server no longer has these connections (proof for sockets reported :class:`Lost`)."""

    server: str
    serials: tuple[int, ...]


class Health(Message, frozen=True):
    """Whether a server is down. ``since``: seconds of the epoch, 0 when up."""

    server: str
    up: bool
    since: float = 0.0
    error: str = ""
    trial: bool = False
    """This member must open a connection and report the outcome."""


class Picture(Message, frozen=True):
    """Who holds what. The supervisor sends it to a member whose report asks for more than it gets, to say that there is
    no more now; and once a second to each member that waits, for error messages. With an empty server: why no limit is
    raised at any. ``fleet``: why this host cannot have more there, if its fleet is the reason."""

    server: str
    budget: int
    others: tuple[tuple[str, int], ...] = ()
    """(title and pid, charge) of the largest holders."""
    stuck: str = ""
    bound: str = ""
    """What keeps the budget from being larger, if it is neither the operator's number nor ``auto``'s arithmetic."""
    fleet: str = ""


class Pong(Message, frozen=True):
    nonce: int = 0


class Answer(Message, frozen=True):
    """JSON text for a tool."""

    body: str
    ok: bool = True


class Refused(Message, frozen=True):
    """The peer is refused: why and what to do. The connection is closed afterwards."""

    reason: str


def objection(message: Message) -> str:
    """What is wrong with a well-formed message, where no single field shows it; empty if nothing is."""
    match message:
        case Hello() if not all(endpoint.host or endpoint.path for endpoint in message.endpoints):
            return "a hello with an endpoint that leads nowhere"
        case Attach() if not (message.endpoint.host or message.endpoint.path):
            return "an endpoint that leads nowhere"
        case Detach() if not (message.endpoint or message.server):
            return "a detachment from nothing"
    return ""


FromMember = Hello | Attach | Detach | Report | Lost | Trouble | Stats | Ping | Bye | Query | SetBudget
FromSupervisor = Welcome | Resolved | Limit | Ask | Gone | Health | Picture | Pong | Answer | Refused
