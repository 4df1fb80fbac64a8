"""What two lists in a row show of a process, compared with what was read between them."""

from __future__ import annotations

import pytest

from poolmgr.supervisor.upstreams.proof import Row
from poolmgr.supervisor.upstreams.summary import summed
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.supervisor.views.audit import Listed, Seen

TAG = "pm1.0a0a0a0a.0b0b0b.7.8.0c0c0c"


def listed(*ids: int, run_id: str = "r", nameless: bool = False) -> Listed:
    upstream = Upstream("s")
    upstream.run_id = run_id
    if nameless:
        upstream.nameless[TAG] = "its user may not name it"
    upstream.shown = summed([Row(number, "a:1", f"{TAG}-{number}", 1) for number in ids])
    return Listed(upstream)


def read(kernel: int | None, ledger: int = 9) -> Seen:
    return Seen("s", 7, "job", ledger, kernel)


@pytest.mark.parametrize(
    ("first", "kernel", "second", "excess"),
    [
        ((1, 2, 3), (0,), (1, 2, 3), True),
        ((1, 2, 3), (3,), (1, 2, 3), False),
        ((1, 2, 3), (0,), (4, 5, 6), False),
        ((1, 2, 3), (0,), (), False),
        ((1, 2, 3), (0, 2), (2, 3), False),
        ((1, 2, 3), (3, 0), (1, 2, 3), False),
        ((1, 2, 3), (0, 1), (2, 3), True),
        ((1, 2, 3), (), (1, 2, 3), False),
        ((1, 2, 3), (None,), (1, 2, 3), False),
    ],
)
def test_only_what_both_lists_show_was_there_all_the_time(
    first: tuple[int, ...], kernel: tuple[int | None, ...], second: tuple[int, ...], excess: bool
) -> None:
    before = listed(*first)
    for number in kernel:
        before.note(TAG, read(number))
    assert any(seen.excess() for seen in before.and_then(listed(*second))) is excess


def test_more_than_is_charged_is_said_of_what_was_charged_at_most() -> None:
    before = listed(1, 2, 3)
    before.note(TAG, read(None, ledger=2))
    assert "charged 2" in before.and_then(listed(1, 2, 3))[0].excess()
    for ledger in (3, 2):
        before.note(TAG, read(None, ledger=ledger))
        assert not before.and_then(listed(1, 2, 3))[0].excess()


def test_after_a_restart_the_numbers_are_others() -> None:
    before = listed(1, 2, 3)
    before.note(TAG, read(0))
    assert not before.and_then(listed(1, 2, 3, run_id="later"))


def test_one_list_is_a_reason_to_ask_for_another() -> None:
    first = listed(1, 2, 3)
    assert not first.suspects(), "nothing was read since"
    first.note(TAG, read(3))
    assert not first.suspects()
    other = listed(1, 2, 3)
    other.note(TAG, read(2))
    assert other.suspects()


def test_a_process_whose_connections_may_bear_no_name_is_not_judged_by_names() -> None:
    before = listed(1, 2, 3, nameless=True)
    before.note(TAG, read(0))
    assert not before.suspects()
    named = listed(1, 2, 3)
    named.note(TAG, read(0))
    assert not named.and_then(listed(1, 2, 3, nameless=True))
