"""From whom permits are taken back while others wait, and in which order.

Part of the policy of :mod:`poolmgr.budget.sharing`; pure. Idle permits are recalled first, from the members
furthest above their share; then permits in use, for their next release. The return of a pinned permit has no
predictable end: it is recalled, and not waited for.

An old report is refreshed before the policy acts on it: the member is asked first, for it may
have become busy within its limit without a word.
"""

from __future__ import annotations

from poolmgr.budget.accounts import Account, Server
from poolmgr.budget.allocation import Claim, shares
from poolmgr.budget.effects import Decision

FRESH = 0.01
"""Seconds for which a report says what is idle."""

ANSWER_WITHIN = 0.02
"""Seconds in which a member answers a question, unless it is stopped or starved of processor time."""

ASK_AGAIN = 0.05
"""Seconds after which a member that has nothing to spare is asked again while others wait."""

ASK_AT_MOST = 64
"""How many members are asked in one turn."""


def guard(server: Server) -> float:
    """Seconds for which a connection must have been unused before it is recalled as idle: five times
    what moving a permit costs, so that two alternating bursts do not tear it from each other."""
    return min(0.02, max(0.005, 5 * server.handover))


def coming(server: Server, now: float) -> int:
    """Permits recalled a moment ago: for these, no idle ones need to be recalled as well. A permit that takes
    longer is in use, or its socket cannot be closed: its return has no predictable end."""
    return sum(
        account.owed
        for account in server.accounts.values()
        if account.linked and account.recalled is not None and now - account.recalled <= ANSWER_WITHIN
    )


def _fresh(account: Account, now: float) -> bool:
    return account.report is not None and now - account.reported <= FRESH


def spare(
    server: Server, share: dict[str, int], missing: int, raised: dict[str, int], now: float, decision: Decision
) -> int:
    """Recall permits that members above their share have not used lately. How many."""
    if missing <= 0:
        return 0
    idle: list[tuple[int, str]] = []
    for tag, account in server.accounts.items():
        if account.linked and not account.returning and tag not in raised and _fresh(account, now):
            assert account.report is not None
            excess = min(account.limit - share.get(tag, 0), account.report.spare)
            if excess > 0:
                idle.append((excess, tag))
    total = 0
    for tag, take in from_the_top(idle, missing):
        decision.lowers.append((tag, server.accounts[tag].limit - take))
        total += take
    return total


def used(
    server: Server, share: dict[str, int], missing: int, raised: dict[str, int], now: float, decision: Decision
) -> None:
    """Recall from members above their share, in use or not: returned at the next release (rule M2).
    Members whose report is old are asked first, and have time to answer."""
    above: list[tuple[int, str]] = []
    lowered = {tag for tag, _ in decision.lowers}
    for tag, account in server.accounts.items():
        if account.linked and not account.owed and tag not in raised and tag not in lowered:
            excess = account.keeps - share.get(tag, 0)
            if excess > 0:
                above.append((excess, tag))
    above.sort(key=lambda item: (-item[0], item[1]))
    patient = False
    for _, tag in above[:ASK_AT_MOST]:
        account = server.accounts[tag]
        if _fresh(account, now):
            continue
        if now - account.asked > ASK_AGAIN:
            decision.asks.append(tag)
            patient = True
        elif now - account.asked <= ANSWER_WITHIN and account.reported < account.asked:
            patient = True
    if patient:
        decision.again(now + ANSWER_WITHIN)
        return
    for tag, take in from_the_top(above, missing):
        decision.lowers.append((tag, server.accounts[tag].keeps - take))


def pinned(server: Server, share: dict[str, int], unmet: int, now: float, decision: Decision) -> None:
    """Recall pinned permits from members that have more than would be fair if all came back at once: on release
    they go to waiting members. With fewer permits than members, from those that have had theirs for longest."""
    members: list[tuple[str, Account]] = []
    fixed, recalled = server.quarantined + max(server.own, server.own_wanted), 0
    for tag, account in server.accounts.items():
        if not account.linked or account.silent(now):
            fixed += account.charge
        elif account.need > 0:
            members.append((tag, account))
            recalled += account.keeps - account.limit
    if recalled >= unmet or not any(account.pinned for _, account in members):
        return
    capacity = max(0, server.budget - fixed)
    crowded = len(members) > capacity
    claims = []
    for _, account in members:
        had = account.keeps
        rank = now + (now - account.served) if had else account.waiting or now
        claims.append(Claim(account.need, holding=0 if crowded else had, rank=rank))
    touched = {tag for tag, _ in decision.lowers} | {tag for tag, _ in decision.raises}
    for (tag, account), fair in zip(members, shares(capacity, claims), strict=True):
        if fair < account.limit <= account.pinned == share.get(tag) and tag not in touched:
            decision.lowers.append((tag, fair))


def unused(server: Server, waiters: set[str], unmet: int, now: float, decision: Decision) -> None:
    """Recall what members do not use at all, even below their share: unused permits go to members that
    wait."""
    idle: list[tuple[int, str]] = []
    ask: list[tuple[int, str]] = []
    lowered = {tag for tag, _ in decision.lowers}
    for tag, account in server.accounts.items():
        if not account.linked or account.returning or tag in waiters or tag in lowered or account.limit == 0:
            continue
        if _fresh(account, now) and account.report is not None and account.report.spare > 0:
            idle.append((min(account.report.spare, account.limit), tag))
        elif now - account.asked > ASK_AGAIN:
            ask.append((account.need - account.limit, tag))
    for tag, take in from_the_top(idle, unmet):
        decision.lowers.append((tag, server.accounts[tag].limit - take))
        unmet -= take
    if unmet > 0:
        ask.sort()
        decision.asks.extend(tag for _, tag in ask[:ASK_AT_MOST] if tag not in decision.asks)


def from_the_top(above: list[tuple[int, str]], wanted: int) -> list[tuple[str, int]]:
    """Take ``wanted`` from heaps of the given heights, always from the highest: (tag, taken) each."""
    total = sum(height for height, _ in above)
    keep = shares(max(0, total - wanted), [Claim(demand=height, floor=0) for height, _ in above])
    return [(tag, height - kept) for (height, tag), kept in zip(above, keep, strict=True) if height > kept]
