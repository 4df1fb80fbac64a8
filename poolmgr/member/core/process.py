"""One process's permits over all its pools: the member's side of the permit protocol.

PURE. Events go in with a time, messages and effects come out. This module touches no socket, clock, thread, lock
or log. The shell carries events in (:mod:`poolmgr.member.locked`, whose lock lets one thread at a time in) and effects
out (:mod:`poolmgr.member.loop`). The simulation drives exactly this code, hundreds of members at once.

Theory of operation
-------------------
The process may hold ``limit`` sockets to a server, and a supervisor outside says how many that is. All
sockets of one server are in one :class:`~poolmgr.member.core.account.Account`, whichever pool opened them
(see there for the table of a socket's states). A pool, or a connection without a pool, asks
through its :class:`~poolmgr.member.core.dispatcher.Attachment`; the :class:`~poolmgr.member.core.dispatcher.Dispatcher`
of the server decides whom to serve and what to report.

1. *Attach.* The process sends the pool's endpoint to the supervisor, which answers with its server
   (``Resolved``) and a numbered ``Limit``. Until then the endpoint has a dispatcher of its own, with limit 0.
   Endpoints that turn out to be one server move to one dispatcher (:mod:`poolmgr.member.core.directory`).
2. *Take.* While ``open < limit``, a permit is free at once (M1). If not, a report of the waiting caller is
   in :attr:`MemberCore.out` at once, for the waiting thread itself to send; when the limit rises,
   ``Wake`` goes to callers that wait without a pool, and ``Grow`` to the pools that want one, the one
   served longest ago first. If the limits of several servers come to more than the process has
   descriptors for, these are divided (:mod:`poolmgr.member.core.division`), and the part is the bound.
3. *Lowered.* Idle connections are ``Shed`` at once; every release sees ``attachment.surplus`` and asks
   :meth:`MemberCore.give_up`. When ``open <= limit`` the newest sequence is acknowledged (M2).
4. *Closing.* A socket handed over to be closed is counted until its end is certain (M3).
5. *Link lost.* The process keeps what it has and opens nothing, not even in place of what it closes: a
   new supervisor without a snapshot takes a census of our connections, and what opened after that
   would be uncounted. The next registration states ``max(limit, open)`` (M4).
6. *Fork.* The child begins with a core of its own: no limit, no link, no socket (M5).

Reports carry states; the newest replaces all earlier ones. One goes out at once when a caller begins to
wait, when an acknowledgement is due, when the supervisor asks, and when the last spare permit has been
taken; otherwise a few times a second, and only if something has changed.

The shell's loop, after every event and at ``wake``::

    for attachment in core.looks(now):
        core.observe(attachment, pool.usage(reset=True), now)
    settled = core.settle(now)
    send what is in core.out; carry out settled.effects; sleep until settled.wake

More than 400 lines, as one state machine: each message of the supervisor meets each of the states above.
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Iterator

import msgspec

from poolmgr import wire
from poolmgr.member.core.directory import Directory, owners, unresolved
from poolmgr.member.core.dispatcher import NEVER, Attachment, Dispatcher, Effect, Grow, Left, Login, Shed, Try, Wake
from poolmgr.member.core.division import Part, divide
from poolmgr.member.core.explanation import explain
from poolmgr.member.ports import Shortage, Usage

__all__ = ["Attachment", "MemberCore", "Effect", "Grow", "Left", "Login", "Settled", "Shed", "Try", "Wake"]

TROUBLE_EVERY = 0.25
"""Seconds between two messages about the same trouble with the same server."""


class Settled(msgspec.Struct, frozen=True):
    """What the shell must do, and when it must come again (monotonic seconds; infinity: on an event)."""

    effects: tuple[Effect, ...]
    wake: float


class MemberCore:
    """All permits of one process.

    Args:
        tag: the process's name on servers (:func:`poolmgr.own_tag.make`).
        title: what the process is, for people.
        budget: the budget in its own environment, for a warning if the supervisor has another.
        rng: for the jitter after an outage.
    """

    def __init__(self, tag: str, *, title: str = "", budget: str = "", rng: random.Random | None = None) -> None:
        self.tag = tag
        self.title = title
        self.budget = budget
        self.link = 0
        """Number of the newest link; grows with every registration in this process."""
        self.scope = ""
        """Scope that the names of this process's connections bear, from the supervisor (:mod:`poolmgr.tags`)."""
        self._stuck = ""
        """Why the supervisor raises no limits at all, if that is so."""
        self.replaces: tuple[str, ...] = ()
        """Tags that this process had until a goodbye, or until all its descriptors were closed, and whose end may not
        be on a supervisor's disk."""
        self._answered = False
        """Whether a limit ever came: the snapshot then shows what this core has stated in its registration."""
        self.mark = 0
        """It shows the supervisor whether this process has become another program (:func:`identity.mark`)."""
        self.descriptors = 0
        """Connections to all servers that the file-descriptor limit leaves, as the shell has counted; 0: unknown."""
        self._serials = itertools.count(1)
        self.out: deque[wire.Message] = deque()
        """Messages to send on the present link, oldest first. The shell removes each once it is on its way."""
        self.directory = Directory(self.out, rng or random.Random())
        """Which endpoint leads to which server, and the dispatcher of each."""
        self._dispatchers = self.directory.dispatchers
        self._troubles: dict[tuple[str, str], float] = {}

    def forked(self, tag: str) -> MemberCore:
        """Rule M5: the core of a child process, which has no limit, no link and no socket."""
        return MemberCore(tag, title=self.title, budget=self.budget)

    def replaced_by_next(self) -> tuple[str, ...]:
        """The tags that this process's next core replaces, as a goodbye may not have been read. They include those that
        this core has replaced, unless a supervisor certainly remembers that."""
        before = () if self._answered else self.replaces
        return (*before, self.tag) if self.link else before

    # ---- pools that ask --------------------------------------------------------------------------

    def attach(self, attachment: Attachment) -> None:
        """From now on callers ask for connections to its endpoint through it."""
        self.directory.attach(attachment)

    def renew(self, attachment: Attachment, endpoint: wire.Endpoint) -> None:
        """Its pool now has other credentials."""
        self.directory.renew(attachment, endpoint)

    def detach(self, attachment: Attachment) -> None:
        """The pool is gone. Sockets taken through it stay counted until their end."""
        self.directory.detach(attachment)

    def leave(self, attachment: Attachment) -> None:
        """Its pool wants nothing there any more. :class:`Left` follows when nothing is open there."""
        attachment.leaving = True
        attachment.refused_at = 0.0
        attachment.dispatcher.dirty = True

    def spares(self, key: str) -> bool:
        """Whether it is one of several addresses of a name, and has not been reached yet."""
        return self.directory.spares(key)

    # ---- permits ---------------------------------------------------------------------------------

    def serial(self) -> int:
        """A number for the next socket, unique in the process. Needs no lock."""
        return next(self._serials)

    def take(self, attachment: Attachment, now: float, waiter: object = None, serial: int = 0) -> int | None:
        """Rule M1: the serial number of a permit, or None. A refusal may leave a report in :attr:`out`.

        Args:
            waiter: a caller that waits without a pool, as it was (or will be) given to :meth:`queue`.
            serial: the number to use, from :meth:`serial`; 0: the next one.
        """
        serial = serial or self.serial()
        dispatcher, refused_at = attachment.dispatcher, attachment.refused_at
        self._doubt(attachment, now)
        if not self.directory.is_placed(attachment):
            dispatcher.refuse(attachment, now, waiter)
            return None
        if dispatcher.take(attachment, serial, now, waiter):
            return serial
        self._divide(now)  # again, with this need
        if dispatcher.account.room is not None and dispatcher.take(attachment, serial, now, waiter):
            attachment.refused_at = refused_at
            return serial
        if self.linked:
            report = dispatcher.hurry(now)
            if report is not None:
                self.out.append(report)
                dispatcher.hurried(report, now)
        return None

    def queue(self, attachment: Attachment, waiter: object) -> None:
        """``waiter`` (any object) waits for a permit without a pool; :class:`Wake` will name it."""
        attachment.dispatcher.waiters[waiter] = attachment

    def unqueue(self, waiter: object) -> None:
        """``waiter`` does not wait any more, served or not."""
        for dispatcher in self._dispatchers.values():
            if dispatcher.waiters.pop(waiter, None) is not None:
                dispatcher.dirty = True

    def give_up(self, attachment: Attachment, now: float) -> bool:
        """Rule M2 on the release path: whether the caller must close instead of keeping. Counts it."""
        dispatcher = attachment.dispatcher
        yes = dispatcher.give_up(attachment, now)
        dispatcher.publish()
        return yes

    def closing(self, serial: int) -> bool:
        """Rule M3: the socket was handed over to be closed; its end is not certain yet.

        Returns False if no live socket has that number: it was already handed over.
        """
        for dispatcher in self._dispatchers.values():
            if dispatcher.account.start_closing(serial):
                dispatcher.touched()
                return True
        return False

    def lost(self, serial: int) -> None:
        """Rule M3: the server has not confirmed in time. The permit stays charged until a proof."""
        for dispatcher in self._dispatchers.values():
            if dispatcher.account.give_up_waiting(serial):
                dispatcher.tell_lost = True
                dispatcher.touched()
                return

    def gone(self, serial: int) -> None:
        """The socket's end is certain, or it was never connected. Repeats are harmless."""
        for dispatcher in self._dispatchers.values():
            if dispatcher.account.ended(serial):
                dispatcher.touched()
                return

    def trouble(self, attachment: Attachment, kind: str, detail: str, now: float, began: float = 0.0) -> None:
        """A connect failed: report it to the supervisor, which looks after it."""
        dispatcher = attachment.dispatcher
        if attachment.untried:
            attachment.untried = False
            dispatcher.publish()
        server = dispatcher.account.server
        late = now - self._troubles.get((server, kind), -NEVER) >= TROUBLE_EVERY
        if self.linked and server and (late or dispatcher.health.trying):
            self._troubles[server, kind] = now
            dispatcher.health.trying = False
            self.out.append(wire.Trouble(server, kind, detail, attachment.endpoint.key, began))

    def shut_out(self, attachment: Attachment, gate: wire.Gate, why: str, now: float) -> None:
        """Rule F5: a connection found its gate shut. Nothing more is opened there before another limit comes."""
        dispatcher = attachment.dispatcher
        if dispatcher.account.shut_out(gate, now) and self.linked:
            self.out.append(wire.Trouble(dispatcher.account.server, "gate", why, attachment.endpoint.key))
            dispatcher.touched()

    def let_in(self, attachment: Attachment, gate: wire.Gate, until: float) -> None:
        """A connection found its gate open: the lease stands until then (monotonic seconds)."""
        attachment.dispatcher.account.let_in(gate, until)

    def _doubt(self, attachment: Attachment, now: float) -> None:
        """Rule F5: the lease may be over. One connection of the supervisor's finds out, instead of all callers'."""
        account = attachment.dispatcher.account
        if account.gate is not None and account.in_doubt(now) and account.shut_out(account.gate, now) and self.linked:
            self.out.append(wire.Trouble(account.server, "doubt", way=attachment.endpoint.key))

    def reached(self, attachment: Attachment, now: float) -> None:
        """A connection was opened: the server is not down."""
        attachment.dispatcher.reached(now)

    # ---- the link --------------------------------------------------------------------------------

    def register(self, now: float) -> wire.Hello:
        """Rule M4: a new link begins; the old one was closed unread. Its first message.

        Nothing is opened until a numbered limit has come on it.
        """
        self.link += 1
        self.out.clear()
        self._troubles.clear()
        self.directory.register()
        holds = []
        for dispatcher in self._dispatchers.values():
            dispatcher.relinked(now)
            stated = dispatcher.account._stated()
            if dispatcher.account.server and stated:
                keys = tuple(sorted({a.endpoint.key for a in owners(dispatcher)}))
                account = dispatcher.account
                holds.append(
                    wire.Hold(account.server, keys, stated, account.open, _by(dispatcher), account.leases_of_open())
                )
        return wire.Hello(
            tag=self.tag,
            link=self.link,
            versions=(wire.OLDEST, wire.VERSION),
            holds=tuple(holds),
            endpoints=tuple(self.directory.endpoints.values()),
            title=self.title,
            budget=self.budget,
            descriptors=self.descriptors,
            replaces=self.replaces,
            scope=self.scope,
            mark=self.mark,
        )

    def unlinked(self) -> None:
        """The link is lost: its sequences and acknowledgements are void, and nothing more is opened."""
        self._stuck = ""
        self.out.clear()
        self.directory.unlinked()

    def goodbye(self) -> wire.Bye | None:
        """The end, if nothing is open: after this message the supervisor gives all permits to others. So from
        here on nothing is opened: the link counts as lost. None: something is open."""
        if self.open:
            return None
        self.unlinked()
        return wire.Bye()

    def _listens_to(self, link: int) -> bool:
        """Rule M4: messages on an old link are ignored."""
        return self.linked and link == self.link

    def received(self, link: int, message: wire.Message, now: float) -> None:
        """A message that came on link number ``link``. Kinds that do not concern permits are ignored."""
        if not self._listens_to(link):
            return
        match message:
            case wire.Limit(server=server, seq=seq, limit=limit, gate=gate):
                self._answered = True
                self.directory.dispatcher(server).told(seq, limit, gate)
                self._divide(now)  # before any caller opens within it
            case wire.Welcome(scope=scope, parts=parts):
                self.directory.parts = parts
                self.scope = scope
                self._stuck = ""
            case wire.Resolved(endpoint=key, server=server, number=number):
                self.directory.answered(key, server, number)
            case wire.Ask(server=server, guard=guard, login=key):
                for dispatcher in self._dispatchers.values():
                    if key and any(attachment.endpoint.key == key for attachment in dispatcher.attachments):
                        dispatcher.logins.add(key)
                        dispatcher.dirty = True
                if server in self._dispatchers:
                    self._dispatchers[server].asked(guard)
            case wire.Gone(server=server, serials=serials) if server in self._dispatchers:
                dispatcher = self._dispatchers[server]
                for serial in serials:
                    dispatcher.account.proven(serial)
                dispatcher.touched()
            case wire.Health(server=server):
                # An outage may be known before its server: it then bears the endpoint's name.
                for name in (server, unresolved(server)):
                    if name in self._dispatchers:
                        self._dispatchers[name].hears(message, now)
            case wire.Picture(server="", stuck=stuck):
                self._stuck = stuck
            case wire.Picture(server=server) if server in self._dispatchers:
                self._dispatchers[server].pictured(message)

    # ---- the turn --------------------------------------------------------------------------------

    @property
    def linked(self) -> bool:
        """Whether there is a link to a supervisor."""
        return self.directory.linked

    @property
    def dirty(self) -> bool:
        """Whether :meth:`settle` has something to do before the time it last named."""
        for dispatcher in self._dispatchers.values():  # noqa: SIM110 (asked after every event: a generator is slower)
            if dispatcher.dirty:
                return True
        return False

    @property
    def wanting(self) -> bool:
        """Whether a supervisor is needed: a caller wants a permit and there is none, or a server is believed to be
        down: then no caller asks for one, and only a supervisor can say that the server is back."""
        dispatchers = self._dispatchers.values()
        return any(dispatcher.wanting for dispatcher in dispatchers) or (
            not self.linked
            and any(dispatcher.attachments and dispatcher.outage is not None for dispatcher in dispatchers)
        )

    @property
    def unanswered(self) -> bool:
        """Whether the supervisor owes an answer: an endpoint without a server, a server without a limit."""
        return any(dispatcher.attachments and not dispatcher.account.seq for dispatcher in self._dispatchers.values())

    @property
    def open(self) -> int:
        """Sockets at all servers."""
        return sum(dispatcher.account.open for dispatcher in self._dispatchers.values())

    @property
    def granted(self) -> int:
        """Permits at all servers."""
        return sum(dispatcher.account.limit for dispatcher in self._dispatchers.values())

    def live(self) -> list[int]:
        """Serial numbers of sockets that are neither closing nor lost."""
        return [serial for dispatcher in self._dispatchers.values() for serial in dispatcher.account.live]

    def looks(self, now: float) -> list[Attachment]:
        """Pools to observe before :meth:`settle`."""
        due = [dispatcher for dispatcher in self._dispatchers.values() if dispatcher.look_due(now)]
        if any(dispatcher.cramped for dispatcher in due):
            due = list(self._dispatchers.values())  # their idle connections may make room
        return [a for dispatcher in due for a in dispatcher.attachments if a.pooled]

    def observe(self, attachment: Attachment, usage: Usage, now: float) -> None:
        """A pool's own report; asking for it has reset its low-water mark."""
        attachment.dispatcher.observe(attachment, usage, now)

    def serve(self) -> tuple[Effect, ...]:
        """Only the quickest part of :meth:`settle`: serve the waiting callers that can be served now."""
        effects: list[Effect] = []
        for dispatcher in self._dispatchers.values():
            if dispatcher.dirty:
                dispatcher.serve(effects)
        return tuple(effects)

    def settle(self, now: float) -> Settled:
        """Decide all that is due. Messages are in :attr:`out`."""
        effects: list[Effect] = []
        send: list[wire.Message] = []
        wake = NEVER
        self._divide(now)
        for dispatcher in self._dispatchers.values():
            wake = min(wake, dispatcher.settle(now, send, effects))
        self.out.extend(send)
        return Settled(tuple(effects), min(wake, self.directory.tidy(now)))

    def _divide(self, now: float) -> None:
        """Divide the descriptors if the limits of all servers come to more than there are."""
        dispatchers = self._dispatchers.values()
        if not self.descriptors or sum([max(d.account.limit, d.account.open) for d in dispatchers]) <= self.descriptors:
            for dispatcher in dispatchers:  # the usual case, at each report
                if dispatcher.descriptors != self.descriptors or dispatcher.account.room is not None:
                    dispatcher.given(Part(self.descriptors))
            return
        for dispatcher, part in zip(
            dispatchers, divide(self.descriptors, [dispatcher.stake(now) for dispatcher in dispatchers]), strict=True
        ):
            dispatcher.given(part)

    def outgoing(self) -> list[wire.Message]:
        """Take all messages out of :attr:`out`, for a shell that cannot be interrupted (tests, the simulation)."""
        messages = []
        while self.out:
            messages.append(self.out.popleft())
        return messages

    def explain(self, attachment: Attachment) -> Shortage:
        """Why there is no permit now."""
        return explain(attachment, self._stuck)

    def dispatchers(self) -> Iterator[Dispatcher]:
        """All dispatchers, for status, tests and the simulation."""
        return iter(self._dispatchers.values())

    def __repr__(self) -> str:
        return f"<MemberCore link={self.link} linked={self.linked} {list(self._dispatchers.values())!r}>"


def _by(dispatcher: Dispatcher) -> dict[str, int]:
    """Number of sockets by endpoint, if there is more than one endpoint."""
    account = dispatcher.account
    counts: dict[str, int] = {}
    for states in (account.live, account.closing, account.lost):
        for owner in states.values():
            counts[owner.endpoint.key] = counts.get(owner.endpoint.key, 0) + 1
    return counts if len(counts) > 1 else {}
