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

Knowledge is refreshed before it is acted on: a member whose report is old is asked first, for it may
have become busy within its limit without a word.

This module reads the accounts; the only things it writes are the marks of its own rhythm
(``turn_ends``, ``tidied``).
"""

from __future__ import annotations

import random

import msgspec

from poolmgr.budget.accounts import Account, Server
from poolmgr.budget.allocation import Claim, shares

ACTIVE_FOR = 10.0
"""Seconds after its last demand for which a member is given headroom."""

TIDY_EVERY = 0.1
"""Headroom is looked at no more often than this, in seconds."""

FRESH = 0.01
"""Seconds for which a report says what is idle."""

ANSWER_WITHIN = 0.02
"""Seconds in which a member that was asked answers, unless it is stopped or starved of processor time."""

ASK_AGAIN = 0.05
"""Seconds after which a member that has nothing to spare is asked again while others wait."""

ASK_AT_MOST = 64
"""How many members are asked in one turn."""


class Decision(msgspec.Struct):
    """What should change: new limits by tag, who is to be asked, when to decide again."""

    raises: list[tuple[str, int]] = msgspec.field(default_factory=list)
    lowers: list[tuple[str, int]] = msgspec.field(default_factory=list)
    asks: list[str] = msgspec.field(default_factory=list)
    wake: float | None = None

    def again(self, at: float) -> None:
        """Decide again at this time, or earlier."""
        self.wake = at if self.wake is None else min(self.wake, at)


def reserve(server: Server) -> int:
    """Permits kept undistributed while nobody waits: one, or a tenth of the budget."""
    return max(1, server.budget // 10)


def guard(server: Server) -> float:
    """Seconds for which a connection must have been unused before it is recalled as idle: five times
    what moving a permit costs, so that two alternating bursts do not tear it from each other."""
    return min(0.02, max(0.005, 5 * server.handover))


def quantum(server: Server, permits: int, waiters: int, timeout: float) -> float:
    """Seconds for which a member keeps its permit while permits rotate. Long enough that passing it on
    costs little, short enough that everyone has a turn well within its callers' ``timeout``."""
    return max(10 * server.handover, min(0.2, timeout / 4 * permits / max(1, waiters)))


def decide(server: Server, now: float, rng: random.Random) -> Decision:
    """What should change at one server. See the module's docstring for the cases."""
    decision = Decision()
    if server.held and server.free >= server.own_wanted - server.own:
        return decision  # held or not, the supervisor needs a permit to look with
    short = [
        (account.waiting, tag)
        for tag, account in server.accounts.items()
        if account.waiting is not None and account.linked and not account.returning
    ]
    own_missing = max(0, server.own_wanted - server.own)
    free = server.free - own_missing
    if not short and free >= 0:
        _call_off(server, decision)
        _hand_out_headroom(server, free, now, decision)  # 1
        return decision
    short.sort()
    waiters = [tag for _, tag in short]
    unmet = sum(server.accounts[tag].need - server.accounts[tag].limit for tag in waiters)
    if unmet <= free:
        for tag in waiters:  # 2
            decision.raises.append((tag, server.accounts[tag].need))
        decision.again(max(now, server.tidied + TIDY_EVERY))
        return decision
    _share_out(server, waiters, free, now, rng, decision)  # 3
    return decision


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
    _take_back_headroom(server, targets, keep + lacking - free - server.returning, decision)


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
    for tag, take in _from_the_top(above, missing):
        decision.lowers.append((tag, server.accounts[tag].limit - take))


def _capped(account: Account, limit: int) -> int:
    ceiling = account.report.ceiling if account.report else account.ceiling
    return min(limit, ceiling) if ceiling else limit


# ---- case 3 -----------------------------------------------------------------------------------------


def _share_out(
    server: Server, waiters: list[str], free: int, now: float, rng: random.Random, decision: Decision
) -> None:
    share = _shares(server, waiters, now, rng, decision)
    accounts = server.accounts
    available = max(0, free)
    entitled = 0
    raised: dict[str, int] = {}
    for tag in waiters:
        account = accounts[tag]
        want = min(account.need, share.get(tag, 0)) - account.limit
        if want > 0:
            give = min(want, available)
            raised[tag] = account.limit + give
            available -= give
            entitled += want - give
    missing = entitled + max(0, -free)
    coming = _coming(server, now)
    beyond = {tag: accounts[tag].need - raised.get(tag, accounts[tag].limit) for tag in waiters}
    if entitled == 0 and available > 0:
        # Nobody who is entitled to a permit lacks it: what is free goes to who wants more than its share.
        extra = shares(available, [Claim(demand=beyond[tag], rank=i) for i, tag in enumerate(waiters)])
        for tag, more in zip(waiters, extra, strict=True):
            raised[tag] = raised.get(tag, accounts[tag].limit) + more
            beyond[tag] -= more
    for tag, limit in raised.items():
        account = accounts[tag]
        if limit > account.limit:
            decision.raises.append((tag, limit))
            if account.limit == 0:
                account.turn_ends = _turn(server, share, waiters, now, rng)
    lowered = _recall_spare(server, share, missing - coming, raised, now, decision)
    if missing - coming - lowered > 0:
        _recall_used(server, share, missing - server.returning - lowered, raised, now, decision)
    lowered = sum(accounts[tag].limit - limit for tag, limit in decision.lowers)
    unmet = sum(more for more in beyond.values() if more > 0) + max(0, -free) - coming - lowered
    if unmet > 0:
        _recall_unused(server, set(waiters), unmet, now, decision)
    decision.again(now + ASK_AGAIN)


def _coming(server: Server, now: float) -> int:
    """Permits recalled a moment ago, which idle ones need not be recalled for as well. What takes longer
    is in use, or its socket cannot be closed: nobody knows when it comes."""
    return sum(
        account.returning
        for account in server.accounts.values()
        if account.linked and account.recalled is not None and now - account.recalled <= ANSWER_WITHIN
    )


def _shares(server: Server, waiters: list[str], now: float, rng: random.Random, decision: Decision) -> dict[str, int]:
    """Max-min fair shares on the demand of everyone who can be told."""
    accounts = server.accounts
    fixed = server.quarantined + max(server.own, server.own_wanted)
    members: list[tuple[str, Account]] = []
    for tag, account in accounts.items():
        if not account.linked or account.silent(now):
            fixed += account.charge
        elif account.peak > 0:
            members.append((tag, account))
    capacity = max(0, server.budget - fixed)
    rotating = len(members) > capacity
    claims = []
    for _, account in members:
        if not rotating:
            account.turn_ends = None
            claims.append(Claim(account.peak, holding=account.limit, rank=account.waiting or now))
            continue
        if account.limit == 0:
            account.turn_ends = None
        elif account.turn_ends is None:
            # Holders at the beginning of a shortage have their turn from now on.
            account.turn_ends = now + _jittered(
                quantum(server, capacity, len(waiters), _patience(server, waiters)), rng
            )
        on_turn = account.limit > 0 and account.turn_ends is not None and now < account.turn_ends
        if on_turn and account.turn_ends is not None:
            decision.again(account.turn_ends)
        # Whoever has nothing waits in order of arrival; whoever had its turn is last.
        rank = account.waiting if account.limit == 0 and account.waiting is not None else now
        demand = account.peak if on_turn else account.need
        claims.append(Claim(demand, holding=account.limit if on_turn else 0, rank=rank))
    return dict(zip((tag for tag, _ in members), shares(capacity, claims), strict=True))


def _turn(server: Server, share: dict[str, int], waiters: list[str], now: float, rng: random.Random) -> float:
    permits = sum(share.values())
    return now + _jittered(quantum(server, permits, len(waiters), _patience(server, waiters)), rng)


def _jittered(seconds: float, rng: random.Random) -> float:
    """Within a quarter of it, so that turns do not all end at once."""
    return seconds * (0.75 + 0.5 * rng.random())


def _patience(server: Server, waiters: list[str]) -> float:
    """The shortest time that any waiting caller waits, in seconds."""
    reports = (server.accounts[tag].report for tag in waiters)
    return min((report.timeout for report in reports if report is not None), default=5.0)


def _fresh(account: Account, now: float) -> bool:
    return account.report is not None and now - account.reported <= FRESH


def _recall_spare(
    server: Server, share: dict[str, int], missing: int, raised: dict[str, int], now: float, decision: Decision
) -> int:
    """Recall what those above their share have not used lately; how much."""
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
    for tag, take in _from_the_top(idle, missing):
        decision.lowers.append((tag, server.accounts[tag].limit - take))
        total += take
    return total


def _recall_used(
    server: Server, share: dict[str, int], missing: int, raised: dict[str, int], now: float, decision: Decision
) -> None:
    """Recall from those above their share, in use or not: released at the next release (rule M2).
    First those whose report is old are asked, and given time to answer."""
    above: list[tuple[int, str]] = []
    lowered = {tag for tag, _ in decision.lowers}
    for tag, account in server.accounts.items():
        if account.linked and not account.returning and tag not in raised and tag not in lowered:
            excess = account.limit - share.get(tag, 0)
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
    for tag, take in _from_the_top(above, missing):
        decision.lowers.append((tag, server.accounts[tag].limit - take))


def _recall_unused(server: Server, waiters: set[str], unmet: int, now: float, decision: Decision) -> None:
    """Recall what others do not use at all, below their share too: a permit that nobody uses goes to
    whoever waits."""
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
    for tag, take in _from_the_top(idle, unmet):
        decision.lowers.append((tag, server.accounts[tag].limit - take))
        unmet -= take
    if unmet > 0:
        ask.sort()
        decision.asks.extend(tag for _, tag in ask[:ASK_AT_MOST] if tag not in decision.asks)


def _from_the_top(above: list[tuple[int, str]], wanted: int) -> list[tuple[str, int]]:
    """Take ``wanted`` from heaps of the given heights, always from the highest: (tag, taken) each."""
    total = sum(height for height, _ in above)
    keep = shares(max(0, total - wanted), [Claim(demand=height, floor=0) for height, _ in above])
    return [(tag, height - kept) for (height, tag), kept in zip(above, keep, strict=True) if height > kept]
