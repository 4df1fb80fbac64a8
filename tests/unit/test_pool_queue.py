"""The pool's core: what it decides, event by event, without threads, sockets or a clock."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from poolmgr.pool.queue import FORGET, LEFT, Failed, Granted, Served, Waiter, Wake
from tests.unit.desk import Desk, Permit


def test_the_first_caller_connects_itself_at_once():
    desk = Desk()
    waiter = desk.call()
    assert isinstance(waiter.fate, Granted)
    assert desk.core.size == 1
    assert len(desk.permits) == 1


def test_a_released_connection_goes_to_the_first_in_the_queue():
    desk = Desk(ceiling=1)
    connection = desk.first()
    first, second = desk.call(), desk.call()
    assert first.fate is None
    desk.give(connection)
    assert first.fate == Served(connection)
    assert second.fate is None
    assert not desk.core.idle


def test_a_waiter_that_has_left_is_passed_over():
    desk = Desk(ceiling=1)
    connection = desk.first()
    first, second = desk.call(), desk.call()
    assert desk.core.leave(first) is LEFT
    desk.give(connection)
    assert second.fate == Served(connection)


def test_a_waiter_that_leaves_after_it_was_served_learns_what_it_has_to_give_back():
    desk = Desk(ceiling=1)
    connection = desk.first()
    waiter = desk.call()
    desk.give(connection)
    assert desk.core.leave(waiter) == Served(connection)


def test_one_connection_is_opened_behind_a_queue_and_a_second_only_when_the_head_has_waited_as_long_as_a_connect():
    desk = Desk()
    connection = desk.first()
    desk.core.connect_time = 0.15
    waiters = [desk.call() for _ in range(20)]
    assert len(desk.opening) == 1
    desk.now += 0.14
    desk.advance()
    assert len(desk.opening) == 1
    desk.now += 0.02
    desk.advance()
    assert len(desk.opening) == 2
    desk.now += 10
    desk.advance()
    assert len(desk.opening) == 2, "max_opening"
    assert connection is not None
    assert waiters[0].fate is None


def test_nothing_more_is_opened_than_there_are_waiters():
    desk = Desk()
    desk.first()
    desk.call()
    desk.now += 10
    desk.advance()
    assert len(desk.opening) == 1


def test_the_ceiling_holds():
    desk = Desk(ceiling=2, max_opening=10)
    desk.first()
    for _ in range(5):
        desk.call()
    desk.now += 10
    desk.advance()
    assert desk.core.size == 2


@pytest.mark.parametrize("ceiling", [1, 100])
def test_the_ceiling_and_every_place_hold_if_a_turn_taken_for_abandoned_goes_on(ceiling):
    desk = Desk(ceiling=ceiling, max_opening=10)
    desk.core.join(Waiter(desk.now, lambda: None))
    tickets = []
    plain = desk.take

    def slowly() -> Permit | None:
        inner = desk.core._ticket(plain, desk.now, background=True)  # the other turn, at its most harmful instant
        tickets.append(inner)
        return plain()

    tickets.append(desk.core._ticket(slowly, desk.now, background=True))
    given = [ticket for ticket in tickets if ticket is not None]
    assert len({ticket.serial for ticket in given}) == len(given) == desk.core.size == len(desk.permits)
    assert desk.core.size <= ceiling


def test_a_permit_that_is_told_of_while_the_refusal_is_on_its_way_is_taken():
    desk = Desk(permits=1)
    desk.first()
    refuse = desk.take

    def take() -> Permit | None:
        refused = refuse()
        desk.limit = 2
        desk.core.starved = False  # another thread has heard of it
        return refused

    desk.take = take  # type: ignore[method-assign]
    desk.call()
    desk.advance()
    assert len(desk.opening) == 1


@pytest.mark.parametrize("permits", [1, 2])
def test_a_signal_handlers_exception_while_a_permit_is_asked_for_is_no_refusal(permits: int):
    desk = Desk(permits=permits)
    desk.first()
    ask = desk.take

    def take() -> Permit | None:
        desk.take = ask  # type: ignore[method-assign]
        raise KeyboardInterrupt

    desk.take = take  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        desk.call()
    assert not desk.core.starved


def test_a_place_whose_finder_was_struck_is_found_by_the_audit():
    desk = Desk(ceiling=1)
    connection = desk.first()
    desk.woken.clear()
    del connection
    gc.collect()
    assert desk.core.lost
    desk.core.lost.clear()  # as if a signal handler's exception had come first
    waiter = desk.call()
    assert waiter.fate is None
    desk.core.audit()
    desk.advance()
    assert isinstance(waiter.fate, Granted) or desk.opening


def test_without_a_permit_the_pool_is_starved_until_told_otherwise():
    desk = Desk(permits=1)
    desk.first()
    waiter = desk.call()
    assert desk.core.starved
    desk.limit = 2
    desk.advance()
    assert not desk.opening
    desk.core.starved = False
    desk.advance()
    assert len(desk.opening) == 1
    assert waiter.fate is None


def test_a_refusal_is_not_held_against_those_who_come_when_the_queue_has_been_empty():
    desk = Desk(permits=1)
    held = desk.first()
    desk.call()
    assert desk.core.starved
    desk.give(held)  # to the one who waits
    assert not desk.core.queue
    desk.limit = 2
    desk.call()
    assert len(desk.opening) == 1


def test_where_nothing_may_be_opened_the_head_is_woken_to_do_it():
    desk = Desk(ceiling=2)
    connection = desk.first()
    desk.core.ceiling = 1
    waiter = desk.call()
    desk.core.ceiling = 2
    desk.close(connection)
    desk.woken.clear()
    desk.advance(may_open=False)
    assert desk.woken == [waiter]
    assert waiter.fate is None
    assert not desk.opening
    desk.advance()
    assert isinstance(waiter.fate, Granted)


def test_a_failed_attempt_fails_all_who_wait_if_nobody_can_give_a_connection_back():
    desk = Desk()
    first = desk.call()
    others = [desk.call() for _ in range(3)]
    assert isinstance(first.fate, Granted)
    ticket = first.fate.ticket
    behind = desk.opening.pop()
    error = ConnectionRefusedError()
    desk.core.failed(ticket, error, desk.now, lambda n: 1.0)
    desk.advance()
    assert [w.fate for w in others] == [None, None, None], "one is still being opened"
    desk.core.failed(behind, error, desk.now, lambda n: 1.0)
    del behind
    desk.advance()
    assert [w.fate for w in others] == [Failed(error)] * 3


def test_a_failed_attempt_fails_nobody_while_a_connection_is_out():
    desk = Desk()
    connection = desk.first()
    waiter = desk.call()
    desk.core.failed(desk.opening.pop(), ConnectionRefusedError(), desk.now, lambda n: 1.0)
    desk.advance()
    assert waiter.fate is None
    desk.give(connection)
    assert waiter.fate == Served(connection)


def test_who_came_after_an_attempt_had_begun_does_not_fail_with_it():
    desk = Desk(max_opening=1)
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.now += 1
    late = desk.call()
    desk.now += 1
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.advance(may_open=False)
    assert late.fate is None
    assert desk.woken[-1] is late, "it is the head now: it has to mind when the next attempt is due"
    assert desk.core.due(desk.now) == pytest.approx(0.5)
    desk.now += 0.51
    desk.advance()
    assert isinstance(late.fate, Granted), "an attempt of its own"


def test_a_second_failure_in_a_row_fails_all_who_wait_at_once():
    """Then the server is down, and nobody has to find it out by an attempt of his own."""
    desk = Desk(max_opening=1)
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.now += 1
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.now += 1
    second = desk.call()
    assert isinstance(second.fate, Granted)
    desk.now += 1
    late = desk.call()
    desk.now += 1
    error = OSError()
    desk.core.failed(second.fate.ticket, error, desk.now, lambda n: 0.5)
    desk.advance(may_open=False)
    assert late.fate == Failed(error)


def test_a_failure_of_long_ago_makes_the_next_no_second_one():
    desk = Desk(max_opening=1)
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.now += FORGET + 1
    second = desk.call()
    assert isinstance(second.fate, Granted)
    desk.now += 1
    late = desk.call()
    desk.core.failed(second.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.advance(may_open=False)
    assert late.fate is None, "it came after the only attempt that counts had begun"


def test_a_connection_that_was_renewed_shows_that_the_server_is_there():
    desk = Desk()
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.core.reached()
    assert isinstance(desk.call().fate, Granted), "nothing is paced"


def test_min_idle_is_made_up_again_some_time_after_a_failure():
    desk = Desk()
    desk.core.min_idle = 1
    desk.advance()
    desk.core.failed(desk.opening.pop(), OSError(), desk.now, lambda n: 0.5)
    desk.now += 0.6
    desk.advance()
    assert not desk.opening, "nobody is in need of it, and the server may be down"
    desk.now += FORGET
    desk.advance()
    assert len(desk.opening) == 1


def test_attempts_that_were_under_way_together_are_one_finding():
    desk = Desk(max_opening=2)
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.now += 1
    second = desk.call()
    behind = desk.opening.pop()
    desk.now += 1
    late = desk.call()
    desk.now += 1
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.advance(may_open=False)
    assert (second.fate, late.fate) == (None, None), "one is still being opened"
    desk.now += 1
    error = OSError()
    desk.core.failed(behind, error, desk.now, lambda n: 0.5)
    desk.advance(may_open=False)
    assert second.fate == Failed(error)
    assert late.fate is None


def test_attempts_are_paced_while_they_fail():
    desk = Desk()
    first = desk.call()
    assert isinstance(first.fate, Granted)
    desk.core.failed(first.fate.ticket, OSError(), desk.now, lambda n: 0.5)
    desk.advance()
    desk.now += 0.1
    waiter = desk.call()
    assert waiter.fate is None, "neither connecting nor failed by an attempt that was before its time"
    assert desk.core.due(desk.now) == pytest.approx(0.4)
    desk.now += 0.51
    desk.advance()
    assert isinstance(waiter.fate, Granted)


def test_a_success_ends_the_pacing():
    desk = Desk()
    desk.core.failures, desk.core.retry_at = 5, desk.now - 1
    desk.first()
    assert desk.core.failures == 0
    assert desk.core.retry_at == 0


def test_a_ticket_that_vanishes_frees_its_place_and_its_permit():
    desk = Desk(ceiling=1)
    waiter = desk.call()
    assert isinstance(waiter.fate, Granted)
    assert desk.core.size == 1
    desk.woken.clear()
    del waiter  # nobody has it any more
    gc.collect()
    desk.advance()
    assert desk.core.size == 0
    assert not desk.permits
    assert isinstance(desk.call().fate, Granted)


def test_a_served_waiter_that_was_not_woken_is_woken_by_the_next_advance():
    desk = Desk(ceiling=1)
    connection = desk.first()
    waiter = desk.call()
    desk.core.idle.append(connection)
    advance: Any = desk.core.advance(desk.now, None)
    assert next(advance) == Wake(waiter)
    advance.close()  # an exception struck before the effect was carried out
    desk.woken.clear()
    desk.advance(may_open=False)
    assert desk.woken == [waiter]
    assert not desk.core.queue


def test_lifo_lends_what_came_back_last():
    for lifo, expected in ((False, "first"), (True, "last")):
        desk = Desk(lifo=lifo)
        desk.core.idle.extend(["first", "last"])
        assert desk.core.take_idle() == expected


def test_min_idle_is_kept_while_nobody_waits():
    desk = Desk(max_opening=5)
    desk.core.min_idle = 3
    desk.advance()
    assert len(desk.opening) == 3
    desk.advance()
    assert len(desk.opening) == 3


def test_a_closed_core_fails_its_waiters():
    desk = Desk(ceiling=1)
    desk.first()
    waiter = desk.call()
    error = RuntimeError("closed")
    desk.core.closed = error
    desk.advance()
    assert waiter.fate == Failed(error)


def test_the_repr_answers_what_state_it_is_in():
    desk = Desk(ceiling=1, permits=1)
    held = desk.first()
    desk.call()
    assert repr(desk.core) == "<PoolCore lent=1 idle=0 opening=0 waiting=1 ceiling=1>"
    assert held is not None
