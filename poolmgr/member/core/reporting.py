"""What a member reports of itself at one server, and when a report is worth sending.

Pure. A report is a state: the newest replaces all earlier ones, so sending one too many costs only
the supervisor's time, which the thresholds here save. :mod:`poolmgr.member.core.dispatcher` decides what must be
sent at once, such as an acknowledgement that frees a permit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from poolmgr import wire
from poolmgr.member.core.account import Account
from poolmgr.member.core.demand import SLOT, Demand


class Attached(Protocol):
    """The reported part of a pool's place: see :class:`poolmgr.member.core.dispatcher.Attachment`."""

    pooled: bool
    demand: Demand
    refused_at: float

    @property
    def sockets(self) -> int: ...


NEVER = float("inf")

HASTE = 0.02
"""Seconds between two reports while a caller waits."""

FULL = 0.005
"""Seconds between two reports that the last spare permit is taken."""

CALM = 1.0
"""Seconds until a small difference is reported, which matters only to people and metrics."""

LONGEST = 3600.0
"""A time limit in seconds that stands for no limit."""


def describe(
    account: Account[Any],
    attachments: Iterable[Attached],
    waiters: int,
    *,
    guard: float,
    descriptors: int,
    reached: float,
    now: float,
) -> wire.Report:
    """The state of the process at this server.

    Args:
        waiters: callers that wait without a pool.
        guard: seconds for which a connection must not have been needed to count as spare.
        descriptors: how many connections the file-descriptor limit leaves to this server; 0: unknown.
        reached: when a successful connect was last reported.
    """
    replied = reached
    waiting, unneeded, ceiling = waiters, 0, waiters
    in_use = pinned = len(account.lost)
    peak = in_use + waiters
    timeout = LONGEST
    for attachment in attachments:
        demand, usage = attachment.demand, attachment.demand.usage
        replied = max(replied, usage.replied)
        if not attachment.pooled:
            sockets = attachment.sockets
            in_use += sockets
            pinned += sockets  # they may never come back
            peak += sockets
            ceiling += sockets
            continue
        lent, queue = usage.lent, demand.waiting
        if attachment.refused_at:
            queue = max(1, queue)
        if attachment.refused_at > demand.seen:  # refused since the last look: nothing was idle then
            lent = max(lent, attachment.sockets)
        else:
            unneeded += demand.unneeded(guard)
        in_use += lent
        pinned += usage.pinned
        waiting += queue
        peak += max(demand.peak(now), lent + queue)
        ceiling += usage.ceiling
        timeout = min(timeout, usage.timeout)
    # Permits without a descriptor are of no use here, whether callers wait or not.
    unusable = max(0, account.limit - max(account.open, descriptors)) if descriptors else 0
    return wire.Report(
        server=account.server,
        acked=account.ackable(),
        open=account.open,
        in_use=in_use,
        waiting=waiting,
        peak=peak,
        spare=unusable if waiting else max(0, account.limit - account.open + unneeded),
        ceiling=min(ceiling, descriptors) if descriptors else ceiling,
        timeout=timeout,
        pinned=pinned,
        replied=replied,
    )


def exceeds(report: wire.Report, limit: int) -> bool:
    """Whether a caller waits that only a larger limit can serve.

    It is not enough that all permits are taken and a caller waits: a look may fall between two callers that are
    just taking the last ones, or closing sockets may soon serve the waiting caller.
    """
    return report.waiting > 0 and report.in_use + report.waiting > limit


class Told:
    """The reports sent to the supervisor on the present link.

    Attributes:
        short: the supervisor knows that the limit does not suffice for all callers here.
    """

    __slots__ = ("_at", "_full", "_last", "short")

    def __init__(self) -> None:
        self._last: wire.Report | None = None
        self._at = 0.0
        self._full = False
        self.short = False

    def tell(self, report: wire.Report, limit: int, now: float, *, provisional: bool = False) -> None:
        """This report is on its way. A provisional one may be corrected at once."""
        self._last = report
        self._at = now - HASTE if provisional else now
        self._full = report.open >= limit
        self.short = exceeds(report, limit)

    def due(self, report: wire.Report, limit: int, *, short: bool) -> float:
        """When this report is worth sending; never if the last one says the same."""
        last = self._last
        if last is None or (exceeds(report, limit) and not self.short):
            return 0.0
        demand, before = report.in_use + report.waiting, last.in_use + last.waiting
        if (short and demand > before) or (self.short and not report.waiting):
            return self._at + HASTE
        if report.open >= limit > 0 and not self._full:
            return self._at + FULL
        same = (
            report.open, report.peak, report.spare, report.ceiling, report.acked, report.pinned, report.waiting > 0
        ) == (
            last.open, last.peak, last.spare, last.ceiling, last.acked, last.pinned, last.waiting > 0
        )  # fmt: skip
        if same and abs(demand - before) <= max(1, limit // 10):
            return NEVER if (report.in_use, report.waiting) == (last.in_use, last.waiting) else self._at + CALM
        return self._at + SLOT
