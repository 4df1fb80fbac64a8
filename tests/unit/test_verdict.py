"""Whether a server is down: who bears witness, and who contradicts."""

from __future__ import annotations

import pytest

from poolmgr.supervisor.upstreams.verdict import ALONE, Failure, Verdict


def fails(verdict: Verdict, tag: str, at: float, began: float | None = None) -> None:
    verdict.failed(tag, Failure(at if began is None else began, at, "tcp://a:1", "refused"))


def unseen(*failed: str, ours: bool = False) -> Verdict:
    """Of a server that the supervisor does not see since 1.0; these have failed at 2.0."""
    verdict = Verdict()
    verdict.not_seen(1.0, ours=ours)
    for tag in failed:
        fails(verdict, tag, 2.0)
    return verdict


def accused(verdict: Verdict, *others: str, now: float = 10.0) -> str:
    failure, borne_out = verdict.accused(others, now)
    return "" if failure is None else "begins" if borne_out else "is asked"


def test_that_the_supervisor_alone_cannot_reach_it_is_no_outage() -> None:
    verdict = unseen()
    assert accused(verdict, "a", "b", now=1000.0) == ""


def test_that_one_fails_is_none_while_the_supervisor_reaches_it() -> None:
    verdict = Verdict()
    fails(verdict, "a", 2.0)
    assert accused(verdict, "a") == ""
    verdict.seen(2.5)
    verdict.not_seen(3.0)
    assert accused(verdict, "a") == "", "there was an answer since"


def test_a_lone_member_is_enough() -> None:
    verdict = unseen("a")
    assert accused(verdict, "a", now=2.0) == "begins"


def test_where_there_is_another_one_it_is_asked() -> None:
    verdict = unseen("a")
    assert accused(verdict, "a", "b", now=2.0) == "is asked"
    fails(verdict, "b", 2.1)
    assert accused(verdict, "a", "b", now=2.1) == "begins"


def test_the_supervisor_is_the_second_where_nobody_else_says_anything() -> None:
    verdict = unseen("a")
    assert accused(verdict, "a", "b", now=2.0 + ALONE / 2) == "is asked"
    assert accused(verdict, "a", "b", now=2.0 + ALONE) == "begins"


@pytest.mark.parametrize("ours", [True, False])
def test_but_not_if_it_is_blind_or_looks_with_what_cannot_be_used(ours: bool) -> None:
    verdict = unseen(ours=ours)
    if not ours:
        verdict.heard(1.5)
        assert verdict.blind
    fails(verdict, "a", 2.0)
    assert accused(verdict, "a", "b", now=100.0) == "is asked"
    fails(verdict, "b", 2.1)
    assert accused(verdict, "a", "b", now=100.0) == "begins"


def test_a_reply_since_an_attempt_began_contradicts_it() -> None:
    verdict = unseen()
    fails(verdict, "a", 6.0, began=2.0)
    fails(verdict, "b", 6.0, began=2.5)
    verdict.heard(3.0)
    assert accused(verdict, "a", "b") == ""
    fails(verdict, "a", 7.0, began=6.5)
    assert accused(verdict, "a", "b") == "is asked"


def test_it_ends_with_a_reply_that_was_had_since_it_began() -> None:
    verdict = unseen("a")
    failure, _ = verdict.accused(["a"], 2.0)
    assert failure is not None
    verdict.begin(failure, 2.1)
    verdict.heard(2.05)
    assert not verdict.over
    verdict.heard(2.2)
    assert verdict.over
    verdict.end()
    assert verdict.blind
    assert accused(verdict, "a", now=100.0) == "", "what failed before is forgotten"


def test_who_is_gone_bears_no_witness() -> None:
    verdict = unseen("a")
    verdict.gone("a")
    assert accused(verdict, "b", now=100.0) == ""
