"""The registered members, and sending to them. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from poolmgr import wire
from poolmgr.budget.accounts import Identity
from poolmgr.budget.effects import Tell
from poolmgr.supervisor.clients.link import Link
from poolmgr.supervisor.clients.totals import Totals


class Member(msgspec.Struct):
    """A registered process, as far as the shell needs it.

    Attributes:
        link: its newest link, while that is open.
        descriptors: connections its file-descriptor limit leaves; 0: not known.
    """

    identity: Identity
    link: Link | None
    descriptors: int = 0
    version: int = wire.VERSION
    since: float = 0.0


class Roster:
    """The registered processes.

    Attributes:
        known: by tag.
        by_pid: the tags of each process.
        totals: what their pools have counted.
    """

    def __init__(self) -> None:
        self.known: dict[str, Member] = {}
        self.by_pid: dict[int, set[str]] = {}
        self.totals = Totals()

    def add(self, tag: str, member: Member) -> None:
        self.known[tag] = member
        self.by_pid.setdefault(member.identity.pid, set()).add(tag)

    def remove(self, tag: str) -> Member | None:
        """Forget the member, and return it."""
        self.totals.ended(tag)
        member = self.known.pop(tag, None)
        if member is not None:
            tags = self.by_pid.get(member.identity.pid, set())
            tags.discard(tag)
            if not tags:
                self.by_pid.pop(member.identity.pid, None)
        return member

    def deliver(self, tell: Tell) -> None:
        """Deliver a turn's message to a member, if that link is still its newest."""
        member = self.known.get(tell.tag)
        if member is not None and member.link is not None and member.link.number == tell.link:
            member.link.send(tell.message)

    def send(self, tag: str, message: wire.Message) -> None:
        member = self.known.get(tag)
        if member is not None and member.link is not None:
            member.link.send(message)

    def broadcast(self, tags: Iterable[str], message: wire.Message) -> None:
        frame = wire.encode(message)
        for tag in tags:
            member = self.known.get(tag)
            if member is not None and member.link is not None:
                member.link.send_frame(frame)
