"""Who should get more, who should give back, and when: the ledger's policy.

Nothing here can break the budget: :class:`poolmgr.budget.ledger.Ledger` checks every raise and waits
for every acknowledgement, whatever is decided here. What is decided here is whether nobody waits for
a permit that another does not use (P2), and whether permits move no more than they must.

The cases, numbered as in :func:`decide`:

1. **Nobody waits.** Permits that nobody demands are handed out in advance, evenly, to members that
   were active lately, so that most growth needs no message. A reserve stays undistributed, so that a
   growth past the limit needs no recall either.
2. **There is enough for all who wait.** They get what they need, from the reserve if need be.
3. **There is not.** Max-min fair shares on the members' demand say who is entitled to how much. Who
   has less is raised, and what that takes is recalled from whoever is furthest above its share: what
   it has not used for a while first, and no more than wait. Whoever wants more than its share gets
   what others do not use at all.

   With fewer permits than members with demand, the share of some is 0. Then permits *rotate*: a
   member keeps its permit for a quantum and passes it on, waiters in order.

   What is *pinned*, by a subscription or a command that takes long, is out of the game: the rest is
   shared among all. It is recalled too where there is not enough, so that it changes hands at its next
   release; but nobody waits for that.

   A budget that has shrunk is made up for in the same way. For others' sake only what is unused comes back.

Who is entitled to what is in :mod:`poolmgr.budget.entitlement`, from whom it is taken in
:mod:`poolmgr.budget.recalls`. They read the accounts; the only things they write are the marks of their
own rhythm (``turn_ends``, ``tidied``).
"""

from __future__ import annotations

import random

from poolmgr.budget import entitlement, recalls
from poolmgr.budget.accounts import Account, Server
from poolmgr.budget.allocation import Claim, shares
from poolmgr.budget.decision import Decision

ACTIVE_FOR = 10.0
"""Seconds after its last demand for which a member is given headroom."""

TIDY_EVERY = 0.1
"""Headroom is looked at no more often than this, in seconds."""


def reserve(server: Server) -> int:
    """Permits kept undistributed while nobody waits: one, or a tenth of the budget."""
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
    """Who has given back all that was recalled but what is pinned can say so only if it is told that this is
    enough; till then the rest is charged too."""
    for tag, account in server.accounts.items():
        report = account.report
        if len(account.told) > 1 and report is not None and account.linked:
            if account.limit < report.pinned and report.open <= account.pinned < account.charge:
                decision.raises.append((tag, account.pinned))


def _call_off(server: Server, decision: Decision) -> None:
    """Nobody waits for what was recalled any more: who still uses it may keep it."""
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
    """What a member without demand keeps at least: its headroom can be taken back if it can be told."""
    if not account.linked or account.silent(now) or account.report is None:
        return account.charge
    return min(account.charge, max(account.report.open, account.peak))


def _take_back_headroom(server: Server, targets: dict[str, int], missing: int, decision: Decision) -> None:
    """Take back headroom in which nothing is open, from whoever has most above its target: to refill the
    reserve, and for members that have less than half of what would be even. (A smaller unevenness is left
    alone: a limit is not worth a message for its own sake.)"""
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
        # Nobody who is entitled to a permit lacks it: what is free goes to who wants more than its share.
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
