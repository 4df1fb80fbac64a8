"""The effective budget: its derivation in words, and how it follows the world."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, strategies as st

from poolmgr.budget.ceilings import Facts, Governor, derive


def text(**facts: object) -> str:
    return derive(Facts(**facts)).text.replace("\N{MINUS SIGN}", "-")  # type: ignore[arg-type]


def test_the_derivation_is_printable() -> None:
    assert text(maxclients=1024, others=10) == "budget 912 = redis maxclients 1024 - reserve 102 - 10 other clients"
    assert text(maxclients=1024, others=1) == "budget 921 = redis maxclients 1024 - reserve 102 - 1 other client"
    assert text(maxclients=1024, others=0) == "budget 922 = redis maxclients 1024 - reserve 102"


def test_a_small_server_keeps_at_least_eight_for_others() -> None:
    assert text(maxclients=20, others=0) == "budget 12 = redis maxclients 20 - reserve 8"


def test_the_operators_reserve_replaces_the_rule() -> None:
    assert text(maxclients=100, others=0, reserve=0) == "budget 100 = redis maxclients 100 - reserve 0"


def test_hosts_divide() -> None:
    assert text(maxclients=1000, others=0, hosts=3) == "budget 300 = (redis maxclients 1000 - reserve 100) / 3 hosts"


def test_supervisors_of_this_host_divide() -> None:
    facts = {"maxclients": 48, "others": 7, "supervisors": 2, "theirs": 4}
    assert (
        text(**facts) == "budget 18 = (redis maxclients 48 - reserve 8 - 3 other clients) / 2 supervisors of this host"
    )
    assert text(**{**facts, "others": 30, "theirs": 30}) == (
        "budget 10 = (redis maxclients 48 - reserve 8) / 2 supervisors of this host, of which 30 connections of the "
        "others leave 10"
    ), "until it has given back what is more than its share"
    assert text(operator=12, **facts) == "budget 12 = REDIS_CONNECTION_BUDGET"


def test_the_operators_number_is_taken_as_it_is() -> None:
    assert text(operator=12, maxclients=14, others=9) == "budget 12 = REDIS_CONNECTION_BUDGET"


def test_but_not_beyond_what_the_server_has() -> None:
    assert text(operator=50, maxclients=14) == "budget 14 = redis maxclients 14, less than REDIS_CONNECTION_BUDGET 50"


def test_a_server_that_says_nothing_gets_a_cautious_assumption() -> None:
    assert text(remark="INFO: NOPERM") == (
        "budget 64 = assumed, because redis maxclients is unknown (INFO: NOPERM); set REDIS_CONNECTION_BUDGET, or "
        "allow the user INFO"
    )


def test_descriptors_bound_it() -> None:
    assert text(maxclients=1024, others=0, descriptors=40).startswith("budget 40 = what the members' file-descriptor")


def test_there_is_always_one() -> None:
    found = derive(Facts(maxclients=10, others=50))
    assert found.budget == 1
    assert "leaves -48" in found.text


@given(
    st.integers(1, 20000),
    st.integers(0, 30000),
    st.none() | st.integers(0, 30000),
    st.integers(1, 50),
    st.none() | st.integers(1, 1000),
)
def test_auto_never_exceeds_what_is_left(
    maxclients: int, others: int, reserve: int | None, hosts: int, descriptors: int | None
) -> None:
    found = derive(Facts(maxclients=maxclients, others=others, reserve=reserve, hosts=hosts, descriptors=descriptors))
    assert found.budget >= 1
    assert found.budget == 1 or found.budget * hosts <= maxclients - others - (reserve or 0)
    assert str(found.budget) in found.text


def test_what_is_open_and_used_stays_whatever_others_do() -> None:
    words = "the connections in use, which stay (redis maxclients 60 - reserve 8 - 54 other clients leaves -2)"
    assert text(maxclients=60, others=54, used=6) == f"budget 6 = {words}"
    assert derive(Facts(maxclients=60, others=40, used=6)).budget == 12
    assert derive(Facts(maxclients=5, others=0, used=6)).budget == 5, "no more than the server lets anybody have"
    assert derive(Facts(operator=3, used=6)).budget == 3, "the operator's word is not others' growth"


def test_it_falls_at_once_and_grows_when_that_has_lasted() -> None:
    governor = Governor()
    assert governor.follow(100, 0.0) == 100
    assert governor.follow(60, 1.0) == 60
    assert governor.follow(100, 2.0) == 60
    assert governor.rising
    assert governor.follow(90, 2.5) == 60
    assert governor.follow(100, 3.0) == 90, "the least of that time"
    assert governor.follow(100, 4.0) == 90
    assert governor.follow(100, 5.0) == 100
    assert not governor.rising


def test_a_client_that_comes_and_goes_does_not_make_it_swing() -> None:
    governor = Governor()
    governor.follow(100, 0.0)
    seen = {governor.follow(99 + second % 2, float(second)) for second in range(2, 60)}
    assert seen == {99}


def test_the_operators_word_holds_at_once() -> None:
    governor = Governor()
    governor.follow(10, 0.0)
    assert governor.follow(50, 0.1, at_once=True) == 50


def test_a_refusal_lowers_it_at_once_until_there_is_room() -> None:
    governor = Governor()
    governor.follow(200, 0.0, fits=300)
    assert governor.refused(2, 1.0) == 2
    assert governor.follow(200, 1.0, fits=2) == 2
    assert governor.follow(200, 3.5, fits=2) == 2
    assert not governor.rising
    assert governor.follow(200, 4.5, fits=297) == 2, "it may be for a moment"
    assert governor.rising
    assert governor.follow(200, 5.5, fits=297) == 200
    assert (governor.cap, governor.rising) == (None, False)


def test_after_a_refusal_it_is_what_the_server_has_room_for() -> None:
    governor = Governor()
    governor.follow(200, 0.0)
    governor.refused(20, 1.0)
    for at in (1.0, 2.0, 3.0):
        budget = governor.follow(200, at, fits=50)
    assert budget == 50
    assert governor.follow(200, 4.0, fits=30) == 30, "others take it"
    assert governor.follow(200, 5.0, fits=10) == 20, "what was open has been let in"
    assert governor.cap == 20


def test_where_the_server_does_not_say_the_room_is_tried_out() -> None:
    governor = Governor()
    governor.follow(200, 0.0)
    governor.refused(2, 1.0)
    found = [governor.follow(200, 1.0 + second) for second in range(10)]
    assert found[0] == 2
    assert found == sorted(found)
    assert found.index(200) <= 8
    assert governor.cap is None


def test_one_herd_of_refusals_counts_once() -> None:
    governor = Governor()
    governor.follow(100, 0.0)
    assert governor.refused(70, 1.0) == 70
    assert governor.refused(69, 1.1) is None
    assert governor.refused(60, 2.5) == 60


def test_the_operators_word_lifts_what_a_refusal_left() -> None:
    governor = Governor()
    governor.follow(100, 0.0)
    governor.refused(70, 1.0)
    assert governor.follow(100, 1.1, at_once=True) == 100
    assert governor.cap is None


# ---- what always holds -----------------------------------------------------------------------------------

TARGET = 200

rooms = st.lists(
    st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.none() | st.integers(0, 300), st.none() | st.integers(0, 200)),
    max_size=30,
)


def story(steps: Sequence[tuple[float, int | None, int | None]]) -> str:
    """Looks and refusals in any order, then room for all for five seconds, looked at each second; what went wrong."""
    governor, now = Governor(), 0.0
    governor.follow(TARGET, now)
    for pause, fits, opened in steps:
        now += pause
        before, cap = governor.budget or 0, governor.cap
        if opened is not None:
            if governor.refused(opened, now) not in (None, max(1, min(before, opened))):
                return "a refusal leaves something else than what was open"
            cap = governor.cap
        budget = governor.follow(TARGET, now, fits=fits)
        if budget > TARGET:
            return "more than the facts allow"
        if fits is not None and cap is not None and budget > max(cap, fits):
            return "more than there is room for"
        if cap is not None and budget < min(cap, before):
            return "less than what was open"
    for _ in range(5):
        now += 1.0
        governor.follow(TARGET, now, fits=300)
    return "" if governor.budget == TARGET else "not back within five seconds"


@given(rooms)
def test_the_governor_keeps_its_rules(steps: list[tuple[float, int | None, int | None]]) -> None:
    assert story(steps) == ""


MUTANTS = {
    "no cap": ("_allowed", lambda self, target, fits: target),
    "a cap for ever": ("_allowed", lambda self, target, fits: target if self.cap is None else min(target, self.cap)),
    "the room alone": ("_allowed", lambda self, target, fits: target if fits is None else min(target, fits)),
    "a step at a time": (
        "_allowed",
        lambda self, target, fits: target if self.cap is None else min(target, (self.budget or 0) + 1),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_rule_switched_off_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [(1.0, 300, None), (1.0, 2, 2), (2.0, 2, None), (2.0, 0, None), (2.0, 40, None), (1.0, 40, None)]
    assert story(steps) == ""
    monkeypatch.setattr(Governor, *MUTANTS[name])
    assert story(steps)


def test_a_host_in_a_fleet_is_not_told_of_what_divides_a_budget_elsewhere():
    """Neither REDIS_CONNECTION_HOSTS nor another supervisor of this host divides the fleet's lease."""
    facts = Facts(maxclients=100, hosts=3, supervisors=2)
    rows = {name for name, _, _ in derive(facts).parts}
    assert {"hosts", "supervisors"} <= rows
    leased = derive(msgspec.structs.replace(facts, lease=7, lease_words="lease of fleet web"))
    assert leased.budget == 7
    assert {"hosts", "supervisors"} & {name for name, _, _ in leased.parts} == set()
