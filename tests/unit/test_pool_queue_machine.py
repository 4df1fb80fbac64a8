"""The pool's core under any sequence of events."""

from __future__ import annotations

from collections import deque

from hypothesis import settings as hypothesis_settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from poolmgr.pool.queue import LEFT, Granted, Served, Ticket, Waiter
from tests.unit.desk import Connection, Desk


class PoolMachine(RuleBasedStateMachine):
    """Any sequence of events: nothing is lost, doubled, out of order, or above a ceiling."""

    @initialize(ceiling=st.integers(1, 5), permits=st.integers(1, 6), opening=st.integers(1, 3), lifo=st.booleans())
    def begin(self, ceiling: int, permits: int, opening: int, lifo: bool) -> None:
        self.desk = Desk(ceiling, permits, max_opening=opening, lifo=lifo)
        self.lent: list[Connection] = []
        self.own: list[Ticket] = []
        self.waiting: deque[Waiter] = deque()
        self.served: list[Waiter] = []

    def settle(self) -> None:
        """Waiters look at their fate, in the order in which they came."""
        self.desk.core.starved = False
        self.desk.advance()
        still: deque[Waiter] = deque()
        for waiter in self.waiting:
            fate = waiter.fate
            if fate is None:
                still.append(waiter)
                continue
            assert not still, "a later one was served before an earlier one"
            if isinstance(fate, Served):
                self.lent.append(fate.connection)
            elif isinstance(fate, Granted):
                self.own.append(fate.ticket)
            self.served.append(waiter)
        self.waiting = still
        for waiter in self.served:
            waiter._fate.clear()  # a caller's frame ends: it holds nothing any more
            waiter._fate[0] = LEFT
        self.served.clear()
        self.desk.woken.clear()

    @rule()
    def arrive(self) -> None:
        if not self.desk.core.queue and self.desk.core.idle:
            connection = self.desk.core.take_idle()  # the warm path
            assert connection is not None
            self.lent.append(connection)
        else:
            self.waiting.append(self.desk.call())
        self.settle()

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.desk.give(self.lent.pop(data.draw(st.integers(0, len(self.lent) - 1))))
        self.settle()

    @precondition(lambda self: self.lent)
    @rule()
    def release_broken(self) -> None:
        self.desk.close(self.lent.pop())
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = self.waiting[data.draw(st.integers(0, len(self.waiting) - 1))]
        assert self.desk.core.leave(waiter) is LEFT
        self.waiting.remove(waiter)
        self.settle()

    @precondition(lambda self: self.own)
    @rule(ok=st.booleans())
    def connect_here(self, ok: bool) -> None:
        ticket = self.own.pop(0)
        if ok:
            self.lent.append(self.desk.opened(ticket))
        else:
            self.desk.core.failed(ticket, OSError(), self.desk.now, lambda n: 0.01 * n)
        del ticket
        self.settle()

    @precondition(lambda self: self.desk.opening)
    @rule(ok=st.booleans())
    def connect_behind(self, ok: bool) -> None:
        ticket = self.desk.opening.pop(0)
        if ok:
            self.desk.give(self.desk.opened(ticket))
        else:
            self.desk.core.failed(ticket, OSError(), self.desk.now, lambda n: 0.01 * n)
        del ticket
        self.settle()

    @precondition(lambda self: self.lent or self.own or self.desk.opening)
    @rule()
    def vanish(self) -> None:
        """A holder loses what it has: an exception between two of its instructions."""
        if self.lent:
            connection = self.lent.pop()
            permit = connection.permit
            del connection
            if permit is not None:
                permit.gone()  # the connection's own finalizer
        elif self.own:
            self.own.pop()
        else:
            self.desk.opening.pop()
        self.settle()

    @rule(seconds=st.floats(0, 0.05))
    def time_passes(self, seconds: float) -> None:
        self.desk.now += seconds
        self.settle()

    @rule(count=st.integers(1, 6))
    def budget_changes(self, count: int) -> None:
        self.desk.limit = count
        self.settle()

    @rule()
    def shed(self) -> None:
        connection = self.desk.core.take_idle()
        if connection is not None:
            self.desk.close(connection)
        self.settle()

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "desk"):
            return
        core = self.desk.core
        there = [*self.lent, *core.idle]
        assert len({id(c) for c in there}) == len(there)
        assert core.size == len(there) + len(self.own) + len(self.desk.opening)
        assert core.size <= core.ceiling
        assert core.lent == len(self.lent)
        assert len(self.desk.permits) == core.size, "a permit was lost, or is held twice"

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        if not hasattr(self, "desk") or not self.waiting:
            return
        core = self.desk.core
        assert not core.idle, "a connection is idle and somebody waits"
        assert list(core.queue) == list(self.waiting)
        if not core.size:
            permitted = len(self.desk.permits) < self.desk.limit
            assert self.desk.now < core.retry_at or not permitted, "nobody connects"


PoolMachine.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=60, deadline=None)
TestPoolMachine = PoolMachine.TestCase
