"""A budget that shrinks: for others' sake only what nobody uses comes back; an operator's word takes the rest too."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, strategies as st

from poolmgr.budget import sharing
from poolmgr.budget.accounts import Server
from poolmgr.budget.effects import Decision
from tests.unit.book import Book, R, limits


def shrunk(*, spares_used: bool, budget: int = 4) -> Book:
    """Two members, one busy and one idle, at a server whose budget has become this."""
    book = Book(budget=12)
    book.join("busy", "idle", holds=6)
    book.report("busy", open=6, in_use=6)
    book.report("idle", open=6, spare=6)
    book.settle()
    book.ledger.set_budget(R, budget, book.now, spares_used=spares_used)
    return book


def obey(book: Book, tag: str, in_use: int) -> None:
    """Close what is idle, and answer."""
    spare = max(0, book.limit(tag) - in_use)
    opened = max(in_use, book.limit(tag))
    acked = None if opened <= book.limit(tag) else book.server.accounts[tag].seq - 1
    book.report(tag, acked=acked, open=opened, in_use=in_use, spare=spare)


def come_to_rest(book: Book, **used: int) -> None:
    for _ in range(60):
        book.now += 0.03
        for tag, in_use in used.items():
            obey(book, tag, in_use)
        book.settle()


def test_what_is_used_is_not_recalled_for_others() -> None:
    book = shrunk(spares_used=True)
    come_to_rest(book, busy=6, idle=0)
    assert (book.limit("busy"), book.limit("idle")) == (6, 0)
    assert book.server.used == 6


def test_an_operators_word_takes_what_is_used_too() -> None:
    book = shrunk(spares_used=False)
    come_to_rest(book, busy=6, idle=0)
    assert book.limit("busy") <= 4


def test_what_is_pinned_is_not_recalled_for_others_either() -> None:
    book = Book(budget=12)
    book.join("subscriber", holds=6)
    book.report("subscriber", open=6, in_use=6, pinned=6)
    book.settle()
    book.ledger.set_budget(R, 2, book.now, spares_used=True)
    for _ in range(20):
        book.report("subscriber", open=6, in_use=6, pinned=6)
        assert not limits(book.settle(0.1))


def test_those_who_wait_share_what_is_used_all_the_same() -> None:
    book = shrunk(spares_used=True, budget=6)
    come_to_rest(book, busy=6, idle=0)
    book.report("idle", waiting=3)
    for _ in range(60):
        book.now += 0.03
        obey(book, "busy", min(6, book.limit("busy")))  # each recall is obeyed at the next release
        book.report("idle", open=0, waiting=3)
        book.settle()
        if book.limit("idle"):
            break
    assert (book.limit("busy"), book.limit("idle")) == (3, 3)


def test_the_supervisor_still_gets_something_to_look_with() -> None:
    book = shrunk(spares_used=True, budget=7)
    come_to_rest(book, busy=6, idle=0)
    book.ledger.want_own(R, 2, book.now)
    for _ in range(60):
        book.now += 0.03
        obey(book, "busy", min(6, book.limit("busy")))
        obey(book, "idle", 0)
        book.settle()
    assert book.server.own == 2


worlds = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=5)


def given_up(members: list[tuple[int, int]], budget: int) -> int:
    """Members as (used, idle); how many used connections are recalled when the budget becomes this for others' sake."""
    book = Book(budget=100)
    used = {f"m{number}": busy for number, (busy, _) in enumerate(members)}
    for tag, (busy, idle) in zip(used, members, strict=True):
        book.join(tag, holds=busy + idle)
        book.report(tag, open=busy + idle, in_use=busy, spare=idle)
    book.settle()
    book.ledger.set_budget(R, budget, book.now, spares_used=True)
    come_to_rest(book, **used)
    assert book.server.outstanding <= max(budget, sum(used.values())), "what nobody uses comes back"
    return sum(max(0, busy - book.limit(tag)) for tag, busy in used.items())


@given(worlds, st.integers(1, 30))
def test_nothing_used_is_ever_given_up_for_others(members: list[tuple[int, int]], budget: int) -> None:
    assert given_up(members, budget) == 0


def test_the_rule_switched_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = sharing.decide

    def decide(server: Server, now: float, rng: random.Random) -> Decision:
        server.spares_used = False
        return real(server, now, rng)

    monkeypatch.setattr(sharing, "decide", decide)
    assert given_up([(6, 0), (2, 3)], 4) > 0
