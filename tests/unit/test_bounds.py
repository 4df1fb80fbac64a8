"""What a caller waits for, and how long: each cause is charged to its own bound; the documents name the same bounds."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from poolmgr import wire
from poolmgr.member.core import bounds
from poolmgr.member.core.bounds import ANSWER, CONNECTING, OTHERS, SERVER, SUPERVISOR, Wait
from poolmgr.member.core.process import Attachment, MemberCore
from poolmgr.pool.queue import LEFT, PoolCore, Ticket, Waiter
from tests.helpers import ROOT


def test_each_cause_is_charged_to_its_own_bound():
    wait = Wait(3.0, 100.0)
    assert wait.left(SUPERVISOR, 100.0) == bounds.JOINING
    assert wait.left(SERVER, 104.0) == bounds.JOINING - 4, "one bound for both"
    assert wait.left(OTHERS, 105.0) == 3.0, "what came before is not charged to the others"
    assert wait.left(CONNECTING, 107.0) == bounds.CONNECT_WITHIN
    assert wait.left(OTHERS, 107.5) == 1.0
    assert wait.left(OTHERS, 109.0) == -0.5
    assert wait.left(SUPERVISOR, 110.0) == bounds.JOINING - 5


def test_time_in_which_the_process_did_not_run_is_not_charged_to_its_attempts():
    wait = Wait(3.0, 100.0)
    assert wait.left(CONNECTING, 100.25) == bounds.CONNECT_WITHIN - 0.25
    assert wait.left(CONNECTING, 160.25) == bounds.CONNECT_WITHIN - 0.25 - bounds.LOOK, "it was stopped for a minute"
    assert wait.left(OTHERS, 160.5) == 3.0
    assert wait.left(OTHERS, 170.5) == -7.0, "what a user has set is time on the clock"


def test_an_answer_that_does_not_come_is_waited_for_as_the_others_are():
    wait = Wait(3.0, 100.0)
    assert wait.left(ANSWER, 100.0) == bounds.ANSWERING
    assert wait.left(ANSWER, 100.1) == pytest.approx(bounds.ANSWERING - 0.1)
    assert wait.left(ANSWER, 101.0) == 3.0
    assert wait.left(ANSWER, 103.0) == 1.0
    assert wait.left(OTHERS, 104.5) == -0.5
    wait = Wait(0, 100.0)
    wait.left(ANSWER, 100.0)
    assert wait.left(ANSWER, 101.0) == 0, "a caller that does not wait for others does not wait for this either"


@pytest.mark.parametrize("cause", [SUPERVISOR, SERVER])
def test_what_other_callers_have_is_waited_for_beyond_a_supervisor_that_says_nothing(cause: Any):
    wait = Wait(3.0, 100.0)
    assert wait.left(cause, 100.0, lent=True) == bounds.JOINING
    assert wait.left(cause, 101.0, lent=True) == bounds.JOINING - 1
    assert wait.left(cause, 111.0, lent=True) == 3.0
    assert wait.left(cause, 112.0, lent=True) == 2.0
    assert wait.left(cause, 112.0) < 0, "nothing is lent any more"


def test_none_waits_for_ever_for_others_only():
    wait = Wait(None, 0.0)
    assert wait.left(OTHERS, 1e9) == bounds.INFINITY
    wait.left(SUPERVISOR, 2e9)
    assert wait.left(SUPERVISOR, 2e9 + bounds.JOINING) == 0


def member() -> tuple[MemberCore, Attachment]:
    core, attachment = MemberCore("tag"), Attachment(wire.Endpoint(key="tcp://a:1", host="a", port=1))
    core.attach(attachment)
    return core, attachment


def test_the_member_says_what_a_refused_caller_waits_for():
    core, attachment = member()
    assert attachment.pending == SUPERVISOR
    core.register(1.0)
    assert attachment.pending == SERVER
    core.received(1, wire.Resolved("tcp://a:1", "s"), 1.1)
    assert attachment.pending == SERVER
    core.received(1, wire.Limit("s", 1, 0), 1.2)
    assert core.take(attachment, 1.3) is None
    assert attachment.pending == ANSWER, "that is no refusal yet"
    assert any(isinstance(message, wire.Report) for message in core.outgoing())
    core.received(1, wire.Picture("s", 5), 1.4)
    assert attachment.pending == OTHERS
    core.received(1, wire.Limit("s", 2, 1), 1.5)
    assert core.take(attachment, 1.6) is not None
    assert core.take(attachment, 1.7) is None
    assert attachment.pending == ANSWER, "there was more than the last refusal said"
    core.unlinked()
    assert attachment.pending == SUPERVISOR
    core.register(2.0)
    assert attachment.pending == SERVER
    core.received(1, wire.Picture("s", 5), 2.1)
    assert attachment.pending == SERVER, "an old link says nothing"


def test_one_that_is_attached_to_a_link_waits_for_its_server():
    core, _ = member()
    core.register(1.0)
    late = Attachment(wire.Endpoint(key="tcp://b:1", host="b", port=1))
    core.attach(late)
    assert late.pending == SERVER


def test_where_descriptors_are_missing_no_answer_is_awaited():
    core, attachment = member()
    core.descriptors = 1
    core.register(1.0)
    core.received(1, wire.Resolved("tcp://a:1", "s"), 1.1)
    core.received(1, wire.Limit("s", 1, 5), 1.2)
    assert core.take(attachment, 1.3) is not None
    assert core.take(attachment, 1.4) is None
    assert attachment.pending == OTHERS


class Permit:
    serial, name, gate = 1, "", None
    permits: Any = None

    def gone(self) -> None: ...

    def hold(self, sock: object, below: int = -1) -> None: ...

    def close(self, sock: object) -> None: ...


def queue(pool: PoolCore, count: int) -> list[Waiter]:
    waiters = [Waiter(0.0, lambda: None) for _ in range(count)]
    for waiter in waiters:
        pool.join(waiter)
    return waiters


def test_what_a_waiter_of_a_pool_waits_for():
    pool = PoolCore(ceiling=3, max_opening=2)
    first, second, third, fourth = queue(pool, 4)
    tickets: list[Ticket] = []
    for _ in range(2):  # the first one connects itself; for the second one a connection is opened
        for effect in pool.advance(0.0, Permit):
            tickets.extend([effect.ticket] if hasattr(effect, "ticket") else [])
    tickets.append(first.fate.ticket)  # type: ignore[union-attr]
    assert [pool.held_up_by(waiter) for waiter in (second, third, fourth)] == ["connecting", "connecting", "others"]
    second.settle(LEFT)
    assert [pool.held_up_by(waiter) for waiter in (third, fourth)] == ["connecting", "connecting"]
    pool.starved = True
    assert [pool.held_up_by(waiter) for waiter in (third, fourth)] == ["connecting", "permit"]


def bounds_in_the_documents() -> list[tuple[str, str]]:
    text = (ROOT / "docs" / "times.md").read_text()
    return re.findall(r"\| ([\d.]+) s \| `([\w.]+)` \|", text)


def test_the_documents_name_every_bound():
    names = {name.rpartition(".")[2] for _, name in bounds_in_the_documents()}
    assert names == {"JOINING", "ANSWERING", "CONNECT_WITHIN", "GOODBYE"}


@pytest.mark.parametrize(("seconds", "name"), bounds_in_the_documents())
def test_the_documents_name_the_bounds_that_hold(seconds: str, name: str):
    module, _, constant = name.rpartition(".")
    assert float(seconds) == getattr(importlib.import_module(module), constant)
