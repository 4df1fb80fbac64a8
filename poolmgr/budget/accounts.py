"""What the ledger knows of each member at each server: plain data and sums, no decisions.

Only :mod:`poolmgr.budget.ledger` holds the rules that change these numbers. Which member should
get what is in :mod:`poolmgr.budget.sharing`, which only reads.
"""

from __future__ import annotations

import msgspec

from poolmgr.fleet.lease import SavedLease
from poolmgr.wire import Gate, Report

SILENT_AFTER = 5.0
"""Seconds after which a member that has not acknowledged a recall is reported and gets no headroom."""


TO_REGISTER = 2.0
"""Seconds that a process has to register after a census found connections of it."""


class Identity(msgspec.Struct, frozen=True):
    """A process as the kernel knows it. ``tag`` is the key everywhere."""

    tag: str
    pid: int
    start: int = 0
    """Start time in clock ticks after boot."""
    program: str = ""
    """Hash that changes on ``exec``."""
    title: str = ""
    mark: int = 0
    """Number of a mapping that ``exec`` removes; 0: not known."""


class Account(msgspec.Struct):
    """One member at one server.

    ``told`` holds the limits sent on the member's newest link and not yet superseded by an acknowledged
    one, as ``(sequence, limit)``, oldest first. Its limits strictly decrease: an earlier limit that does not
    exceed a later one can never be the largest, so sending the later one drops it.
    """

    told: list[tuple[int, int]]
    seq: int = 0
    """Newest sequence used on this link; 0 stands for what the registration stated."""
    unanswered: bool = False
    """Registered, and not yet sent a numbered limit (rule M4 waits for one)."""
    excess: int = 0
    """Permits that the registration stated and that were not charged here before; over 0 only after a lost snapshot."""
    unopened: int = 0
    """Permits that the registration stated and that were not open."""
    linked: bool = False
    """The member's newest link is open, so messages can be sent to it."""
    ceiling: int = 0
    """The most that the member can use, until a report states it; 0: not known."""
    report: Report | None = None
    """Newest report on this link."""
    reported: float = -1e9
    """When that report came."""
    active: float = -1e9
    """When the member last had demand."""
    asked: float = -1e9
    """When the ledger last asked it what it can spare."""
    recalled: float | None = None
    """Since when it owes permits that are not pinned; None if it owes none."""
    recalled_idle: bool = False
    """The recalled permits were spare, so the time that the recall takes is that of moving a permit."""
    ends_turn: bool = False
    """Once its charge is 0, a turn has ended."""
    waiting: float | None = None
    """Since when it has needed more than it keeps; None if it does not."""
    served: float = -1e9
    """When its limit was last raised."""
    turn_ends: float | None = None
    """While permits rotate: until when it may keep its own."""
    old_gate: bool = False
    """The member has yet to be sent its fleet's present gate."""
    leases: set[str] = msgspec.field(default_factory=set)
    """Leases that the names of its connections may bear; empty text: none."""

    @property
    def limit(self) -> int:
        """The newest limit sent."""
        return self.told[-1][1]

    @property
    def charge(self) -> int:
        """The largest limit sent and not yet superseded by an acknowledged smaller one."""
        return self.told[0][1]

    @property
    def returning(self) -> int:
        """Permits recalled and not yet acknowledged."""
        return self.told[0][1] - self.told[-1][1]

    @property
    def pinned(self) -> int:
        """Permits whose connections callers have kept for long; their return has no predictable end."""
        report = self.report
        return min(report.pinned, self.charge) if report is not None and report.pinned else 0

    @property
    def keeps(self) -> int:
        """What it has, and what it keeps under any limit."""
        return max(self.limit, self.pinned)

    @property
    def owed(self) -> int:
        """Recalled permits on their way back. Pinned permits are recalled too, but not waited for."""
        return self.charge - self.keeps if len(self.told) > 1 else 0

    @property
    def need(self) -> int:
        """Permits it could use now."""
        report = self.report
        if report is None:
            return 0
        need = report.in_use + report.waiting
        return min(need, report.ceiling) if report.ceiling else need

    @property
    def peak(self) -> int:
        """Permits it could use at some instant of the last second, or could use now."""
        report = self.report
        if report is None:
            return 0
        peak = max(report.peak, report.in_use + report.waiting)
        return min(peak, report.ceiling) if report.ceiling else peak

    @property
    def used(self) -> int:
        """Connections that are open and were used in the last second; without a report, the charge."""
        return self.charge if self.report is None else min(self.report.open, self.peak)

    def silent(self, now: float) -> bool:
        """Whether it has owed an acknowledgement for too long."""
        return self.recalled is not None and now - self.recalled > SILENT_AFTER


class Quarantine(msgspec.Struct):
    """Permits of a process that has ended, until its connections are proven gone too (rule S3)."""

    charge: int
    since: float
    exited: bool = True
    """False: a census found them under the tag of a process that lives and has not registered."""
    registered: bool = True
    """That process has registered here, so its connections are ours alone and may be killed. False: a census found
    them under a name that any client may bear, so they are only counted, while a list shows them."""

    def due(self, now: float) -> bool:
        """Whether its end must be proven: the process has ended, or has had time to register."""
        return self.exited or (not self.registered and now >= self.since + TO_REGISTER)


class Server(msgspec.Struct):
    """One server's budget and everything that is charged against it."""

    id: str
    aliases: set[str] = msgspec.field(default_factory=set)
    run_id: str = ""
    budget: int = 0
    spares_used: bool = False
    """The budget has shrunk for the sake of other clients: take back unused permits only."""
    operator: str | None = None
    """The operator's word for the budget (a number or ``auto``), kept over restarts; None: not set."""
    held: bool = True
    """Raise nothing: the server's identity is not known yet, or a census is not done."""
    unknown: bool = False
    """Its addresses were another server's until now: send no limits there until its identity is known."""
    search: bool = False
    """Search it for our connections once more before raising anything (see ``Ledger.whole``)."""
    accounts: dict[str, Account] = msgspec.field(default_factory=dict)
    quarantine: dict[str, Quarantine] = msgspec.field(default_factory=dict)
    own: int = 0
    """Permits that the supervisor's own connections hold (rule S5)."""
    own_wanted: int = 0
    own_overdraws: bool = False
    """The next own permit is granted even if it does not fit."""
    own_over: int = 0
    """How many own permits did not fit when they were granted. In a fleet they are no part of the host's word: they
    come out of the fleet's slack."""
    lease: SavedLease | None = None
    """This host's lease of the fleet's budget, as the snapshot must have it; None: none."""
    gate: Gate | None = None
    """What members' new connections ask there; None: nothing. Without a table nothing may be opened."""
    handover: float = 0.002
    """Seconds that the recall of an idle permit takes from sending to acknowledgement, smoothed."""
    tidied: float = -1e9
    """When headroom was last looked at."""
    recalled_total: int = 0
    """Permits recalled and given back since the ledger was made, for metrics."""
    rotated_total: int = 0
    """Turns that ended while permits rotated, likewise."""
    charged: int = 0
    """Σ charge over all members. The ledger keeps it."""

    @property
    def lease_name(self) -> str:
        """The lease that the names of new connections bear; empty: none."""
        return "" if self.gate is None else self.gate.lease

    @property
    def held_of_lease(self) -> int:
        """What this host holds of its lease, which its word covers (rule F2)."""
        return self.outstanding - self.own_over

    @property
    def quarantined(self) -> int:
        return sum(entry.charge for entry in self.quarantine.values())

    @property
    def strange(self) -> int:
        """The part of the quarantine whose processes have not registered."""
        return sum(entry.charge for entry in self.quarantine.values() if not entry.registered)

    @property
    def owed(self) -> int:
        """Recalled permits on their way back, from all members that can still answer."""
        return sum(a.owed for a in self.accounts.values() if len(a.told) > 1 and a.linked)

    @property
    def used(self) -> int:
        """Permits that could not be returned at once: others' growth lowers a budget no further."""
        return sum(a.used for a in self.accounts.values()) + self.quarantined + max(self.own, self.own_wanted)

    @property
    def outstanding(self) -> int:
        """Everything that rule S1 sums."""
        return self.charged + self.quarantined + self.own

    @property
    def free(self) -> int:
        """Permits that may be raised now; negative while a shrunk budget is overdrawn."""
        return self.budget - self.outstanding


# ---- the ledger at rest: what a successor needs (see supervisor/snapshot.py) ----------------------


class SavedMember(msgspec.Struct, frozen=True):
    identity: Identity
    charges: dict[str, int]


class SavedQuarantine(msgspec.Struct, frozen=True):
    tag: str
    charge: int
    age: float
    """Seconds it had been there when this was written."""
    exited: bool = True
    registered: bool = False  # version 0.1.0 does not say


class SavedServer(msgspec.Struct, frozen=True):
    id: str
    aliases: tuple[str, ...]
    run_id: str
    budget: int
    operator: str | None
    own: int
    quarantine: tuple[SavedQuarantine, ...] = ()
    search: bool = False
    unknown: bool = False
    lease: SavedLease | None = None


class Saved(msgspec.Struct, frozen=True):
    """Everything that S1 sums, and whose it is. Not: sequences, links, demands."""

    owner: Identity
    """The supervisor that wrote it: its own permits go into quarantine under this tag."""
    servers: tuple[SavedServer, ...] = ()
    members: tuple[SavedMember, ...] = ()
    restarts: int = 0
    """Earlier supervisors that ended with permits charged; for metrics."""
    partial: bool = False
    """Members may live that it does not list (see ``Ledger.partial``)."""
    scopes: tuple[str, ...] = ()
    """See ``Ledger.scopes``."""


# ---- what the ledger shows its shell --------------------------------------------------------------


class Quarantined(msgspec.Struct, frozen=True):
    server: str
    tag: str
    charge: int
    since: float
    exited: bool
    registered: bool


class MemberView(msgspec.Struct, frozen=True):
    identity: Identity
    limit: int
    charge: int
    linked: bool
    report: Report | None
    waiting: float | None
    recalled: float | None


class ServerView(msgspec.Struct, frozen=True):
    """Numbers of one server for people: status and metrics."""

    id: str
    aliases: tuple[str, ...]
    run_id: str
    budget: int
    operator: str | None
    held: bool
    charged: int
    quarantined: int
    own: int
    free: int
    handover: float
    recalled_total: int
    rotated_total: int
    members: tuple[MemberView, ...]
