"""The ledger's rules, one at a time, in their order. The simulation shows that they hold together."""

from __future__ import annotations

from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity
from poolmgr.wire import Limit
from tests import invariant
from tests.unit.book import R, limits, successor

# ---- S1 --------------------------------------------------------------------------------------------


def test_a_raise_is_charged_at_once_and_asks_for_the_snapshot_first(book):
    book.join("a")
    turn = book.tell("a", 9)
    assert book.charge("a") == 9
    assert turn.persist
    assert limits(turn) == {"a": 9}


def test_a_raise_that_does_not_fit_is_not_told(book):
    book.join("a", "b", holds=5)
    assert not book.tell("a", 6).tells
    assert book.charge("a") == 5


def test_quarantine_and_own_connections_count_as_much_as_charges(book):
    book.join("a", holds=4)
    book.join("b")
    book.ledger.exited("a", book.now)
    book.ledger.want_own(R, 2, book.now)
    book.settle()
    assert (book.server.quarantined, book.server.own) == (4, 2)
    assert not book.tell("b", 5).tells
    assert book.tell("b", 4).tells


def test_nothing_is_raised_while_the_server_is_not_known(book):
    book.ledger.hold_raises(R, True)
    book.join("a")
    book.report("a", waiting=3)
    assert limits(book.settle()) == {"a": 0}


def test_nothing_is_raised_while_a_shrunk_budget_is_overdrawn(book):
    book.join("a", holds=8)
    book.join("b")
    book.ledger.set_budget(R, 6, book.now)
    book.report("b", waiting=1)
    turn = book.settle()
    assert "b" not in {tag for tag, limit in limits(turn).items() if limit}
    assert turn.persist
    assert recovery.save(book.ledger, book.now).servers[0].budget == 6


def test_a_turn_whose_snapshot_was_not_written_raises_nothing_and_is_tried_again(book):
    book.join("a")
    book.report("a", waiting=3)
    turn = book.settle()
    raised = book.limit("a")
    assert raised >= 3
    book.ledger.abandon(turn, book.now)
    invariant.check(book.ledger)
    assert book.charge("a") < raised
    assert not turn.rest()
    again = book.settle(1.0)
    assert again.persist
    assert limits(again)["a"] >= 3


def hungry(book):
    """``b`` waits for what ``a`` does not use."""
    book.report("a", open=8, in_use=2, spare=6)
    book.report("b", waiting=5)
    return book.settle(0.05)


def test_while_the_snapshot_cannot_be_written_nobody_is_recalled_for_another(book):
    book.join("a", holds=8)
    book.join("b")
    book.settle()
    before = book.limit("a"), book.limit("b")
    for _ in range(20):
        turn = hungry(book)
        assert turn.persist, "it is tried again"
        book.ledger.abandon(turn, book.now)
        invariant.check(book.ledger)
        assert limits(turn).keys() & {tell.tag for tell in turn.rest()} == set()
        assert (book.limit("a"), book.limit("b")) == before
        assert turn.wake > book.now, "it is not tried without a pause"
    for _ in range(4):
        hungry(book)  # these are written
    assert (book.limit("a"), book.limit("b")) == (5, 5), "all is as usual"


def test_an_overdrawn_budget_is_recalled_for_although_the_snapshot_cannot_be_written(book):
    book.join("a", holds=8)
    book.settle()
    book.ledger.set_budget(R, 4, book.now)
    told: dict[str, int] = {}
    for _ in range(3):
        book.report("a", open=8, in_use=2, spare=6, acked=0)
        turn = book.settle(0.05)
        book.ledger.abandon(turn, book.now)
        told |= {tell.tag: tell.message.limit for tell in turn.rest() if isinstance(tell.message, Limit)}
    assert told == {"a": 4}


def test_an_own_connection_of_a_turn_that_was_not_written_is_not_counted(book):
    book.ledger.want_own(R, 1, book.now)
    turn = book.settle()
    assert turn.own == [R]
    book.ledger.abandon(turn, book.now)
    assert book.server.own == 0


# ---- S2 --------------------------------------------------------------------------------------------


def test_a_recall_frees_the_charge_only_with_its_acknowledgement(book):
    book.join("a", holds=9)
    book.settle()
    book.tell("a", 3)
    assert (book.limit("a"), book.charge("a")) == (3, 9)
    book.report("a", open=3)
    assert book.charge("a") == 3


def test_an_acknowledgement_of_an_earlier_sequence_frees_nothing_of_a_later_recall(book):
    book.join("a", holds=9)
    book.settle()
    seq = book.server.accounts["a"].seq
    book.tell("a", 3)
    book.report("a", acked=seq, open=9)
    assert book.charge("a") == 9


def test_of_several_recalls_the_acknowledged_one_counts(book):
    book.join("a", holds=9)
    book.settle()
    book.tell("a", 5)
    middle = book.server.accounts["a"].seq
    book.tell("a", 2)
    book.report("a", acked=middle, open=5)
    assert book.charge("a") == 5
    book.report("a", open=2)
    assert book.charge("a") == 2


def test_a_raise_above_an_unacknowledged_recall_is_charged_with_the_larger_of_both(book):
    book.join("a", holds=9)
    book.settle()
    book.tell("a", 2)
    book.tell("a", 4)
    assert book.charge("a") == 9
    book.report("a", open=4)
    assert book.charge("a") == 4


def test_an_acknowledgement_on_an_older_link_counts_for_nothing(book):
    book.join("a", holds=9)
    book.settle()
    book.join("a", holds=9, link=2)
    book.settle()
    book.tell("a", 3)
    book.report("a", link=1, open=0)
    assert book.charge("a") == 9


def test_a_sequence_that_was_never_told_is_not_believed(book):
    book.join("a", holds=9)
    book.settle()
    book.tell("a", 3)
    book.report("a", acked=99)
    assert book.charge("a") == 9


# ---- S3 --------------------------------------------------------------------------------------------


def test_the_end_of_a_link_frees_nothing(book):
    book.join("a", holds=4)
    book.ledger.unlink("a", 1, book.now)
    assert book.charge("a") == 4


def test_the_end_of_a_process_moves_its_charge_to_quarantine(book):
    book.join("a", holds=4)
    book.ledger.exited("a", book.now)
    assert book.server.charged == 0
    (entry,) = book.ledger.quarantined()
    assert (entry.tag, entry.charge, entry.exited) == ("a", 4, True)
    assert book.server.free == 6


def test_quarantine_is_free_when_the_end_of_its_connections_is_proven(book):
    book.join("a", holds=4)
    book.ledger.exited("a", book.now)
    book.ledger.proven(R, "a", book.now)
    assert book.server.free == 10
    assert not book.ledger.quarantined()


def test_who_says_goodbye_has_nothing_left_to_prove(book):
    book.join("a", holds=4)
    book.ledger.leave("a", 1, book.now)
    book.ledger.exited("a", book.now)
    assert book.server.free == 10


def test_a_successor_does_not_wait_for_who_has_said_goodbye_and_lives_on(book):
    book.join("a", holds=4)
    book.settle()
    book.ledger.leave("a", 1, book.now)
    assert book.settle().persist
    assert successor(book, alive=True).server.free == 10


def test_a_registration_of_a_process_that_is_gone_is_ignored(book):
    book.join("a", holds=4)
    book.ledger.exited("a", book.now)
    assert not book.ledger.register(Identity("a", 2), 2, {R: 4}, book.now)
    assert book.server.outstanding == 4


# ---- M4 -------------------------------------------------------------------------------------


def test_a_registration_is_charged_with_what_it_states_and_answered_with_a_number(book):
    book.join("a", holds=4)
    turn = book.settle()
    assert limits(turn)["a"] >= 4
    assert book.charge("a") >= 4


def test_an_older_registration_is_ignored(book):
    book.join("a", holds=4, link=3)
    assert not book.ledger.register(Identity("a", 2), 2, {R: 1}, book.now)
    assert not book.ledger.register(Identity("a", 2), 3, {R: 1}, book.now)
    assert book.charge("a") == 4


# ---- S5 --------------------------------------------------------------------------------------------


def test_a_permit_for_the_supervisor_is_recalled_if_none_is_free(book):
    book.join("a", holds=10)
    book.settle()
    book.report("a", open=10, spare=10)
    book.ledger.want_own(R, 1, book.now)
    turn = book.settle()
    assert turn.own == []
    assert limits(turn)["a"] == 9
    book.report("a", open=9, spare=9)
    assert book.settle().own == [R]


def test_an_own_permit_may_be_over_the_budget_once_when_the_shell_has_waited_in_vain(book):
    book.join("a", holds=10)
    book.ledger.exited("a", book.now)
    book.ledger.want_own(R, 1, book.now)
    assert book.settle().own == []
    book.ledger.overdraw_own(R)
    assert book.settle().own == [R]
    assert book.server.free == -1
    book.ledger.proven(R, "a", book.now)
    book.ledger.return_own(R, 1, book.now)
    assert book.server.free == 10


def test_the_supervisor_may_exit_only_with_nothing_charged(book):
    assert book.ledger.idle
    book.join("a", holds=1)
    assert not book.ledger.idle
    book.ledger.exited("a", book.now)
    assert not book.ledger.idle
    book.ledger.proven(R, "a", book.now)
    assert book.ledger.idle
