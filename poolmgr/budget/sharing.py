"""Which members should get more, which should give back, and when: the ledger's policy.

Nothing here can break the budget: :class:`poolmgr.budget.ledger.Ledger` checks every raise and waits for every
acknowledgement, whatever this policy decides. The policy decides whether a member ever waits for a permit
that another does not use (P2), and whether permits move no more than they must.

The cases, numbered as in :func:`decide`:

1. **No member waits.** Permits without demand are handed out in advance, evenly, to members that
   were active lately, so that most growth needs no message. A reserve stays undistributed, so that
   growth past the limit does not need a recall either.
2. **There is enough for all that wait.** They get what they need, from the reserve if need be.
3. **There is not.** Max-min fair shares on the members' demand say what each is entitled to. A member
   with less is raised. What that takes is recalled from the members furthest above their share: first
   what they have not used for a while, and no more than is missing. Members that want more than their
   share get what others do not use at all.

   With fewer permits than members with demand, the share of some is 0. Then permits *rotate*: a
   member keeps its permit for a quantum and passes it on, waiters in order.

   *Pinned* permits, held by a subscription or a long command, do not take part: the rest is
   shared among all. In a shortage they are recalled too, so that they change hands at their next
   release; but the policy does not wait for that.

   A shrunk budget is made up for in the same way. If it shrank for others' sake, only unused permits come back.

:mod:`poolmgr.budget.entitlement` says what each member is entitled to, :mod:`poolmgr.budget.recalls` from
which members it is taken. They read the accounts and write only the marks of their own rhythm
(``turn_ends``, ``tidied``).
"""

from __future__ import annotations

import random

from poolmgr.budget import entitlement, recalls
from poolmgr.budget.accounts import Account, Server
from poolmgr.budget.allocation import Claim, shares
from poolmgr.budget.effects import Decision

ACTIVE_FOR = 10.0
"""Seconds after its last demand for which a member gets headroom."""

TIDY_EVERY = 0.1
"""Seconds between two looks at headroom, at least."""


def reserve(server: Server) -> int:
    """Permits kept undistributed while no member waits: one, or a tenth of the budget."""
    return max(1, server.budget // 10)


def decide(server: Server, now: float, rng: random.Random) -> Decision:
    """What should change at one server. See the module's docstring for the cases."""
    decision = Decision()
    _settle_for_pinned(server, decision)
    if server.held and server.free >= server.own_wanted - server.own:
        return decision  # held or not, the supervisor needs a permit to look with
    short = [
        (account.waiting, tag)
        for tag, account in server.accounts.items()
        if account.waiting is not None and account.linked and not account.owed
    ]
    own_missing = max(0, server.own_wanted - server.own)
    free = server.free - own_missing
    if not short and free >= 0:
        _call_off(server, decision)
        _hand_out_headroom(server, free, now, decision)  # 1
        return decision
    short.sort()
    waiters = [tag for _, tag in short]
    unmet = sum(server.accounts[tag].need - server.accounts[tag].keeps for tag in waiters)
    if unmet <= free:
        for tag in waiters:  # 2
            decision.raises.append((tag, server.accounts[tag].need))
        decision.again(max(now, server.tidied + TIDY_EVERY))
        return decision
    _share_out(server, waiters, free, now, rng, decision)  # 3
    return decision


def _settle_for_pinned(server: Server, decision: Decision) -> None:
    """A member that returned everything except pinned permits cannot acknowledge the recall. Raise its limit to
    what is pinned, so that the rest is released."""
    for tag, account in server.accounts.items():
        report = account.report
        if len(account.told) > 1 and report is not None and account.linked:
            if account.limit < report.pinned and report.open <= account.pinned < account.charge:
                decision.raises.append((tag, account.pinned))


def _call_off(server: Server, decision: Decision) -> None:
    """No member waits for recalled permits any more: members that still use them may keep them."""
    for tag, account in server.accounts.items():
        if account.linked and account.need > account.limit and account.returning:
            decision.raises.append((tag, min(account.need, account.charge)))


# ---- case 1 -----------------------------------------------------------------------------------------


def _hand_out_headroom(server: Server, free: int, now: float, decision: Decision) -> None:
    accounts = server.accounts
    newcomers = any(a.unanswered and a.linked for a in accounts.values())
    if not newcomers and now - server.tidied < TIDY_EVERY:
        decision.again(server.tidied + TIDY_EVERY)
        return
    server.tidied = now
    base: dict[str, int] = {}
    elsewhere = 0
    for tag, account in accounts.items():
        account.turn_ends = None
        if account.linked and not account.silent(now) and now - account.active <= ACTIVE_FOR:
            opened = account.report.open if account.report else 0
            base[tag] = max(account.peak, min(opened, account.limit))
        else:
            elsewhere += _kept(account, now)
    if not base:
        return
    keep = reserve(server)
    left = server.budget - server.quarantined - max(server.own, server.own_wanted) - elsewhere - keep
    even = max(0, (left - sum(base.values())) // len(base))
    targets = {tag: _capped(accounts[tag], at + even) for tag, at in base.items()}
    for tag, target in targets.items():
        account = accounts[tag]
        more = min(target - account.limit, free - keep)
        if more > 0 and not account.returning:
            decision.raises.append((tag, account.limit + more))
            free -= more
    raised = dict(decision.raises)
    has = {tag: raised.get(tag, accounts[tag].limit) for tag in targets}
    lacking = sum(target - has[tag] for tag, target in targets.items() if 2 * has[tag] < target)
    _take_back_headroom(server, targets, keep + lacking - free - server.owed, decision)


def _kept(account: Account, now: float) -> int:
    """The least that a member without demand keeps: headroom can be taken back if the member can be reached."""
    if not account.linked or account.silent(now) or account.report is None:
        return account.charge
    return min(account.charge, max(account.report.open, account.peak))


def _take_back_headroom(server: Server, targets: dict[str, int], missing: int, decision: Decision) -> None:
    """Take back headroom in which nothing is open, from the members furthest above their target: to refill the
    reserve, and for members that have less than half of an even part. (A smaller unevenness stays: a limit is
    not worth a message for its own sake.)"""
    if missing <= 0:
        return
    above: list[tuple[int, str]] = []
    for tag, account in server.accounts.items():
        if account.linked and not account.returning and account.report is not None:
            excess = account.limit - max(targets.get(tag, 0), account.report.open, account.peak)
            if excess > 0:
                above.append((excess, tag))
    for tag, take in recalls.from_the_top(above, missing):
        decision.lowers.append((tag, server.accounts[tag].limit - take))


def _capped(account: Account, limit: int) -> int:
    ceiling = account.report.ceiling if account.report else account.ceiling
    return min(limit, ceiling) if ceiling else limit


# ---- case 3 -----------------------------------------------------------------------------------------


def _share_out(
    server: Server, waiters: list[str], free: int, now: float, rng: random.Random, decision: Decision
) -> None:
    share = entitlement.entitled(server, waiters, now, rng, decision)
    accounts = server.accounts
    available = max(0, free)
    entitled = 0
    raised: dict[str, int] = {}
    for tag in waiters:
        account = accounts[tag]
        want = min(account.need, share.get(tag, 0)) - account.keeps
        if want > 0:
            give = min(want, available)
            raised[tag] = account.keeps + give
            available -= give
            entitled += want - give
    over = max(0, -free)
    missing = entitled + over
    coming = recalls.coming(server, now)
    beyond = {tag: accounts[tag].need - raised.get(tag, accounts[tag].keeps) for tag in waiters}
    if entitled == 0 and available > 0:
        # No member lacks a permit it is entitled to: free ones go to members that want more than their share.
        extra = shares(available, [Claim(demand=beyond[tag], rank=i) for i, tag in enumerate(waiters)])
        for tag, more in zip(waiters, extra, strict=True):
            raised[tag] = raised.get(tag, accounts[tag].keeps) + more
            beyond[tag] -= more
    for tag, limit in raised.items():
        account = accounts[tag]
        if limit > account.keeps:
            decision.raises.append((tag, limit))
            if account.keeps == account.pinned:
                account.turn_ends = entitlement.turn(server, share, waiters, now, rng)
    lowered = recalls.spare(server, share, missing - coming, raised, now, decision)
    if server.spares_used and server.own >= server.own_wanted:
        missing, over = entitled, 0
    if missing - coming - lowered > 0:
        recalls.used(server, share, missing - server.owed - lowered, raised, now, decision)
    lowered = sum(accounts[tag].keeps - limit for tag, limit in decision.lowers)
    wanted = sum(more for more in beyond.values() if more > 0) - coming - lowered
    if wanted + max(0, -free) > 0:
        recalls.unused(server, set(waiters), wanted + max(0, -free), now, decision)
        recalls.pinned(server, share, wanted + over - server.owed, now, decision)
    decision.again(now + recalls.ASK_AGAIN)
