"""How the ledger shares a budget among its members, one rule at a time: headroom, reserve, recalls."""

from __future__ import annotations

import pytest

from poolmgr.budget.accounts import Identity
from poolmgr.wire import Ask
from tests.unit.book import Book, R, limits


@pytest.mark.parametrize("first_is_active", [True, False])
def test_a_newcomer_gets_its_part_of_the_headroom_that_another_one_had_alone(first_is_active):
    book = Book(budget=100)
    book.join("first")
    book.settle()
    book.report("first", open=1, peak=1)
    assert book.limit("first") == 90, "all but the reserve"
    book.now += 1 if first_is_active else 20
    book.join("second")
    for _ in range(5):
        book.settle(later=0.11)
        book.report("first", open=1, peak=1 if first_is_active else 0)
        book.report("second", open=1, peak=1)
    assert book.limit("second") >= 40
    assert book.limit("first") + book.limit("second") <= 90
    turn = book.settle(later=0.11)
    assert not limits(turn), "and then it is calm"


def test_a_newcomers_headroom_is_no_more_than_its_descriptors_carry(book):
    """Before its first report: from then on that says so."""
    assert book.ledger.register(Identity("a", 2), 1, {}, book.now, ceiling=3)
    book.ledger.attach("a", R, book.now)
    assert limits(book.settle()) == {"a": 3}


def test_headroom_is_handed_out_in_advance_and_a_reserve_is_kept(book):
    book.join("a", "b")
    book.report("a", in_use=1, open=1)
    book.report("b", in_use=1, open=1)
    book.settle()
    assert book.limit("a") == book.limit("b") == 1
    book.settle(1.0)
    assert book.limit("a") == book.limit("b") == 4
    assert book.server.free >= 1


def test_who_waits_is_served_from_the_reserve(book):
    book.join("a")
    book.settle()
    book.report("a", waiting=10)
    book.settle()
    assert book.limit("a") == 10


def test_a_member_whose_report_is_old_is_asked_before_anything_is_taken_from_it(book):
    book.join("a", holds=10)
    book.join("b")
    book.report("a", in_use=2, open=10, spare=8)
    book.settle(1.0)
    book.report("b", waiting=3)
    turn = book.settle()
    assert [tell.tag for tell in turn.tells if isinstance(tell.message, Ask)] == ["a"]
    assert book.limit("a") == 10
    book.report("a", in_use=2, open=10, spare=8)
    book.settle()
    assert book.limit("a") == 7


def test_no_more_is_recalled_than_wait(book):
    book.join("a", holds=10)
    book.join("b")
    book.settle()
    book.report("a", open=10, spare=10)
    book.report("b", waiting=2)
    book.settle()
    assert book.limit("a") == 8
    book.settle(0.001)
    assert book.limit("a") == 8


def test_an_idle_permit_is_recalled_although_another_recall_takes_long(book):
    book.join("a", holds=5)
    book.join("b", holds=5)
    book.join("c")
    book.settle()
    book.report("a", in_use=5, open=5)
    book.report("b", in_use=5, open=5)
    book.report("c", waiting=1)
    book.settle()
    book.settle(0.03)  # a or b has been told, and is busy for long
    (busy,) = [tag for tag in "ab" if book.limit(tag) < 5]
    other = "b" if busy == "a" else "a"
    book.now += 0.1
    book.report(other, open=5, spare=5)
    book.settle()
    assert book.limit(other) < 5


def test_a_recall_nobody_waits_for_any_more_is_called_off(book):
    book.join("a", holds=10)
    book.join("b")
    book.settle()
    book.report("a", in_use=10, open=10)
    book.report("b", waiting=5)
    book.settle()
    assert book.limit("a") == 5
    book.report("a", acked=1, in_use=10, open=10)
    book.report("b")
    book.settle(0.001)
    assert book.limit("a") == 10
