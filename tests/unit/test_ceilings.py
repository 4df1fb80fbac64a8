"""The effective budget: its derivation in words, and how it follows the world."""

from __future__ import annotations

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


def test_the_operators_number_is_taken_as_it_is() -> None:
    assert text(operator=12, maxclients=14, others=9) == "budget 12 = REDIS_CONNECTION_BUDGET"


def test_but_not_beyond_what_the_server_has() -> None:
    assert text(operator=50, maxclients=14) == "budget 14 = redis maxclients 14, less than REDIS_CONNECTION_BUDGET 50"


def test_a_server_that_says_nothing_gets_a_cautious_assumption() -> None:
    assert text(remark="INFO: NOPERM") == (
        "budget 64 = assumed, as redis maxclients is unknown (INFO: NOPERM); set REDIS_CONNECTION_BUDGET, or "
        "let the user ask INFO"
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


def test_it_falls_at_once_and_grows_slowly() -> None:
    governor = Governor()
    assert governor.follow(100, 0.0) == 100
    assert governor.follow(60, 1.0) == 60
    assert governor.follow(100, 2.0) == 60
    assert governor.follow(100, 6.9) == 60
    assert governor.follow(100, 7.0) == 63
    assert governor.follow(100, 7.5) == 63
    budgets = [governor.follow(100, 8.0 + second) for second in range(20)]
    assert budgets == sorted(budgets)
    assert budgets[0] == 66
    assert budgets[-1] == 100


def test_a_client_that_comes_and_goes_does_not_make_it_swing() -> None:
    governor = Governor()
    governor.follow(100, 0.0)
    seen = {governor.follow(99 + second % 2, float(second)) for second in range(2, 60)}
    assert seen == {99}


def test_the_operators_word_holds_at_once() -> None:
    governor = Governor()
    governor.follow(10, 0.0)
    assert governor.follow(50, 0.1, at_once=True) == 50


def test_a_refusal_lowers_it_at_once_and_for_a_while() -> None:
    governor = Governor()
    governor.follow(100, 0.0)
    assert governor.refused(70, 1.0) == 70
    assert governor.follow(100, 1.5) == 70
    assert governor.cap == 70
    at = 1.5
    while governor.follow(100, at) < 100:
        at += 0.5
    assert 10 < at < 40
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
