"""How many permits each member is entitled to while there are not enough: max-min fair shares, and turns.

Part of the policy of :mod:`poolmgr.budget.sharing`; pure, except that it marks the ends of turns in the accounts.
A member below its share is raised; one above it is recalled (:mod:`poolmgr.budget.recalls`).
"""

from __future__ import annotations

import random

from poolmgr.budget.accounts import Account, Server
from poolmgr.budget.allocation import Claim, shares
from poolmgr.budget.effects import Decision


def quantum(server: Server, permits: int, waiters: int, timeout: float) -> float:
    """Seconds for which a member keeps its permit while permits rotate. Long enough that passing it on
    costs little, short enough that every member has a turn well within its callers' ``timeout``."""
    return max(10 * server.handover, min(0.2, timeout / 4 * permits / max(1, waiters)))


def entitled(server: Server, waiters: list[str], now: float, rng: random.Random, decision: Decision) -> dict[str, int]:
    """Max-min fair shares on the demand of all reachable members; pinned permits stay with their holders, besides."""
    accounts = server.accounts
    fixed = server.quarantined + max(server.own, server.own_wanted)
    members: list[tuple[str, Account]] = []
    for tag, account in accounts.items():
        if not account.linked or account.silent(now):
            fixed += account.charge
            continue
        fixed += account.pinned
        if account.peak > account.pinned:
            members.append((tag, account))
    capacity = max(0, server.budget - fixed)
    rotating = len(members) > capacity
    claims = []
    for _, account in members:
        pinned = account.pinned
        holding = account.keeps - pinned
        if not rotating:
            account.turn_ends = None
            claims.append(Claim(account.peak - pinned, holding=holding, rank=account.waiting or now))
            continue
        if holding == 0:
            account.turn_ends = None
        elif account.turn_ends is None:
            # At the beginning of a shortage the turns of all holders begin.
            account.turn_ends = now + _jittered(
                quantum(server, capacity, len(waiters), _patience(server, waiters)), rng
            )
        on_turn = holding > 0 and account.turn_ends is not None and now < account.turn_ends
        if on_turn and account.turn_ends is not None:
            decision.again(account.turn_ends)
        # Members that hold nothing wait in order of arrival; those that had their turn come last.
        rank = account.waiting if holding == 0 and account.waiting is not None else now
        demand = max(0, (account.peak if on_turn else account.need) - pinned)
        claims.append(Claim(demand, holding=holding if on_turn else 0, rank=rank))
    share = {tag: account.pinned for tag, account in accounts.items() if account.pinned}
    for (tag, _), more in zip(members, shares(capacity, claims), strict=True):
        share[tag] = share.get(tag, 0) + more
    return share


def turn(server: Server, share: dict[str, int], waiters: list[str], now: float, rng: random.Random) -> float:
    permits = sum(share.values()) - sum(account.pinned for account in server.accounts.values())
    return now + _jittered(quantum(server, permits, len(waiters), _patience(server, waiters)), rng)


def _jittered(seconds: float, rng: random.Random) -> float:
    """Within a quarter of it, so that turns do not all end at once."""
    return seconds * (0.75 + 0.5 * rng.random())


def _patience(server: Server, waiters: list[str]) -> float:
    """The shortest timeout of any waiting caller, in seconds."""
    reports = (server.accounts[tag].report for tag in waiters)
    return min((report.timeout for report in reports if report is not None), default=5.0)
