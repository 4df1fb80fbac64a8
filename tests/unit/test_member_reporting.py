"""What a member tells the supervisor, and that who is refused is told of at once."""

from __future__ import annotations

import math

from poolmgr import wire
from poolmgr.member.core.dispatcher import REFUSAL
from poolmgr.member.core.process import Attachment, MemberCore
from poolmgr.member.ports import Usage

ENDPOINT = wire.Endpoint("redis://127.0.0.1:6379")


def connected(limit: int) -> tuple[MemberCore, Attachment]:
    core = MemberCore("pm1.0000000a.00000b.1.1.0000aa")
    attachment = Attachment(ENDPOINT)
    core.attach(attachment)
    core.register(0.0)
    core.received(1, wire.Resolved(ENDPOINT.key, "r"), 0.0)
    core.received(1, wire.Limit("r", 1, limit), 0.0)
    return core, attachment


def usage(lent: int, waiting: int) -> Usage:
    return Usage(lent=lent, idle=0, waiting=waiting, low=0, quiet=0.0, ceiling=100, timeout=math.inf)


def reports(messages: list[wire.Message]) -> list[wire.Report]:
    return [message for message in messages if isinstance(message, wire.Report)]


def sent(core: MemberCore) -> list[wire.Message]:
    list(core.outgoing())
    core.settle(1.0)
    return list(core.outgoing())


def test_a_refusal_is_told_at_once_although_an_older_look_said_that_somebody_waits():
    """While the last permits are taken one after the other, a look finds a caller whose connection is just being
    made. That is no news of a want: who is refused a moment later must not wait for the next report."""
    core, attachment = connected(limit=3)
    attachment.dispatcher.observe(attachment, usage(lent=1, waiting=1), 1.0)
    for _ in range(3):
        assert core.take(attachment, 1.0)
    (told,) = reports(sent(core))
    assert (told.open, told.in_use, told.waiting) == (3, 1, 1)
    assert core.take(attachment, 1.001) is None
    (hurried,) = reports(list(core.outgoing()))
    assert hurried.in_use + hurried.waiting == 4


def test_a_want_that_is_known_is_not_told_twice():
    core, attachment = connected(limit=1)
    assert core.take(attachment, 1.0)
    sent(core)
    assert core.take(attachment, 1.001) is None
    assert len(reports(list(core.outgoing()))) == 1
    assert core.take(attachment, 1.002) is None
    assert not reports(list(core.outgoing()))


def test_a_refusal_is_not_forgotten_for_a_look_that_was_made_before_it():
    """A pool is asked how busy it is without the lock, and may be refused before its answer is taken in. An earlier
    refusal of which nothing has become is no reason to take the new one for as old."""
    core, attachment = connected(limit=1)
    assert core.take(attachment, 1.0)
    assert core.take(attachment, 1.0) is None  # who waited for it was served by a release
    sent(core)
    now = 1.0 + 2 * REFUSAL
    looked = usage(lent=1, waiting=0)
    assert core.take(attachment, now + 0.001) is None
    core.observe(attachment, looked, now)
    core.settle(now)
    assert all(report.waiting for report in reports(list(core.outgoing())))
    assert attachment.dispatcher.wanting
    core.observe(attachment, looked, now + 0.001 + 2 * REFUSAL)
    assert not attachment.dispatcher.wanting, "a later look shows that nobody waits"


def test_a_want_that_closing_connections_will_serve_is_no_reason_to_hurry():
    """All are taken, and some of them are being closed: the limit has room as soon as they are."""
    core, attachment = connected(limit=3)
    serials = [core.take(attachment, 1.0) for _ in range(3)]
    attachment.dispatcher.observe(attachment, usage(lent=1, waiting=0), 1.0)
    sent(core)
    for serial in serials[:2]:
        assert serial is not None
        core.closing(serial)
    assert core.take(attachment, 1.001) is None
    assert not reports(list(core.outgoing()))
