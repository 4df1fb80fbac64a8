"""Rule S4: what a supervisor knows after a restart, with its predecessor's snapshot and without it."""

from __future__ import annotations

from poolmgr.budget import recovery
from poolmgr.budget.accounts import TO_REGISTER
from tests.unit.book import R, limits, successor


def test_a_successor_knows_what_may_be_open_not_what_was_told_last(book):
    book.join("a", holds=9)
    book.settle()
    book.tell("a", 3)
    assert successor(book, alive=True).charge("a") == 9


def test_a_listed_process_that_lives_keeps_its_charge_until_it_registers(book):
    book.join("a", holds=8)
    after = successor(book, alive=True)
    assert after.server.free == 2
    after.join("a", holds=5, link=2)
    assert after.charge("a") == 5


def test_a_listed_process_that_has_died_is_in_quarantine(book):
    book.join("a", holds=8)
    after = successor(book, alive=False)
    assert after.server.quarantine["a"].charge == 8


def test_a_successor_has_quarantine_budget_and_the_old_connections_of_its_predecessor(book):
    book.join("a", holds=3)
    book.ledger.exited("a", book.now)
    book.ledger.want_own(R, 1, book.now)
    book.settle()
    book.ledger.set_budget(R, 7, book.now, operator="7")
    after = successor(book, alive=False)
    assert {tag: entry.charge for tag, entry in after.server.quarantine.items()} == {"a": 3, "supervisor": 1}
    assert (after.server.budget, after.server.operator, after.server.own) == (7, "7", 0)


def test_what_a_census_finds_of_a_living_process_is_replaced_by_what_that_states(book):
    recovery.census(book.ledger, R, "a", 3, book.now, exited=False)
    assert book.server.outstanding == 3
    book.join("a", holds=5)
    assert book.server.outstanding == 5
    assert not book.ledger.quarantined()


def test_what_a_census_finds_is_to_be_proven_once_its_process_had_time_to_register(book):
    recovery.census(book.ledger, R, "a", 3, book.now, exited=False)
    entry = book.server.quarantine["a"]
    assert not entry.registered
    assert not entry.due(book.now + TO_REGISTER - 0.1)
    assert entry.due(book.now + TO_REGISTER)
    assert book.ledger.idle, "it keeps no supervisor"
    book.join("b")
    book.settle()
    book.tell("b", 1)
    assert not book.ledger.idle
    book.ledger.proven(R, "a", book.now)
    assert not book.server.quarantine


def test_what_a_census_finds_of_one_that_was_a_member_is_ours(book):
    """It has said goodbye, and lives on or has ended: there is nobody to wait for."""
    book.join("a")
    book.ledger.leave("a", 1, book.now)
    recovery.census(book.ledger, R, "a", 3, book.now, exited=False)
    entry = book.server.quarantine["a"]
    assert (entry.registered, entry.exited) == (True, True)
    assert not book.ledger.idle


def test_after_a_lost_snapshot_a_registration_is_answered_with_no_more_than_fits(book):
    recovery.census(book.ledger, R, "a", 3, book.now, exited=False)
    book.join("b")
    book.settle()
    book.tell("b", 7)
    book.join("a", holds=8, opened=3)
    turn = book.settle()
    assert turn.persist
    assert book.limit("a") <= 3
    assert book.charge("a") == 8
    book.ledger.abandon(turn, book.now)
    assert "a" not in {tell.tag for tell in turn.rest()}, "told although a successor would not know of it"


def test_while_others_may_come_a_member_is_left_what_it_has_open_and_nothing_is_raised(book):
    book.ledger.mark_partial()
    book.join("a", holds=6, opened=2)
    turn = book.settle()
    assert turn.persist
    assert limits(turn) == {"a": 2}, "others may have what it has not opened"
    book.report("a", open=2, in_use=2, waiting=5)
    book.ledger.hold_raises(R, False)
    assert limits(book.settle(1.0)) == {}
    assert book.charge("a") == 2


def test_what_is_open_is_nothing_to_be_taken_back_though_no_census_has_seen_it(book):
    book.ledger.mark_partial()
    book.join("a", holds=6, opened=6)
    assert limits(book.settle()) == {"a": 6}


def test_a_successor_of_one_that_still_waits_waits_too(book):
    book.ledger.mark_partial()
    book.join("a", holds=2, opened=2)
    book.settle()
    after = successor(book, alive=True)
    assert after.ledger.partial
    after.join("a", holds=2, opened=2, link=2)
    after.report("a", open=2, in_use=2, waiting=5)
    assert limits(after.settle(1.0)) == {"a": 2}


def test_a_supervisor_that_waits_does_not_exit(book):
    book.ledger.mark_partial()
    assert not book.ledger.idle
    book.ledger.whole()
    assert book.ledger.idle


def test_after_the_wait_each_server_is_searched_before_anything_is_raised_by_a_successor_too(book):
    """A member that died in the meantime may have left connections that only the server knows."""
    book.ledger.mark_partial()
    book.join("a")
    book.ledger.whole()
    book.report("a", waiting=5)
    book.ledger.hold_raises(R, False)
    assert book.settle().persist
    assert book.limit("a") == 0
    after = successor(book, alive=True)
    assert (after.ledger.partial, after.server.search, after.server.held) == (False, True, True)
    recovery.census(book.ledger, R, "dead", 7, book.now, exited=True)
    book.ledger.searched(R)
    book.ledger.hold_raises(R, False)
    assert limits(book.settle()) == {"a": 3}
    assert not successor(book, alive=True).server.search
