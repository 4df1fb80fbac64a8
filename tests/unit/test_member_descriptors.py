"""One process, several servers, and fewer descriptors than permits: what is divided, and that everybody goes on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from poolmgr import wire
from poolmgr.member.core.division import Stake, divide
from poolmgr.member.core.process import Attachment, Grow, MemberCore, Shed
from poolmgr.member.ports import Usage


def stake(need: int = 0, kept: int = 0, limit: int = 100, opened: int | None = None) -> Stake:
    return Stake(limit=limit, need=need, kept=kept, open=kept if opened is None else opened)


def parts(left: int, *stakes: Stake) -> list[tuple[int, int | None]]:
    return [(part.ceiling, part.room) for part in divide(left, stakes)]


# ---- the arithmetic ----------------------------------------------------------------------------------


def test_while_nobody_needs_much_all_parts_are_even_whatever_changes() -> None:
    assert parts(60, stake(), stake()) == [(30, 30)] * 2
    assert parts(60, stake(need=5, kept=9), stake(need=21, kept=30)) == [(30, 30)] * 2


def test_who_needs_more_gets_what_the_other_does_not_need() -> None:
    assert parts(60, stake(need=50, kept=50), stake(need=4, kept=4)) == [(50, 50), (10, 10)]


def test_two_that_want_all_of_it_have_half_each() -> None:
    assert parts(60, stake(need=90, kept=30), stake(need=90, kept=30)) == [(30, 30)] * 2


def test_an_odd_one_stays_where_it_is() -> None:
    assert parts(5, stake(need=9, kept=3), stake(need=9, kept=2)) == [(3, 3), (2, 2)]
    assert parts(5, stake(need=9, kept=2), stake(need=9, kept=3)) == [(2, 2), (3, 3)]


def test_idle_connections_are_left_alone_until_they_are_in_the_way() -> None:
    (_, room), _ = parts(60, stake(kept=50), stake(need=10, kept=10))
    assert room == 50
    (_, room), _ = parts(60, stake(kept=50), stake(need=15, kept=10))
    assert room == 45


def test_what_is_above_its_part_is_given_on_only_when_it_is_closed() -> None:
    assert parts(60, stake(need=90, kept=60), stake(need=90)) == [(30, 30), (30, 1)]
    assert parts(60, stake(need=90, kept=30, opened=60), stake(need=90)) == [(30, 30), (30, 1)], "closing ones count"
    assert parts(60, stake(need=90, kept=40), stake(need=90, kept=5)) == [(30, 30), (30, 20)]


def test_what_no_permit_is_for_is_of_use_to_others() -> None:
    (ceiling, room), other = parts(60, stake(need=90, kept=50, limit=100), stake(need=90, kept=10, limit=10))
    assert (ceiling, room) == (50, 50)
    assert other == (30, 10), "its supervisor is told that it could use more"


def test_a_server_may_always_have_one() -> None:
    assert parts(1, stake(need=3), stake(need=3), stake(need=3, kept=1)) == [(1, 1)] * 3


counts = st.integers(0, 40)
stakes = st.builds(
    lambda limit, need, kept, closing: Stake(limit=limit, need=need, kept=kept, open=kept + closing),
    counts, counts, counts, st.integers(0, 5),
)  # fmt: skip


@given(st.integers(1, 120), st.lists(stakes, min_size=1, max_size=5))
def test_no_descriptor_is_given_twice(left: int, given: list[Stake]) -> None:
    found = divide(left, given)
    for mine, part in zip(given, found, strict=True):
        assert part.room is not None
        assert 1 <= part.room <= part.ceiling
        if part.room < mine.kept and part.room < mine.limit and mine.kept > 1:
            assert sum(max(1, min(s.limit, max(s.need, s.kept))) for s in given) > left, "nothing is closed in vain"
    ones = sum(1 for mine in given if not mine.open)
    rooms = sum(max(part.room or 0, mine.open) for part, mine in zip(found, given, strict=True))
    assert rooms <= max(left, sum(mine.open for mine in given)) + ones


@given(st.integers(1, 120), st.lists(stakes, min_size=1, max_size=5))
def test_the_division_comes_to_rest(left: int, given: list[Stake]) -> None:
    """Who is told to close closes, who has room and a need opens, and after that nobody has to close again."""
    for _ in range(3):
        given = _obeyed(left, given)
    assert _obeyed(left, given) == given


def _obeyed(left: int, given: list[Stake]) -> list[Stake]:
    after = []
    for mine, part in zip(given, divide(left, given), strict=True):
        assert part.room is not None
        may = min(mine.limit, part.room)
        kept = max(min(mine.kept, may), min(mine.need, may))
        after.append(Stake(mine.limit, mine.need, kept, kept))
    return after


# ---- in the core -------------------------------------------------------------------------------------


class Pool:
    """A pool at a server of its own, with a queue and connections by serial number."""

    def __init__(self, world: World, port: int) -> None:
        self.world = world
        self.server = f"tcp://localhost:{port}"
        self.attachment = Attachment(wire.Endpoint(key=self.server, host="localhost", port=port))
        self.lent: list[int] = []
        self.idle: list[int] = []
        self.waiting = 0
        self.closed = 0

    @property
    def connections(self) -> int:
        return len(self.lent) + len(self.idle)

    def ask(self, callers: int = 1) -> None:
        for _ in range(callers):
            self.world.now += 0.0001
            if self.idle:
                self.lent.append(self.idle.pop(0))
            elif not self.open():
                self.waiting += 1

    def open(self) -> bool:
        serial = self.world.core.take(self.attachment, self.world.now)
        if serial is not None:
            self.lent.append(serial)
        return serial is not None

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            serial = self.lent.pop(0)
            if self.attachment.surplus > 0 and self.world.core.give_up(self.attachment, self.world.now):
                self.close(serial)
            elif self.waiting:
                self.waiting -= 1
                self.lent.append(serial)
            else:
                self.idle.append(serial)

    def close(self, serial: int) -> None:
        self.closed += 1
        self.world.core.closing(serial)
        self.world.closing.append(serial)


class World:
    """A core with a pool at each of two servers, whose supervisor has granted it ``limits``."""

    def __init__(self, descriptors: int, *limits: int) -> None:
        self.now = 100.0
        self.core = MemberCore("tag", rng=random.Random(7))
        self.core.descriptors = descriptors
        self.pools = [Pool(self, port) for port in (1, 2)]
        for pool in self.pools:
            self.core.attach(pool.attachment)
        self.closing: list[int] = []
        self.reports: dict[str, wire.Report] = {}
        self.most = 0
        self.core.register(self.now)
        for pool in self.pools:
            self.core.received(1, wire.Resolved(pool.server, pool.server), self.now)
        for seq, (pool, limit) in enumerate(zip(self.pools, limits, strict=True), 1):
            self.core.received(1, wire.Limit(pool.server, seq, limit), self.now)
        self.turn()

    def turn(self, seconds: float = 0.0) -> None:
        """A few turns of the shell; what is closing is confirmed."""
        self.now += seconds
        for _ in range(4):
            for attachment in self.core.looks(self.now):
                pool = next(p for p in self.pools if p.attachment is attachment)
                usage = Usage(len(pool.lent), len(pool.idle), pool.waiting, len(pool.idle), 1.0, 1000, 5.0)
                self.core.observe(attachment, usage, self.now)
            settled = self.core.settle(self.now)
            self.most = max(self.most, self.core.open)
            for message in self.core.outgoing():
                if isinstance(message, wire.Report):
                    self.reports[message.server] = message
            for effect in settled.effects:
                pool = next(p for p in self.pools if p.attachment is getattr(effect, "attachment", None))
                match effect:
                    case Shed(_, count):
                        for serial in pool.idle[:count]:
                            pool.idle.remove(serial)
                            pool.close(serial)
                    case Grow():
                        while pool.waiting and pool.open():
                            pool.waiting -= 1
            self.most = max(self.most, self.core.open)
            while self.closing:
                self.core.gone(self.closing.pop())

    def both_ask(self, callers: int) -> None:
        for pool in self.pools:
            pool.ask(callers)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / 0.05)):
            self.turn(0.05)

    @property
    def held(self) -> tuple[int, int]:
        return self.pools[0].connections, self.pools[1].connections


def test_two_servers_together_open_no_more_than_descriptors_leave() -> None:
    world = World(20, 20, 20)
    world.both_ask(20)
    world.pass_time(2)
    assert world.most <= 21, "one to get the second server going"
    assert sum(world.held) <= 21


def test_each_supervisor_is_told_what_its_server_could_use() -> None:
    world = World(20, 20, 20)
    first, second = world.pools
    first.ask(16)
    second.ask(1)
    world.pass_time(2)
    ceilings = [world.reports[pool.server].ceiling for pool in world.pools]
    assert ceilings == [16, 4]


def test_while_limits_fit_each_supervisor_is_told_all_that_descriptors_leave() -> None:
    world = World(20, 10, 10)
    world.both_ask(10)
    world.pass_time(1)
    assert world.held == (10, 10)
    assert [world.reports[pool.server].ceiling for pool in world.pools] == [20, 20]


def test_both_want_all_of_it_and_come_to_an_even_division_without_flapping() -> None:
    world = World(20, 20, 20)
    first, second = world.pools
    first.ask(30)
    assert world.held == (20, 0)
    second.ask(30)
    for _ in range(60):
        world.turn(0.05)
        for pool in world.pools:
            pool.release(min(3, len(pool.lent)))
            pool.ask(3)
    assert world.held == (10, 10)
    assert first.closed <= 11
    assert second.closed <= 1
    settled = first.closed, second.closed
    for _ in range(60):
        world.turn(0.05)
        for pool in world.pools:
            pool.release(3)
            pool.ask(3)
    assert (first.closed, second.closed) == settled, "nothing moves any more"
    assert world.most <= 21


def test_who_waits_gets_what_is_idle_at_the_other_server_at_once() -> None:
    world = World(20, 20, 20)
    first, second = world.pools
    first.ask(20)
    first.release(20)
    world.pass_time(2)
    assert world.held == (20, 0), "nobody is in need of it"
    second.ask(5)
    world.turn(0.01)
    world.turn(0.01)
    assert world.held == (15, 5)
    assert second.waiting == 0


def test_what_has_become_idle_since_is_seen_at_once() -> None:
    world = World(20, 20, 20)
    first, second = world.pools
    first.ask(20)
    world.pass_time(0.2)
    first.release(20)
    second.ask(5)
    world.turn(0.01)
    world.turn(0.01)
    assert world.held == (15, 5)
    assert second.waiting == 0


def test_a_new_limit_is_no_more_than_descriptors_from_its_first_instant() -> None:
    world = World(20, 20, 0)
    first, second = world.pools
    first.ask(20)
    world.core.received(1, wire.Limit(second.server, 9, 20), world.now)
    second.ask(20)
    assert world.held == (20, 1)


def test_who_needs_more_than_an_even_part_of_unused_descriptors_does_not_wait_for_it() -> None:
    world = World(20, 20, 20)
    first, _ = world.pools
    first.ask(15)
    assert world.held == (15, 0)
    assert not first.attachment.refused_at
    world.turn()
    assert not world.reports[first.server].waiting, "nor is anybody told so"


def test_a_server_whose_connections_are_never_released_does_not_shut_the_other_out() -> None:
    world = World(20, 20, 20)
    first, second = world.pools
    first.ask(20)
    second.ask(2)
    world.pass_time(1)
    assert world.held == (20, 1)
    assert second.waiting == 1
    shortage = world.core.explain(second.attachment)
    assert shortage.reason == "descriptors"
    assert "open-file limit" in shortage.text
    assert "ulimit -n" in shortage.remedy, "what to do"


def test_permits_that_descriptors_are_missing_for_are_called_spare_though_somebody_waits() -> None:
    world = World(20, 20, 20)
    world.both_ask(20)
    world.pass_time(1)
    second = world.reports[world.pools[1].server]
    assert second.waiting
    assert second.spare == 20 - second.ceiling


def test_a_refused_caller_is_reported_at_once_with_what_it_could_use() -> None:
    """Its server has a limit of one, and the other one all descriptors as headroom that nobody uses."""
    world = World(20, 20, 1)
    world.pools[1].ask(1)
    world.pass_time(1)
    world.core.outgoing()
    world.pools[1].ask(1)
    (report,) = [m for m in world.core.outgoing() if isinstance(m, wire.Report)]
    assert report.waiting
    assert report.ceiling >= 2


def test_acknowledgements_do_not_depend_on_descriptors() -> None:
    world = World(20, 20, 20)
    world.both_ask(20)
    world.pass_time(1)
    assert [world.reports[pool.server].acked for pool in world.pools] == [1, 2]


@pytest.mark.parametrize("descriptors", [0, 1000])
def test_nothing_is_divided_where_there_is_no_bound_or_a_far_one(descriptors: int) -> None:
    world = World(descriptors, 20, 20)
    world.both_ask(20)
    world.pass_time(1)
    assert world.held == (20, 20)
