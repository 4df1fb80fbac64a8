"""The member's core against a supervisor of the test's own, which does only what the rules demand."""

from __future__ import annotations

import random

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolmgr import wire
from poolmgr.member.core.process import Attachment, Grow, MemberCore, Shed, Wake
from poolmgr.member.ports import Usage

SERVER = "tcp://localhost:6379"
ENDPOINTS = (
    wire.Endpoint(key="tcp://localhost:6379", host="localhost", port=6379),
    wire.Endpoint(key="tcp://127.0.0.1:6379", host="127.0.0.1", port=6379),
)


class FakePool:
    """What the core sees of a pool, and the sockets behind it, by serial number."""

    def __init__(self, attachment, ceiling=6):
        self.attachment = attachment
        self.lent: list[int] = []
        self.idle: list[int] = []
        self.waiting = 0
        self.ceiling = ceiling
        self.low = 0
        self.active_at = 0.0
        self.grown = 0

    def usage(self, now):
        low, self.low = self.low, len(self.idle)
        return Usage(len(self.lent), len(self.idle), self.waiting, low, now - self.active_at, self.ceiling, 5.0)


class Machine(RuleBasedStateMachine):
    """A process with three pools on two endpoints of one server, and everything that can befall it."""

    BUDGET = 6

    @initialize(limit=st.integers(1, BUDGET))
    def start(self, limit):
        self.now = 100.0
        self.core = MemberCore("tag", rng=random.Random(7))
        self.pools = [FakePool(Attachment(ENDPOINTS[i % 2])) for i in range(3)]
        for pool in self.pools:
            self.core.attach(pool.attachment)
        self.closing: list[int] = []
        self.lost: list[int] = []
        # the supervisor's account of the process
        self.charged: list[tuple[int, int]] = [(0, 0)]  # (seq, limit) told and not superseded
        self.sup_link = 0
        self.to_member: list[tuple[int, wire.Message]] = []
        self.to_supervisor: list[tuple[int, wire.Message]] = []
        self.seq = 0
        self.told_lost: set[int] = set()
        self.waiters: list[object] = []
        self.heard: int | None = None  # newest seq delivered on the present link
        self.the_member_registers()
        self.mail_is_delivered()
        self.tell(limit)
        self.mail_is_delivered()

    # ---- oracle ----------------------------------------------------------------------------------

    @property
    def charge(self):
        return max(limit for _, limit in self.charged)

    @property
    def really_open(self):
        return sum(len(p.lent) + len(p.idle) for p in self.pools) + len(self.closing) + len(self.lost)

    @invariant()
    def never_more_open_than_charged(self):
        if hasattr(self, "core"):
            assert self.really_open <= self.charge, (self.really_open, self.charged, self.core)
            assert self.core.open == self.really_open

    # ---- the shell -------------------------------------------------------------------------------

    def ship(self):
        for message in self.core.outgoing():
            assert self.core.linked
            if isinstance(message, wire.Report):
                assert message.open == self.really_open
                if message.acked:
                    assert message.acked <= (self.heard or 0)
            self.to_supervisor.append((self.core.link, message))

    def turn(self):
        for _ in range(3):
            for attachment in self.core.looks(self.now):
                pool = next(p for p in self.pools if p.attachment is attachment)
                self.core.observe(attachment, pool.usage(self.now), self.now)
            settled = self.core.settle(self.now)
            self.ship()
            assert settled.wake >= self.now
            for effect in settled.effects:
                match effect:
                    case Shed(attachment, count):
                        pool = next(p for p in self.pools if p.attachment is attachment)
                        for serial in pool.idle[:count]:
                            self.hand_over(pool, pool.idle, serial)
                    case Grow(attachment):
                        pool = next(p for p in self.pools if p.attachment is attachment)
                        while pool.waiting and self.open_in(pool):
                            pool.waiting -= 1
                    case Wake(waiter):
                        pool = self.pools[0]
                        taken = self.core.take(pool.attachment, self.now, waiter)
                        if taken is not None:
                            self.core.unqueue(waiter)
                            self.waiters.remove(waiter)
                            pool.lent.append(taken)

    def hand_over(self, pool, group, serial):
        group.remove(serial)
        pool.low = min(pool.low, len(pool.idle))
        self.closing.append(serial)
        self.core.closing(serial)

    def open_in(self, pool):
        serial = self.core.take(pool.attachment, self.now)
        self.ship()
        if serial is None:
            return False
        assert self.heard is not None, "nothing is opened before a number has come on this link"
        pool.lent.append(serial)
        pool.active_at = self.now
        return True

    # ---- what can happen ---------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.006, 0.03, 0.26, 1.1]))
    def time_passes(self, seconds):
        self.now += seconds
        self.turn()

    @rule(i=st.integers(0, 2), callers=st.integers(1, 4))
    def callers_want_connections(self, i, callers):
        for _ in range(callers):
            self.a_caller_wants_a_connection(self.pools[i])

    def a_caller_wants_a_connection(self, pool):
        if pool.idle:
            pool.lent.append(pool.idle.pop(0))
            pool.low = min(pool.low, len(pool.idle))
            pool.active_at = self.now
        elif len(pool.lent) < pool.ceiling and not self.open_in(pool):
            pool.waiting += 1

    @rule(i=st.integers(0, 2))
    def a_caller_releases(self, i):
        pool = self.pools[i]
        if pool.lent:
            serial = pool.lent[0]
            pool.active_at = self.now
            if pool.attachment.surplus > 0 and self.core.give_up(pool.attachment, self.now):
                self.hand_over(pool, pool.lent, serial)
            elif pool.waiting:
                pool.waiting -= 1
            else:
                pool.idle.append(pool.lent.pop(0))

    @rule()
    def a_caller_waits_without_a_pool(self):
        if len(self.waiters) < 2:
            waiter = object()
            serial = self.core.take(self.pools[0].attachment, self.now, waiter)
            self.ship()
            if serial is not None:
                self.pools[0].lent.append(serial)
            else:
                self.core.queue(self.pools[0].attachment, waiter)
                self.waiters.append(waiter)

    @rule()
    def a_waiting_caller_leaves(self):
        if self.waiters:
            self.core.unqueue(self.waiters.pop())

    @rule(i=st.integers(0, 2))
    def a_connect_fails(self, i):
        pool = self.pools[i]
        if pool.lent:
            self.core.gone(pool.lent.pop())

    @rule(i=st.integers(0, 2))
    def a_pool_closes_a_connection(self, i):
        pool = self.pools[i]
        group = pool.idle or pool.lent
        if group:
            self.hand_over(pool, group, group[0])

    @precondition(lambda self: self.closing)
    @rule()
    def the_server_confirms(self):
        serial = self.closing.pop(0)
        self.core.gone(serial)
        self.core.gone(serial)

    @precondition(lambda self: self.closing)
    @rule()
    def the_server_does_not_confirm_in_time(self):
        serial = self.closing.pop(0)
        self.lost.append(serial)
        self.core.lost(serial)

    @rule()
    def the_link_breaks(self):
        if self.core.linked:
            self.core.unlinked()
            assert not self.core.outgoing()
            self.heard = None

    @rule()
    def the_member_registers(self):
        if not self.core.linked:
            self.heard = None
            hello = self.core.register(self.now)
            stated = sum(hold.stated for hold in hello.holds)
            assert stated >= self.really_open
            self.to_supervisor.append((hello.link, hello))

    @rule()
    def the_link_is_replaced(self):
        self.the_link_breaks()
        self.the_member_registers()
        while self.to_supervisor:
            self.a_message_reaches_the_supervisor()

    @rule()
    def a_message_reaches_the_supervisor(self):
        if not self.to_supervisor:
            return
        link, message = self.to_supervisor.pop(0)
        match message:
            case wire.Hello(holds=holds) if link > self.sup_link:
                self.sup_link = link
                self.seq = 0
                self.charged = [(0, sum(h.stated for h in holds))]
                for endpoint in message.endpoints:
                    self.to_member.append((link, wire.Resolved(endpoint.key, SERVER)))
                self.tell(self.charge or 0)
            case wire.Report(acked=acked) if link == self.sup_link:
                kept = [told for told in self.charged if told[0] >= acked]
                self.charged = kept or self.charged[-1:]
            case wire.Lost(serials=serials) if link == self.sup_link:
                self.told_lost |= set(serials)

    def tell(self, limit):
        self.seq += 1
        self.charged.append((self.seq, limit))
        self.to_member.append((self.sup_link, wire.Limit(SERVER, self.seq, limit)))

    @rule()
    def mail_is_delivered(self):
        while self.to_supervisor:
            self.a_message_reaches_the_supervisor()
        while self.to_member:
            self.a_message_reaches_the_member()

    @rule(limit=st.integers(0, BUDGET))
    def the_supervisor_tells(self, limit):
        if self.sup_link:
            self.tell(limit)

    @rule(limit=st.integers(0, 2))
    def the_supervisor_recalls(self, limit):
        """Less than is open, told and heard before any socket has ended."""
        if self.sup_link:
            self.tell(limit)
            self.mail_is_delivered()

    @rule()
    def the_supervisor_asks(self):
        if self.sup_link:
            self.to_member.append((self.sup_link, wire.Ask(SERVER)))

    @rule()
    def the_supervisor_proves_an_end(self):
        for serial in sorted(self.told_lost & set(self.lost)):
            self.to_member.append((self.sup_link, wire.Gone(SERVER, (serial,))))

    @rule()
    def a_message_reaches_the_member(self):
        if self.to_member:
            link, message = self.to_member.pop(0)
            if isinstance(message, wire.Limit) and link == self.core.link and self.core.linked:
                self.heard = max(self.heard or 0, message.seq)
            if isinstance(message, wire.Gone) and link == self.core.link and self.core.linked:
                self.lost = [s for s in self.lost if s not in message.serials]
            self.core.received(link, message, self.now)
            if self.heard is not None or not isinstance(message, wire.Limit):
                self.turn()

    def teardown(self):
        """Everything quiet: what waits is served, what was lowered is acknowledged, nothing is stuck."""
        if not hasattr(self, "core"):
            return
        self.the_member_registers()

        def deliver():
            for _ in range(60):
                self.now += 0.06
                while self.to_supervisor:
                    self.a_message_reaches_the_supervisor()
                while self.closing:
                    self.the_server_confirms()
                self.the_supervisor_proves_an_end()
                while self.to_member:
                    self.a_message_reaches_the_member()
                for i in range(3):
                    self.a_caller_releases(i)
                self.turn()

        deliver()
        assert not self.lost
        self.tell(1)
        deliver()
        assert self.charge == 1, "a lower limit is acknowledged in the end"
        self.tell(self.BUDGET)
        deliver()
        assert not self.waiters
        assert not any(p.waiting for p in self.pools), "who waits is served in the end"
        self.tell(0)
        deliver()
        assert self.charge == 0
        assert self.really_open == 0


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestCore = Machine.TestCase


def test_a_server_that_is_believed_to_be_down_needs_a_supervisor_to_come_back() -> None:
    """Who fails fast wants no connection; else the outage would last as long as there is no supervisor."""
    core = MemberCore("tag")
    attachment = Attachment(wire.Endpoint("tcp://a:1", host="a", port=1))
    core.attach(attachment)
    hello = core.register(0.0)
    core.received(hello.link, wire.Resolved("tcp://a:1", "tcp://a:1"), 0.0)
    core.received(hello.link, wire.Health("tcp://a:1", up=False, since=1.0, error="x"), 0.0)
    core.settle(0.0)
    assert attachment.outage is not None
    assert not core.wanting, "the supervisor there is will tell"
    core.unlinked()
    assert core.wanting
    core.detach(attachment)
    assert not core.wanting, "nobody is there to be told"
