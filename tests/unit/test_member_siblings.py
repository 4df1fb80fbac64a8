"""Several pools of one process at one server: whose turn it is when there is less than they want."""

from __future__ import annotations

from poolmgr import wire
from poolmgr.member.core.process import Attachment, Grow, MemberCore, Shed
from poolmgr.member.ports import Usage

SERVER = "r0"
ENDPOINT = wire.Endpoint("tcp://r0")


def core_with(pools: list[Attachment], limit: int) -> MemberCore:
    core = MemberCore("tag")
    for pool in pools:
        core.attach(pool)
    core.register(0.0)
    core.received(1, wire.Resolved(ENDPOINT.key, SERVER), 0.0)
    core.received(1, wire.Limit(SERVER, 1, limit), 0.0)
    core.settle(0.0)
    return core


def busy(waiting: int, lent: int) -> Usage:
    return Usage(lent=lent, idle=0, waiting=waiting, low=0, quiet=0.0, ceiling=100, timeout=5.0)


def until_robbed(core: MemberCore, holder: Attachment, starved: Attachment) -> float:
    """One has the only permit in use, the other waits, until the first is to give it up; when that is."""
    now = 1.0
    while not holder.must_yield:
        now += 0.01
        core.observe(holder, busy(waiting=0, lent=1), now)
        core.observe(starved, busy(waiting=1, lent=0), now)
        core.settle(now)
        assert now < 2.0, "it was never asked"
    return now


def test_pools_that_always_want_more_have_turns_at_a_single_permit():
    """Each closes its connection when it is told to give one up, and takes whatever it can get."""
    pools = [Attachment(ENDPOINT) for _ in range(3)]
    core = core_with(pools, limit=1)
    now = 1.0
    turns: list[Attachment] = []
    holder: tuple[Attachment, int] | None = None
    for _ in range(600):
        now += 0.01
        for pool in pools:
            core.observe(pool, busy(waiting=3, lent=int(holder is not None and holder[0] is pool)), now)
        if holder is not None and holder[0].surplus and core.give_up(holder[0], now):
            core.closing(holder[1])
            core.gone(holder[1])
            holder = None
        for effect in core.settle(now).effects:
            if isinstance(effect, Grow) and (serial := core.take(effect.attachment, now)) is not None:
                assert isinstance(effect.attachment, Attachment)
                holder = effect.attachment, serial
                turns.append(effect.attachment)
    counts = [turns.count(pool) for pool in pools]
    assert min(counts) > 10
    assert max(counts) - min(counts) <= 1, counts


def test_what_was_to_be_given_up_and_became_idle_instead_is_taken_at_once():
    """The holder's release came just before it was told: no further release may ever come."""
    busy_one, starved = pools = [Attachment(ENDPOINT) for _ in range(2)]
    core = core_with(pools, limit=1)
    assert core.take(busy_one, 1.0) is not None
    core.take(starved, 1.0)
    now = until_robbed(core, busy_one, starved)
    shed: list[Shed] = []
    while not shed:
        now += 0.01
        core.observe(busy_one, Usage(lent=0, idle=1, waiting=0, low=1, quiet=0.0, ceiling=100, timeout=5.0), now)
        core.observe(starved, busy(waiting=1, lent=0), now)
        shed = [effect for effect in core.settle(now).effects if isinstance(effect, Shed)]
        assert now < 3.0, "the idle one is never closed"
    assert shed == [Shed(busy_one, 1)]


def test_nobody_gives_one_up_for_a_sibling_that_has_ceased_to_wait():
    busy_one, starved = pools = [Attachment(ENDPOINT) for _ in range(2)]
    core = core_with(pools, limit=1)
    core.take(busy_one, 1.0)
    core.take(starved, 1.0)
    now = until_robbed(core, busy_one, starved)
    for _ in range(30):
        now += 0.01
        core.observe(busy_one, busy(waiting=0, lent=1), now)
        core.observe(starved, busy(waiting=0, lent=0), now)
        core.settle(now)
    assert busy_one.surplus == 0
