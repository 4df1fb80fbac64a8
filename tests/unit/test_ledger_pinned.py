"""What is pinned at the ledger: it is counted, it is recalled, and nobody waits for it."""

from __future__ import annotations

from tests.unit.book import Book, limits


def test_what_is_pinned_is_recalled_for_who_waits_so_that_it_comes_at_its_release():
    book = Book(budget=2)
    book.pins("subscriber", 1)
    book.pins("blocked", 1)
    book.join("waiter")
    book.settle()
    book.report("waiter", waiting=1)
    told = limits(book.settle())
    assert list(told.values()) == [0], "one waits, so one is recalled"
    (recalled,) = told
    assert book.server.accounts[recalled].recalled is None, "it owes nothing: what is pinned is not waited for"
    book.report(recalled, open=0)
    assert limits(book.settle())["waiter"] == 1


def test_nobody_who_waits_in_vain_for_more_is_recalled_what_is_pinned_twice():
    book = Book(budget=2)
    book.pins("subscriber", 1)
    book.pins("blocked", 1)
    book.join("waiter")
    book.report("waiter", waiting=1)
    book.settle()
    for _ in range(20):
        book.report("waiter", waiting=1)
        assert not limits(book.settle(0.1))


def test_the_rest_of_a_recall_is_free_although_what_is_pinned_does_not_come():
    book = Book(budget=10)
    book.join("a", holds=10)
    book.join("b")
    book.report("a", open=10, in_use=10)
    book.settle()
    book.tell("a", 3)
    book.report("b", waiting=7)
    assert book.server.accounts["a"].owed == 7
    book.report("a", acked=book.server.accounts["a"].seq - 1, open=6, in_use=6, pinned=6)
    assert limits(book.settle()) == {"a": 6}, "it is told that this is enough, so that it can say so"
    book.report("a", open=6, in_use=6, pinned=6)
    assert book.charge("a") == 6
    assert limits(book.settle())["b"] == 4


def test_a_process_whose_pinned_connection_is_recalled_still_waits_for_its_other_callers():
    book = Book(budget=1)
    book.pins("a", 1, waiting=2)
    book.settle()
    since = book.server.accounts["a"].waiting
    assert since is not None
    book.now += 1
    book.tell("a", 0)
    assert book.server.accounts["a"].waiting == since


def test_who_has_given_back_what_was_pinned_is_last():
    """It waited for more while it held that; with it back, its turn is over."""
    book = Book(budget=1)
    book.join("a", holds=1)
    book.join("b")
    book.report("a", open=1, in_use=1, pinned=1, waiting=2)
    book.settle()
    book.now += 1
    book.report("b", waiting=1)
    book.settle()
    assert book.limit("a") == 0
    book.now += 1
    book.report("a", open=0, waiting=3)
    assert limits(book.settle()) == {"b": 1}


def test_what_is_pinned_no_longer_is_owed_from_then_on():
    book = Book(budget=1)
    book.pins("a", 1)
    book.settle()
    book.tell("a", 0)
    account = book.server.accounts["a"]
    assert account.recalled is None
    book.now += 60
    book.report("a", acked=account.seq - 1, open=1)
    assert account.recalled == book.now
    assert not account.silent(book.now)


def test_who_waits_beside_its_own_pinned_connection_is_not_recalled_for_itself():
    book = Book(budget=1)
    book.pins("a", 1, waiting=2)
    for _ in range(20):
        assert limits(book.settle(0.1)).get("a") != 0


def test_two_with_fair_parts_that_are_pinned_keep_them():
    book = Book(budget=5)
    book.join("a", holds=3)
    book.join("b", holds=2)
    for _ in range(20):
        book.report("a", open=3, in_use=3, pinned=3, waiting=4)
        book.report("b", open=2, in_use=2, pinned=2, waiting=4)
        book.settle(0.1)
        assert (book.limit("a"), book.limit("b")) == (3, 2)


def test_who_has_more_than_its_fair_part_pinned_gives_up_the_difference():
    book = Book(budget=6)
    book.pins("a", 5, waiting=4)
    book.pins("b", 1, waiting=4)
    book.settle()
    book.settle(0.1)
    assert book.limit("a") == 3
