"""Each rule of the member, switched off: the core's property test has to notice."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from poolmgr.member.core.account import Account
from poolmgr.member.core.dispatcher import Dispatcher
from poolmgr.member.core.process import MemberCore
from tests.unit.test_member_core import Machine


def opens_regardless_of_the_limit(patch):
    patch.setattr(Account, "_may_open", lambda self: self._answered())


def opens_before_it_is_answered(patch):
    patch.setattr(Account, "_may_open", lambda self: self._counts_as_open() < self.limit)


def does_not_count_closing(patch):
    patch.setattr(Account, "_counts_as_open", lambda self: len(self.live) + len(self.lost))


def does_not_count_lost(patch):
    patch.setattr(Account, "_counts_as_open", lambda self: len(self.live) + len(self.closing))


def acknowledges_early(patch):
    patch.setattr(Account, "_obeyed", lambda self: True)


def never_acknowledges(patch):
    patch.setattr(Account, "ackable", lambda self: self.acked)


def states_its_limit_only(patch):
    patch.setattr(Account, "_stated", lambda self: self.limit)


def hears_old_links(patch):
    patch.setattr(MemberCore, "_listens_to", lambda self, link: True)


def acknowledges_across_links(patch):
    patch.setattr(Account, "forget_link", lambda self: None)


def does_not_close_surplus(patch):
    patch.setattr(Account, "surplus", 0)


def does_not_tell_of_lost_sockets(patch):
    patch.setattr(
        MemberCore, "lost", lambda self, serial: [d.account.give_up_waiting(serial) for d in self.dispatchers()]
    )


def forgets_who_was_refused(patch):
    patch.setattr(Dispatcher, "serve", lambda self, effects: None)


@pytest.mark.parametrize(
    "mutant",
    [
        opens_regardless_of_the_limit,
        opens_before_it_is_answered,
        does_not_count_closing,
        does_not_count_lost,
        acknowledges_early,
        never_acknowledges,
        states_its_limit_only,
        hears_old_links,
        acknowledges_across_links,
        does_not_close_surplus,
        does_not_tell_of_lost_sockets,
        forgets_who_was_refused,
    ],
)
def test_is_noticed(mutant, monkeypatch, capsys):
    mutant(monkeypatch)
    with pytest.raises(BaseException):  # noqa: B017  (Hypothesis wraps several failures into a group)
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=300,
                stateful_step_count=60,
                deadline=None,
                phases=[Phase.generate],
                database=None,
                derandomize=True,  # the same seeds every time: what is found once is found always
                suppress_health_check=list(HealthCheck),
                print_blob=False,
            ),
        )
