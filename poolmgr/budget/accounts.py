"""What the ledger knows of each member at each server: plain data and sums, no decisions.

The rules that change these numbers are in :mod:`poolmgr.budget.ledger`, and only there; who should
get what is in :mod:`poolmgr.budget.sharing`, which only reads.
"""

from __future__ import annotations

import msgspec

from poolmgr.wire import Report

SILENT_AFTER = 5.0
"""Seconds after which a member that has not acknowledged a recall is reported and gets no headroom."""


TO_REGISTER = 2.0
"""Seconds that a process of which a census has found connections is given to register."""


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
    """Number of a mapping that ``exec`` takes away; 0: none is known."""


class Account(msgspec.Struct):
    """One member at one server.

    ``told`` are the limits told on the member's newest link and not yet superseded by an acknowledged
    one, as ``(sequence, limit)``, oldest first. Its limits strictly decrease: an earlier entry with a
    limit no larger than a later one can never be the largest, so it is dropped when the later is told.
    """

    told: list[tuple[int, int]]
    seq: int = 0
    """Newest sequence used on this link; 0 stands for what the registration stated."""
    unanswered: bool = False
    """Registered and not yet told a numbered limit (rule M4 waits for one)."""
    excess: int = 0
    """How much of what the registration stated was not charged here before: more than 0 only after a lost snapshot."""
    unopened: int = 0
    """How much of what the registration stated was not open."""
    linked: bool = False
    """The member's newest link is open, so that it can be told something."""
    ceiling: int = 0
    """What the member can use at most, until a report says it; 0: not known."""
    report: Report | None = None
    """Newest report on this link."""
    reported: float = -1e9
    """When that report came."""
    active: float = -1e9
    """When the member last had demand."""
    asked: float = -1e9
    """When it was last asked for what it can spare."""
    recalled: float | None = None
    """Since when it owes permits that are not pinned; None if it owes none."""
    recalled_idle: bool = False
    """What was recalled then was spare, so that the time it takes is that of moving a permit."""
    ends_turn: bool = False
    """When nothing is left to it, a turn has ended."""
    waiting: float | None = None
    """Since when it has demanded more than it keeps; None if it does not."""
    served: float = -1e9
    """When its limit was last raised."""
    turn_ends: float | None = None
    """While permits rotate: until when it may keep its own."""

    @property
    def limit(self) -> int:
        """The newest limit told."""
        return self.told[-1][1]

    @property
    def charge(self) -> int:
        """The largest limit told and not yet superseded by an acknowledged smaller one."""
        return self.told[0][1]

    @property
    def returning(self) -> int:
        """Permits recalled and not yet acknowledged."""
        return self.told[0][1] - self.told[-1][1]

    @property
    def pinned(self) -> int:
        """Permits whose connections callers have kept for long: nobody knows when they come back."""
        report = self.report
        return min(report.pinned, self.charge) if report is not None and report.pinned else 0

    @property
    def keeps(self) -> int:
        """What it has, and what it keeps whatever it is told."""
        return max(self.limit, self.pinned)

    @property
    def owed(self) -> int:
        """Permits recalled that are on their way back. What is pinned is recalled too, but not waited for."""
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
        """Connections that are open and were used in the last second; what is not reported counts as charged."""
        return self.charge if self.report is None else min(self.report.open, self.peak)

    def silent(self, now: float) -> bool:
        """Whether it has owed an acknowledgement for too long."""
        return self.recalled is not None and now - self.recalled > SILENT_AFTER


class Quarantine(msgspec.Struct):
    """Permits of a process that is gone, until its connections are proven gone too (rule S3)."""

    charge: int
    since: float
    exited: bool = True
    """False: found by a census under the tag of a process that lives and has not registered."""
    registered: bool = True
    """That process has registered here, so its connections are ours alone and may be killed. False: found by a census
    under a name that may be anybody's, so it is only counted, while a list shows it."""

    def due(self, now: float) -> bool:
        """Whether its end is to be proven: the process is gone, or has had time to register."""
        return self.exited or (not self.registered and now >= self.since + TO_REGISTER)


class Server(msgspec.Struct):
    """One server's budget and everything that is charged against it."""

    id: str
    aliases: set[str] = msgspec.field(default_factory=set)
    run_id: str = ""
    budget: int = 0
    spares_used: bool = False
    """A budget that has shrunk takes back what nobody uses, and nothing else: it has shrunk for others' sake."""
    operator: str | None = None
    """The operator's word for the budget (a number or ``auto``), kept over restarts; None: none said."""
    held: bool = True
    """Nothing is raised: the server's identity is not known yet, or a census is not done."""
    unknown: bool = False
    """Its addresses were another server's until now: nothing is told there before it is known which one it is."""
    search: bool = False
    """It is to be searched for our connections once more, before anything is raised (see ``Ledger.whole``)."""
    accounts: dict[str, Account] = msgspec.field(default_factory=dict)
    quarantine: dict[str, Quarantine] = msgspec.field(default_factory=dict)
    own: int = 0
    """Permits that the supervisor's own connections hold (rule S5)."""
    own_wanted: int = 0
    own_overdraws: bool = False
    """The next own permit is granted even if it does not fit."""
    handover: float = 0.002
    """How long the recall of an idle permit takes from telling to acknowledgement, in seconds, smoothed."""
    tidied: float = -1e9
    """When headroom was last looked at."""
    recalled_total: int = 0
    """Permits recalled and given back since the ledger was made, for metrics."""
    rotated_total: int = 0
    """Turns that ended while permits rotate, likewise."""
    charged: int = 0
    """Σ charge over all members. Kept by the ledger, which changes charges; checked in ``Ledger.check``."""

    @property
    def quarantined(self) -> int:
        return sum(entry.charge for entry in self.quarantine.values())

    @property
    def strange(self) -> int:
        """What of it is charged for connections that nobody has registered for."""
        return sum(entry.charge for entry in self.quarantine.values() if not entry.registered)

    @property
    def owed(self) -> int:
        """Permits recalled that are on their way back, from all members that can still answer."""
        return sum(a.owed for a in self.accounts.values() if len(a.told) > 1 and a.linked)

    @property
    def used(self) -> int:
        """What could not be given back at once: the least that a budget is lowered to for others' sake."""
        return sum(a.used for a in self.accounts.values()) + self.quarantined + max(self.own, self.own_wanted)

    @property
    def outstanding(self) -> int:
        """Everything that rule S1 sums."""
        return self.charged + self.quarantined + self.own

    @property
    def free(self) -> int:
        """What may be raised now; negative while a shrunk budget is overdrawn."""
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


class Saved(msgspec.Struct, frozen=True):
    """Everything that S1 sums, and whose it is. Not: sequences, links, demands."""

    owner: Identity
    """The supervisor that wrote it: its own permits go into quarantine under this tag."""
    servers: tuple[SavedServer, ...] = ()
    members: tuple[SavedMember, ...] = ()
    restarts: int = 0
    """Supervisors before that one which ended with permits charged; for metrics."""
    partial: bool = False
    """Members may live of whom nothing is in it (see ``Ledger.partial``)."""
    scopes: tuple[str, ...] = ()
    """See ``Ledger.scopes``."""


# ---- what the ledger says to its shell ------------------------------------------------------------


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
