"""The bounded waits, where nothing can prove that a dead process's connections are gone."""

from __future__ import annotations

import logging

import pytest

from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.upstreams import unproven
from poolmgr.supervisor.upstreams.unproven import Waits
from poolmgr.supervisor.upstreams.upstream import Upstream


@pytest.mark.parametrize("writable", [True, False])
def test_a_permit_to_look_with_is_overdrawn_only_where_that_can_be_recorded(writable, caplog):
    """Else it would be taken back at once, and told of every few seconds, though no permit is missing."""
    ledger, upstream = Ledger(), Upstream("s")
    known = ledger.server("s", run_id="r")
    ledger.set_budget("s", 1, 0.0)
    ledger.quarantine(known, "tag-1", 1, 0.0)
    ledger.want_own("s", 1, 0.0)
    waits = Waits(upstream, ledger, lambda: None, lambda _: None, lambda: None, lambda _: None)
    now = unproven.WAIT + 1
    turn = ledger.settle(now)
    if not writable:
        ledger.abandon(turn, now)
    with caplog.at_level(logging.WARNING, "poolmgr.supervisor"):
        assert waits.no_permit(["tag-1"], now) == writable
    assert known.own_overdraws == writable
    assert upstream.unproven == len(caplog.records) == writable


def test_a_search_is_ordered_only_for_what_was_given_up():
    """A connection whose end a living member could not see is not given up: it is looked for in every pass."""
    ledger, upstream, searches = Ledger(), Upstream("s"), []
    known = ledger.server("s", run_id="r")
    ledger.quarantine(known, "tag-1", 1, 0.0)
    upstream.lost["tag-2-7"] = 0.0
    waits = Waits(upstream, ledger, lambda: None, lambda _: None, lambda: searches.append(1), lambda _: None)
    for now in (0.0, unproven.ALONE, 2.0, 3.0, 4.0):
        waits.none_to_ask(["tag-1", "tag-2-7"], now, alone=True)
    assert searches == [1]
    assert not known.quarantine
    assert "tag-2-7" in upstream.lost


def test_what_a_living_member_has_lost_is_freed_where_no_list_can_show_it():
    freed: list[str] = []
    ledger, upstream = Ledger(), Upstream("s")
    ledger.server("s", run_id="r")
    upstream.lost |= {"tag-2-7": 0.0, "tag-3-1": 0.0}
    waits = Waits(upstream, ledger, lambda: None, freed.append, lambda: None, lambda _: None)
    for now in (0.0, unproven.WAIT - 1, unproven.WAIT):
        assert freed == []
        waits.looked(["tag-2-7", "tag-3-1"], now, fresh=True, blind=False, nameless=["tag-2-7"])
    assert freed == ["tag-2-7"]
    assert set(upstream.lost) == {"tag-3-1"}
    assert upstream.unproven == 1
