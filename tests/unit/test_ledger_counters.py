"""What the ledger counts for metrics: only what has happened, so that no counter ever goes down or runs ahead."""

from __future__ import annotations

from poolmgr.budget import views
from tests.unit.book import Book, R, limits


def recalled(book: Book) -> int:
    return views.of(book.ledger, R).recalled_total


def rotated(book: Book) -> int:
    return views.of(book.ledger, R).rotated_total


def hungry(book: Book):
    """``b`` waits for what ``a`` does not use, and the ledger knows that."""
    book.now += 0.05
    book.report("a", open=8, in_use=2, spare=6)
    book.report("b", waiting=5)
    return book.settle()


def test_a_permit_counts_as_recalled_when_it_has_been_given_back(book):
    book.join("a", holds=8)
    book.settle()
    before = book.limit("a")
    book.tell("a", 3)
    assert recalled(book) == 0
    book.report("a")
    assert recalled(book) == before - 3
    book.report("a")
    assert recalled(book) == before - 3, "once"


def test_a_recall_that_was_undone_because_the_snapshot_was_not_written_is_not_counted(book):
    book.join("a", holds=8)
    book.join("b")
    book.settle()
    before = book.limit("a")
    turn = hungry(book)
    assert limits(turn)["a"] < before
    book.ledger.abandon(turn, book.now)
    assert recalled(book) == 0
    for _ in range(5):
        hungry(book)
    assert recalled(book) == before - book.limit("a") == 3


def test_a_recall_that_was_called_off_is_not_counted(book):
    book.join("a", holds=8)
    book.settle()
    before = book.limit("a")
    book.tell("a", 3)
    book.tell("a", before)
    book.report("a")
    assert recalled(book) == 0


def obey(book: Book) -> None:
    """Three members want the one permit. Each obeys at once."""
    for tag in "abc":
        limit = book.limit(tag)
        book.report(tag, open=limit, in_use=limit, waiting=1)


def test_a_turn_is_counted_when_its_permit_has_been_given_back():
    book = Book(budget=1)
    book.join("a", "b", "c")
    for _ in range(200):
        obey(book)
        book.settle(0.05)
    assert 10 < rotated(book) <= recalled(book) <= rotated(book) + 1


def test_a_turn_that_could_not_be_ended_is_not_counted():
    book = Book(budget=1)
    book.join("a", "b", "c")
    for _ in range(20):
        obey(book)
        book.settle(0.05)
    obey(book)
    before = rotated(book), recalled(book)
    undone = 0
    for i in range(100):
        obey(book)
        book.ledger.set_budget(R, 1, book.now, operator=str(i))  # the snapshot has to be written
        holders = [tag for tag in "abc" if book.limit(tag)]
        turn = book.settle(0.05)
        if any(limits(turn).get(tag) == 0 for tag in holders):
            book.ledger.abandon(turn, book.now)
            undone += 1
            assert book.limit(holders[0]) == 1
        assert (rotated(book), recalled(book)) == before
    assert undone > 10
