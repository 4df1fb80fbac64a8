"""Two servers turn out to be one, or one to be two: what was charged stays charged, and no limit is sent too early."""

from __future__ import annotations

import pytest

from poolmgr.budget import merging
from poolmgr.budget.accounts import Identity
from poolmgr.wire import Limit
from tests.unit.book import Book, R, limits, successor


def test_when_two_names_turn_out_to_be_one_server_it_is_still_known_what_was_stated_too_much():
    """After a lost snapshot, and before the answer: what was not opened can be taken back then only."""
    book = Book(budget=10)
    other = book.ledger.server("other", run_id="x")
    book.ledger.register(Identity("a", 2), 1, {"other": 12}, book.now, opened={}, ceiling=20)
    book.ledger.attach("a", "other", book.now)
    assert other.accounts["a"].excess == 12
    merging.dissolve(book.ledger, "other", R)
    account = book.server.accounts["a"]
    assert (account.excess, account.ceiling) == (12, 20)
    (told,) = [tell.message for tell in book.settle().tells if isinstance(tell.message, Limit)]
    assert told.limit == 10, "the host gets only what fits"


@pytest.mark.parametrize("which", ["other", R])
def test_when_two_names_turn_out_to_be_one_server_a_search_of_either_is_still_to_be_made(which):
    book = Book(budget=10)
    book.ledger.server("other", run_id="x")
    book.join("a")
    book.settle()
    book.ledger.search_again(which)
    merging.dissolve(book.ledger, "other", R)
    assert (book.server.search, book.server.held) == (True, True)
    book.report("a", waiting=5)
    assert limits(book.settle()) == {}


def parted(book: Book) -> Book:
    """Two members with three permits each use an address that has turned out to lead elsewhere, to whatever server. All
    six are charged there, and one more of a process that is gone."""
    book.join("a", "b")
    for tag in ("a", "b"):
        book.tell(tag, 3)
    book.settle()
    book.ledger.quarantine(book.server, "gone", 4, book.now)
    merging.part(book.ledger, R, "new", ("k",), {"a", "b"})
    book.ledger.quarantine(book.ledger.servers["new"], "gone", 1, book.now)
    return book


def told_at_new(book: Book) -> list[int]:
    """Limits. Before what is in use is recalled its holders are asked, and have some time to answer."""
    messages = [tell.message for _ in range(9) for tell in book.settle(0.01).tells]
    return [m.limit for m in messages if isinstance(m, Limit) and m.server == "new"]


def test_of_a_server_that_is_not_known_nothing_is_recalled(book):
    """A smaller limit is a limit: within it members would open connections at a server whose budget others may have."""
    parted(book)
    assert told_at_new(book) == []
    book.ledger.settled("new")
    assert len(told_at_new(book)) >= 2


def test_a_successor_tells_nothing_there_either(book):
    parted(book)
    after = successor(book, alive=True)
    for tag in ("a", "b"):
        assert after.ledger.register(Identity(tag, 2), 2, {"new": 3}, after.now)
    assert told_at_new(after) == []
    after.ledger.settled("new")
    assert len(told_at_new(after)) >= 2
