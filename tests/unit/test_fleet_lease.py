"""One host's lease: what is sent, what an answer means, and what is said of what is held (rules F2, F3, F7, F8)."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from poolmgr.fleet import duty, script
from poolmgr.fleet.lease import BUSY, GROWN, LINKS, QUIET, SOON, UNKNOWN, Lease, SavedLease, Terms
from poolmgr.fleet.script import Refused, Renewal, Renewed


def made(saved: SavedLease | None = None, held: int = 0) -> Lease:
    names = (f"{n:010x}" for n in range(1, 100))
    lease = Lease(Terms(lease=10.0, host="a"), lambda: next(names), random.Random(1), saved=saved, held=held)
    lease.on_disk(lease.saved())
    return lease


def asked(lease: Lease, now: float = 1.0, demand: int = 5) -> Renewal:
    lease.on_disk(lease.saved())
    request = lease.request("run1", demand, 20, 2, now)
    assert request is not None
    return request


def good(grant: int, **changes: Any) -> Renewed:
    said = {
        "table": "1.aaaa.1",
        "now": 1000,
        "target": grant,
        "end": 11_000,
        "wanted": False,
        "budget": 20,
        "slack": 2,
        "hosts": 1,
        "others": None,
        "duty": "",
        "learning": False,
    }
    return Renewed(grant=grant, **{**said, **changes})


def joined(grant: int = 5) -> Lease:
    lease = made()
    lease.answered(asked(lease).seq, good(grant), 1.1)
    lease.settle(0, 1.1)
    lease.on_disk(lease.saved())
    return lease


def test_a_host_joins_with_nothing_under_a_new_name():
    lease = made()
    request = asked(lease)
    assert (request.table, request.word, request.name) == ("", 0, "0000000001")
    assert lease.name == ""
    lease.answered(request.seq, good(2), 1.1)
    assert (lease.name, lease.word, lease.limit) == ("0000000001", 2, 2)
    assert lease.unsaved, "a name is on disk before it is used"


def test_a_join_that_was_not_answered_is_repeated_under_another_name():
    lease = made()
    first = asked(lease)
    lease.failed(1.5)
    second = asked(lease, now=4.0)
    assert first.name != second.name
    lease.answered(first.seq, good(5), 4.1)
    assert lease.word == 0, "the answer to the first request is ignored"


def test_only_one_request_is_under_way_and_only_what_is_saved_is_said():
    lease = joined()
    assert lease.request("run1", 5, 20, 2, 1.2) is None, "it is not due yet"
    request = asked(lease, now=20.0)
    assert request.word == 5
    assert lease.request("run1", 9, 20, 2, 30.0) is None
    lease.answered(request.seq, good(5), 20.1)
    lease.give_back(2, 20.2)
    lease.settle(2, 20.3)
    assert lease.word == 2
    assert lease.request("run1", 9, 20, 2, 99.0) is None, "a smaller word is on disk before it is said"
    assert asked(lease, now=99.0).word == 2


def test_a_word_falls_when_it_is_obeyed_and_not_before():
    lease = joined()
    lease.give_back(1, 2.0)
    assert (lease.limit, lease.word) == (1, 5)
    lease.settle(4, 2.1)
    assert (lease.limit, lease.word) == (1, 4)
    lease.settle(1, 2.2)
    assert lease.word == 1


def test_what_others_need_is_given_back():
    lease = joined()
    lease.answered(asked(lease, now=20.0).seq, good(5, target=2, wanted=True), 20.1)
    assert (lease.limit, lease.word) == (2, 5)


def test_a_host_that_needs_more_asks_at_once_but_not_all_the_time():
    lease = joined(grant=1)
    assert lease.due(1) > 1.9
    assert lease.due(2) <= 1.0 + 2 * SOON
    lease.answered(asked(lease, now=2.0, demand=2).seq, good(1), 2.05)
    assert 2.0 + SOON / 2 < lease.due(2) < 2.0 + 2 * SOON


def test_a_host_that_gets_nothing_asks_ever_less_often():
    lease, now, times = joined(grant=1), 2.0, []
    for _ in range(12):
        lease.answered(asked(lease, now=now, demand=9).seq, good(1), now)
        times.append(lease.due(9) - now)
        now = lease.due(9)
    assert times[0] < 0.2
    assert 1.5 < times[-1] < 2.5
    lease.answered(asked(lease, now=now, demand=9).seq, good(2), now)
    lease.answered(asked(lease, now=now + 3, demand=9).seq, good(2), now + 3)
    assert lease.due(9) - now - 3 < 0.2


def test_a_fenced_host_starts_again_with_nothing_under_another_name():
    lease = joined()
    name = lease.name
    lease.answered(asked(lease, now=20.0).seq, Refused("fenced", "1.aaaa.1", 1), 20.1)
    assert (lease.name, lease.word, lease.limit, lease.fenced) == ("", 0, 0, 1)
    request = asked(lease, now=20.2)
    assert request.name not in ("", name)
    assert request.table == ""


def test_what_is_left_of_an_earlier_name_does_not_count_as_the_new_one_s():
    lease = joined()
    lease.answered(asked(lease, now=20.0).seq, Refused("fenced", "1.aaaa.1", 1), 20.1)
    lease.answered(asked(lease, now=20.2).seq, good(2), 20.3)
    lease.settle(5, 20.4)
    assert lease.word == 2, "five are of the earlier name, which the table still charges"
    lease.settle(2, 20.5)
    assert not lease.clearing
    lease.settle(3, 20.6)
    assert lease.word == 3, "from now on the truth is said"


def test_another_table_is_answered_with_a_claim():
    lease = joined()
    lease.answered(asked(lease, now=20.0).seq, Refused("table", "2.bbbb.1", 1), 20.1)
    assert lease.table == "1.aaaa.1", "members' limits are of the table that gave them, until another one has"
    claim = asked(lease, now=20.2)
    assert (claim.table, claim.word, claim.until) == ("2.bbbb.1", 5, 11_000)
    lease.answered(claim.seq, good(5, table="2.bbbb.1"), 20.3)
    assert lease.table == "2.bbbb.1"


def test_a_gate_that_was_found_shut_is_asked_about_at_once():
    lease = joined()
    lease.shut(2.0)
    assert lease.blocked
    lease.answered(asked(lease, now=2.1).seq, good(5, learning=True), 2.2)
    assert lease.blocked
    assert lease.due(5) < 3.0
    lease.answered(asked(lease, now=4.0).seq, good(5), 4.1)
    assert not lease.blocked


def test_a_successor_says_what_its_members_hold_and_numbers_its_requests_anew():
    before = joined()
    saved = before.saved()
    after = made(saved, held=7)
    request = asked(after)
    assert (request.word, request.name, request.table) == (7, before.name, "1.aaaa.1")
    assert request.seq > 2 * LINKS
    assert made(saved, held=1).word == 5


def joined_again(grant: int, held: int) -> Lease:
    """Fenced, and joined under the next name, while members still hold so many under the earlier one."""
    lease = joined()
    lease.answered(asked(lease, now=20.0).seq, Refused("fenced", "1.aaaa.1", 1), 20.1)
    lease.answered(asked(lease, now=21.0).seq, good(grant), 21.1)
    lease.settle(held, 21.1)
    return lease


@pytest.mark.parametrize("grant", [0, 2])
def test_a_successor_does_not_state_what_members_hold_of_an_earlier_lease(grant: int):
    """The table has never granted that to this lease, and would fence it: what members have opened under it meanwhile
    would be closed."""
    lease = joined_again(grant, held=3)
    after = made(lease.saved(), held=3)
    request = asked(after)
    assert (request.name, request.word, after.limit) == (lease.name, grant, grant)
    after.settle(3, 2.0)
    assert asked(made(after.saved(), held=3)).word == grant, "it has not obeyed the end of the earlier one yet"
    after.settle(grant, 3.0)
    assert asked(made(after.saved(), held=grant + 1)).word == grant + 1, "what is held from here on is this lease's"


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from(["answer", "fenced", "raise", "close", "obey", "settle", "crash"]), st.integers(0, 5))
    )
)
def test_the_word_covers_what_is_held_of_the_lease_and_is_never_more_than_it_was_granted(events: list[tuple[str, int]]):
    """However its host is fenced and its supervisor killed. A raise is in the snapshot, with the lease, before a member
    hears of it."""
    lease, mine, earlier, now = joined(), 0, 0, 20.0
    granted, disk = {lease.name: 5}, lease.saved()
    for kind, number in events:
        now += 10.0
        if kind in ("answer", "fenced"):
            lease.settle(mine + earlier, now)
            request, disk = asked(lease, now=now), lease.saved()
            assert request.word <= granted.setdefault(request.name, 0)
            if kind == "answer":
                granted[request.name] = request.word + number
                lease.answered(request.seq, good(granted[request.name], target=number, wanted=number % 2 == 0), now)
            else:
                lease.answered(request.seq, Refused("fenced", "1.aaaa.1", 1), now)
                mine, earlier = 0, earlier + mine
        elif kind == "raise":
            if lease.name and mine + earlier < lease.limit:
                mine += 1
                disk = lease.saved()
        elif kind == "close":
            mine = max(0, mine - number)
        elif kind == "obey":
            earlier = max(0, earlier - number)
        elif kind == "settle":
            lease.settle(mine + earlier, now)
        else:
            if disk.name != lease.name:
                mine, earlier = 0, earlier + mine
            lease = made(disk, held=mine + earlier)
        assert mine <= lease.word


def test_a_host_that_knows_only_its_name_learns_the_rest_from_the_table():
    lease = made(SavedLease(name="00000000ff"), held=3)
    request = asked(lease)
    assert (request.table, request.word) == (UNKNOWN, 3)
    lease.answered(request.seq, Refused("table", "1.aaaa.1", 1), 1.1)
    again = asked(lease, now=1.2)
    lease.answered(again.seq, Refused("old", "1.aaaa.1", 1, last=4 * LINKS + 7), 1.3)
    assert asked(lease, now=1.4).seq > 4 * LINKS + 7
    assert lease.fenced == 0


def test_two_holders_of_one_name_part():
    lease = joined()
    for now in (20.0, 21.0):
        lease.answered(asked(lease, now=now).seq, Refused("old", "1.aaaa.1", 1, last=9 * LINKS), now + 0.1)
    assert (lease.fenced, lease.name) == (1, "")


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["answer", "back", "settle", "crash", "lost"]), st.integers(0, 9))))
def test_the_word_is_never_less_than_what_may_be_held(events: list[tuple[str, int]]):
    """The ledger holds at most its budget, which is the lease's limit, and what it held before that fell."""
    lease, held, now = joined(), 0, 20.0
    for kind, number in events:
        now += 10.0
        held = max(held, min(lease.limit, number)) if kind != "settle" else min(held, number)
        if kind == "answer":
            request = asked(lease, now=now)
            lease.answered(request.seq, good(request.word + number, target=number, wanted=number % 2 == 0), now)
        elif kind == "back":
            lease.give_back(number, now)
        elif kind == "settle":
            lease.settle(held, now)
        elif kind == "crash":
            lease = made(lease.saved(), held=held)
        else:
            asked(lease, now=now)
            lease.failed(now)
        assert held <= lease.word
        assert lease.limit <= lease.word


def test_a_proof_needs_a_list_without_the_name_and_without_any_unnamed_connection_from_before():
    survey = script.Survey("1.aaaa.1", 0, False, 0, frozenset({"live"}), frozenset({"dead", "gone"}))
    clients = [duty.Seen(3, "dead"), duty.Seen(4, "live"), duty.Seen(8), duty.Seen(12, suspect=True)]
    verdict = duty.judge(survey, 10, clients)
    assert verdict.gone == {"gone"}
    assert verdict.shown == {"dead", "live"}
    assert (verdict.complete, verdict.others) == (True, 2)
    held_up = duty.judge(survey, 10, [*clients, duty.Seen(9, suspect=True)])
    assert held_up.gone == frozenset()
    assert not held_up.complete
    unnumbered = duty.judge(survey, 0, clients)
    assert (unnumbered.complete, unnumbered.gone) == (False, frozenset()), "any suspect may be older than the fresh one"
    assert duty.leftovers({"dead"}, clients) == [3]


@pytest.mark.parametrize("reply", [[], ["ok"], ["ok", "t"], ["ok", "t", "x"] + [0] * 10, 7, "ok", ["table"], [b"\xff"]])
def test_an_answer_that_is_not_understood_is_an_error_that_quotes_it(reply: Any):
    with pytest.raises(script.UnreadableError, match="answered"):
        script.answer(reply)


def test_a_host_renews_seldom_unless_something_is_to_change():
    """What it has beyond its part changes nothing before others want it: it would renew more often for as long as it
    lives, for nothing."""

    def renews_after(**answer: Any) -> float:
        lease = joined()
        for said in ({}, {}, {}, answer):
            now = lease.due(5)
            lease.answered(asked(lease, now=now).seq, good(5, **said), now)
        lease.settle(5, now)
        return lease.due(5) - now

    assert renews_after() > 10.0 * QUIET * 0.8
    assert renews_after(target=3) > 10.0 * QUIET * 0.8
    assert renews_after(target=6) < 10.0 * BUSY * 1.2
    assert renews_after(target=3, wanted=True) < 10.0 * BUSY * 1.2


def test_a_host_that_has_just_got_more_asks_again_soon_and_then_ever_less_often():
    """Others may have come with it that are short. All they can get is what it has beyond its part, and it hears of
    that when it renews."""
    lease, now, waits = joined(), 20.0, []
    for grant in (5, 9, 9, 9, 9, 9):
        lease.answered(asked(lease, now=now).seq, good(grant), now)
        lease.settle(grant, now)
        waits.append(lease.due(grant) - now)
        now = lease.due(grant)
    expected = [GROWN, 2 * GROWN, 4 * GROWN, QUIET, QUIET]
    assert all(0.8 < wait / 10.0 / part < 1.2 for wait, part in zip(waits[1:], expected, strict=True)), waits
