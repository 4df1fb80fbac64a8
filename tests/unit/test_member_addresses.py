"""A process lets go of an address at which nobody was ever reached; nothing of that touches a permit."""

from __future__ import annotations

from poolmgr import wire
from poolmgr.member.core.directory import FORGET_AFTER
from poolmgr.member.core.dispatcher import Attachment
from poolmgr.member.core.process import MemberCore

KEY, OTHER = "tcp://10.0.0.1:1", "tcp://10.0.0.2:1"


def attachment(key: str = KEY) -> Attachment:
    return Attachment(wire.Endpoint(key, host="cache", address=key[6:14], port=1, among=True))


def linked() -> MemberCore:
    core = MemberCore("tag")
    core.register(0.0)
    return core


def sent(core: MemberCore, kind: type) -> list[wire.Message]:
    return [message for message in core.outgoing() if isinstance(message, kind)]


def test_the_supervisor_is_told_and_a_new_link_does_not_ask_for_it() -> None:
    core = linked()
    dead, alive = attachment(), attachment(OTHER)
    core.attach(dead)
    core.attach(alive)
    assert core.spares(KEY)
    core.detach(dead)
    assert sent(core, wire.Detach) == [wire.Detach(KEY)]
    assert [endpoint.key for endpoint in core.register(1.0).endpoints] == [OTHER]
    assert not core.spares(KEY)


def test_it_can_be_asked_for_again() -> None:
    core = linked()
    core.attach(dead := attachment())
    core.detach(dead)
    core.outgoing()
    core.attach(attachment())
    assert [message.endpoint.key for message in sent(core, wire.Attach)] == [KEY]  # type: ignore[attr-defined]


def test_not_while_another_pool_wants_it_or_somebody_waits() -> None:
    core = linked()
    core.attach(one := attachment())
    core.attach(two := attachment())
    core.detach(one)
    core.queue(two, waiter := core.serial())
    core.detach(two)
    assert sent(core, wire.Detach) == []
    assert [endpoint.key for endpoint in core.register(1.0).endpoints] == [KEY]
    core.unqueue(waiter)


def test_not_once_it_is_known_which_server_that_is() -> None:
    """What is charged there is told by other messages."""
    core = linked()
    core.attach(one := attachment())
    core.received(core.link, wire.Resolved(KEY, KEY), 0.0)
    assert not core.spares(KEY)
    core.received(core.link, wire.Limit(KEY, 1, 3), 0.0)
    core.detach(one)
    assert sent(core, wire.Detach) == []
    assert core.granted == 3


def test_an_answer_that_was_under_way_is_heard() -> None:
    core = linked()
    core.attach(one := attachment())
    core.detach(one)
    core.received(core.link, wire.Resolved(KEY, KEY), 0.0)
    core.received(core.link, wire.Limit(KEY, 1, 3), 0.0)
    assert core.granted == 3
    assert core.register(1.0).holds == (), "nothing is open, and nobody wants it"
    core.attach(again := attachment())
    assert core.take(again, 1.0) is None, "the new link has told no number yet"


def test_an_answer_to_a_question_that_was_taken_back_is_not_believed_when_it_is_asked_again() -> None:
    """Meanwhile the supervisor may have forgotten the address, which may lead elsewhere by now."""
    core = linked()
    core.attach(other := attachment(OTHER))
    core.received(core.link, wire.Resolved(OTHER, "server"), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    core.attach(one := attachment())
    core.detach(one)
    core.received(core.link, wire.Resolved(KEY, "server"), 0.0)
    core.attach(again := attachment())
    assert core.take(again, 1.0) is None
    assert core.take(other, 1.0) is not None


def test_nor_when_it_has_been_asked_again_meanwhile() -> None:
    """Answers are on their way for some time: this one is to the first question, and the second is asked already."""
    core = linked()
    core.received(core.link, wire.Welcome(1, 1, parts=True), 0.0)
    core.attach(other := attachment(OTHER))
    core.received(core.link, wire.Resolved(OTHER, "server", 1), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    core.attach(one := attachment())
    core.detach(one)
    core.attach(again := attachment())
    assert [m.number for m in core.outgoing() if isinstance(m, wire.Attach)] == [1, 2, 3]
    core.received(core.link, wire.Resolved(KEY, "server", 2), 0.0)
    assert core.take(again, 1.0) is None
    assert core.take(other, 1.0) is not None
    core.received(core.link, wire.Resolved(KEY, "server", 3), 0.0)
    assert core.take(again, 1.0) is not None


def test_a_supervisor_that_does_not_number_its_answers_is_believed() -> None:
    core = linked()
    core.received(core.link, wire.Welcome(1, 1), 0.0)
    core.attach(one := attachment())
    core.received(core.link, wire.Resolved(KEY, "server"), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    assert core.take(one, 0.0) is not None


def test_on_a_new_link_nothing_is_opened_by_an_address_that_has_not_been_placed() -> None:
    """It has parted from the server while the link was away, and the limit is that of the others."""
    core = linked()
    core.attach(one := attachment())
    core.attach(other := attachment(OTHER))
    for key in (KEY, OTHER):
        core.received(core.link, wire.Resolved(key, "server"), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    assert core.take(one, 0.0) is not None
    core.unlinked()
    core.register(1.0)
    core.received(core.link, wire.Resolved(OTHER, "server"), 1.0)
    core.received(core.link, wire.Limit("server", 1, 3), 1.0)
    assert core.take(one, 1.0) is None
    assert core.take(other, 1.0) is not None
    core.received(core.link, wire.Resolved(KEY, "server"), 1.0)
    assert core.take(one, 1.0) is not None


def test_who_comes_again_after_the_goodbye_to_a_server_opens_nothing_by_what_was_told_before() -> None:
    """Two addresses; of the second one it is known where it leads when the server is about to be forgotten."""
    core = linked()
    core.received(core.link, wire.Welcome(1, 1, parts=True), 0.0)
    core.attach(one := attachment())
    core.received(core.link, wire.Resolved(KEY, "server", 1), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    core.attach(two := attachment(OTHER))
    core.received(core.link, wire.Resolved(OTHER, "server", 2), 0.0)
    core.detach(one)
    core.detach(two)
    core.settle(0.0)
    core.settle(FORGET_AFTER - 1)
    core.settle(FORGET_AFTER)
    goodbyes = sent(core, wire.Detach)
    assert wire.Detach("", "server", 1) in goodbyes
    assert {wire.Detach(KEY), wire.Detach(OTHER)} <= set(goodbyes)
    core.attach(again := attachment(OTHER))
    assert core.take(again, 30.0) is None
    assert not core.granted


def test_no_goodbye_to_a_server_while_something_is_open_by_an_address_that_may_lead_there() -> None:
    """The address has parted from the others while the link was away: the registration has said what is open by it, and
    that is charged at the other server. The goodbye would take this back. The process hears where the address leads
    only when the server says who it is; the limit it is told before."""
    core = linked()
    core.attach(one := attachment())
    core.received(core.link, wire.Resolved(KEY, "server"), 0.0)
    core.received(core.link, wire.Limit("server", 1, 3), 0.0)
    serial = core.take(one, 0.0)
    assert serial is not None
    core.unlinked()
    core.register(1.0)
    core.received(core.link, wire.Welcome(1, 1, parts=True), 1.0)
    core.received(core.link, wire.Limit("other", 1, 1), 1.0)
    for now in (1.0, 1.0 + FORGET_AFTER, 30.0):
        core.settle(now)
    assert sent(core, wire.Detach) == []
    core.received(core.link, wire.Resolved(KEY, "server"), 31.0)
    core.received(core.link, wire.Limit("server", 1, 3), 31.0)
    for now in (31.0, 31.0 + FORGET_AFTER):
        core.settle(now)
    assert sent(core, wire.Detach) == [wire.Detach("", "other", 1)]
    core.gone(serial)
