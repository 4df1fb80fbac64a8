"""The pools at one server: which are served, which must shed, and what is reported at once.

Pure, like everything under :mod:`poolmgr.member.core.process`. The account holds the *rules* (what may be opened,
what may be acknowledged); here is the *policy* between them: the order of service and the patience
with a sibling pool. A mistake here can make a caller wait, but never overspend.

More than 400 lines: all methods read and write one queue of waiting callers and pools.
"""

from __future__ import annotations

import random

import msgspec

from poolmgr import wire
from poolmgr.member.core.account import Account
from poolmgr.member.core.bounds import ANSWER, OTHERS, SERVER, SUPERVISOR, Cause
from poolmgr.member.core.demand import SLOT, Demand
from poolmgr.member.core.division import Part, Stake
from poolmgr.member.core.health import ServerHealth
from poolmgr.member.core.reporting import Told, describe, exceeds
from poolmgr.member.ports import Outage, Usage

NEVER = float("inf")

PATIENCE = 0.005
"""Seconds a pool waits for the supervisor before an idle connection of a sibling is closed for it."""

STARVED = 0.1
"""Seconds after which a sibling without idle connections gives one up at its next release."""

LOOK_WHILE_SHORT = (PATIENCE, 0.05)
"""Seconds between two looks at the pools while a caller waits: soon at first, then less often."""

LOOK_WHILE_QUIET = 1.0
"""The same while nothing happens; :data:`~poolmgr.member.core.demand.SLOT` otherwise."""

PROMISE = 0.25
"""Seconds that a caller has to close as promised; after that the next caller is asked."""

REFUSAL = 0.1
"""Seconds for which a refused pool counts as waiting, though its queue looks empty: its caller may be joining it."""


class Shed(msgspec.Struct, frozen=True):
    """The pool must close up to ``count`` idle connections."""

    attachment: Attachment
    count: int


class Grow(msgspec.Struct, frozen=True):
    """A permit may be free now."""

    attachment: Attachment


class Wake(msgspec.Struct, frozen=True):
    """A caller that waits without a pool may try again."""

    waiter: object


class Try(msgspec.Struct, frozen=True):
    """The pool must open a connection: the supervisor wants to know whether the server answers."""

    attachment: Attachment


class Login(msgspec.Struct, frozen=True):
    """The pool must report its present credentials: the server refuses those that it was attached with."""

    attachment: Attachment


class Left(msgspec.Struct, frozen=True):
    """No socket is open any more at an address that its pool has left."""

    attachment: Attachment


Effect = Shed | Grow | Wake | Try | Login | Left


class Attachment:
    """One pool's (or one pool-less endpoint's) place at a dispatcher. The shell subclasses it.

    Attributes:
        surplus: see :class:`poolmgr.member.ports.Permits`; the dispatcher keeps it up to date.
        outage: likewise.
        pending: likewise.
        pooled: whether a pool stands behind it, whose usage can be observed.
        refused_at: when it was last refused a permit, with no :class:`Grow` since; 0: it was not.
        served_at: when it last got a permit; of several that want one, the one served longest ago is first.
        must_yield: it must give up one connection at a release, for a starved sibling.
        leaving: its pool wants nothing there any more; it stays while it has sockets.
        untried: its way to the server (credentials, TLS) is new here, so the present outage says nothing about it.
    """

    def __init__(self, endpoint: wire.Endpoint, *, pooled: bool = True) -> None:
        self.endpoint = endpoint
        self.pooled = pooled
        self.surplus = 0
        self.outage: Outage | None = None
        self.pending: Cause = SUPERVISOR
        self.demand = Demand()
        self.refused_at = 0.0
        self.served_at = 0.0
        self.must_yield = False
        self.leaving = False
        self.untried = False
        self.dispatcher = Dispatcher()

    @property
    def sockets(self) -> int:
        """Live sockets taken through this attachment."""
        return sum(1 for owner in self.dispatcher.account.live.values() if owner is self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.endpoint.key} surplus={self.surplus} {self.dispatcher!r}>"


class Dispatcher:
    """Pools, waiters and reports of one :class:`~poolmgr.member.core.account.Account`."""

    def __init__(self, server: str = "", rng: random.Random | None = None, *, linked: bool = False) -> None:
        self.account: Account[Attachment] = Account(server)
        self.linked = linked
        """Whether there is a link on which a limit may come."""
        self.refused = False
        """The supervisor was asked for more, and its last answer is that there is no more."""
        self.attachments: list[Attachment] = []
        self.waiters: dict[object, Attachment] = {}
        """Callers in :meth:`Permits.wait`, first come first served, before any pool's growth."""
        self.health = ServerHealth(rng or random.Random())
        self.picture: wire.Picture | None = None
        self.descriptors = 0
        """Connections that the process's file-descriptor limit leaves to this server; 0: unknown."""
        self.tell_lost = False
        self.dirty = True
        """Something happened that :meth:`settle` must look at soon."""
        self.logins: set[str] = set()
        """Endpoints whose credentials are asked for."""
        self.forget_at = NEVER
        """When it is forgotten, if nothing attaches."""
        self._look_at = 0.0
        self._slot_at = 0.0
        self._guard = PATIENCE
        self._asked = False
        self._measure_at = NEVER
        self._short_since = 0.0
        self._told = Told()

    def __repr__(self) -> str:
        a = self.account
        return (
            f"<Dispatcher {a.server or '(unresolved)'} limit={a.limit} seq={a.seq} acked={a.acked} live={len(a.live)} "
            f"closing={len(a.closing)} lost={len(a.lost)} waiters={len(self.waiters)}>"
        )

    # ---- taking and giving up ---------------------------------------------------------------------

    def take(self, attachment: Attachment, serial: int, now: float, waiter: object = None) -> bool:
        """A permit for ``serial``, unless the rules or earlier waiters are against it."""
        spoken_for = bool(self.waiters) and waiter not in self.waiters and self.account.available <= len(self.waiters)
        if not spoken_for and self.account.take(serial, attachment):
            attachment.served_at = now
            if not self.account.available:
                self.dirty = True  # the last spare one: the supervisor may have more
            return True
        self.refuse(attachment, now, waiter)
        return False

    def refuse(self, attachment: Attachment, now: float, waiter: object = None) -> None:
        """A caller has asked for a permit and gets none now."""
        if waiter is None:
            attachment.refused_at = now  # the newest refusal: an older look does not show it
        if not self._short_since:
            self._short_since = now
            self._look_at = now
            self.dirty = True
        self.publish()

    def hurry(self, now: float) -> wire.Report | None:
        """The report of a refusal just now, if a larger limit is needed and the supervisor does not
        know it yet.

        It acknowledges nothing new: a signal handler's exception may yet keep it from being sent.
        """
        if self._told.short or not self.account.seq:
            return None
        report = self._report(now)
        if not exceeds(report, self.account.limit):
            return None
        return msgspec.structs.replace(report, acked=self.account.acked)

    def hurried(self, report: wire.Report, now: float) -> None:
        """That report is on its way. The next look at the pools may show more."""
        self._asks(report, now, provisional=True)

    def _asks(self, report: wire.Report, now: float, *, provisional: bool = False) -> None:
        """This report is on its way; if it begins to ask for more, no refusal has come yet."""
        before = self._told.short
        self._told.tell(report, self.account.limit, now, provisional=provisional)
        if self._told.short and not before:
            self.refused = False
            self.publish()

    def give_up(self, attachment: Attachment, now: float) -> bool:
        """Whether to close a connection instead of releasing it (rule M2)."""
        if attachment.must_yield:
            attachment.must_yield = False
            return True
        return self.account.give_up(now)

    def publish(self) -> None:
        """Keep the values up to date that pools read without a lock."""
        surplus = self.account.surplus
        for attachment in self.attachments:
            attachment.surplus = surplus + attachment.must_yield
            attachment.outage = None if attachment.untried else self.outage
            attachment.pending = self.pending

    @property
    def outage(self) -> Outage | None:
        """None: the server is not known to be down."""
        return self.health.outage

    @property
    def pending(self) -> Cause:
        """What stands between a caller and a permit that it is refused now."""
        if not self.account.seq:
            return SERVER if self.linked else SUPERVISOR
        if self.account.shut:
            return ANSWER
        # Below the limit, descriptors are missing: no supervisor can give those.
        return ANSWER if not self.refused and self.account.open >= self.account.limit else OTHERS

    # ---- what arrives ----------------------------------------------------------------------------

    def told(self, seq: int, limit: int, gate: wire.Gate | None = None) -> None:
        """A numbered limit on the present link."""
        before = self.account.limit
        if self.account.told(seq, limit, gate):
            self.dirty = True
            self.refused = self.refused and limit <= before
            self.publish()
            if self.account.surplus:
                self._look_at = 0.0

    def pictured(self, picture: wire.Picture) -> None:
        """The holders of permits: the supervisor sends this to members that wait in vain."""
        self.picture = picture
        self.refused = True
        self.publish()

    def asked(self, guard: float) -> None:
        self._guard = guard
        self._asked = True
        self._look_at = 0.0
        self.dirty = True

    def hears(self, health: wire.Health, now: float) -> None:
        """The supervisor's word on the server's health."""
        self.health.heard(health, now)
        if not health.up:
            for attachment in self.attachments:
                attachment.untried = False  # the supervisor says so of ways that it has tried
        self.dirty = True

    def reached(self, now: float) -> None:
        """A connection was opened during an outage, or because the supervisor had asked for it."""
        self.health.reached(now)
        self._asked = self.dirty = True

    def relinked(self, now: float) -> None:
        """A link begins: nothing has been reported on it."""
        self.account.forget_link()
        self.account.asked_at = now  # whatever comes on this link was sent later
        self.linked, self.refused = True, False
        self._told = Told()
        self._asked = False
        self._measure_at = NEVER
        self.picture = None
        self.tell_lost = bool(self.account.lost)
        self.health.relinked(now)
        self.dirty = True
        self.publish()

    def unlinked(self) -> None:
        self.account.forget_link()
        self.linked = False
        self.publish()

    # ---- descriptors -----------------------------------------------------------------------------

    def stake(self, now: float) -> Stake:
        """This server's side of the division, while descriptors do not suffice for all limits."""
        account = self.account
        return Stake(
            limit=account.limit,
            need=self._report(now).peak,
            kept=len(account.live) + len(account.lost),
            open=account.open,
        )

    def given(self, part: Part) -> None:
        """This server's part of what descriptors leave."""
        self.descriptors = part.ceiling
        self.account.room = part.room

    @property
    def cramped(self) -> bool:
        """Whether a caller waits for whom other servers' connections leave no room."""
        account = self.account
        return account.room is not None and account.room < account.limit and self.wanting

    # ---- looking ---------------------------------------------------------------------------------

    def look_due(self, now: float) -> bool:
        return now >= min(self._look_at, self._measure_at)

    def observe(self, attachment: Attachment, usage: Usage, now: float) -> None:
        attachment.demand.observe(usage, now)
        if not usage.waiting and attachment.refused_at and now - attachment.refused_at > REFUSAL:
            attachment.refused_at = 0.0

    # ---- deciding --------------------------------------------------------------------------------

    @property
    def wanting(self) -> bool:
        """Whether a caller or pool here wants a permit and there is none."""
        if self.account.available > 0:
            return False
        return bool(self.waiters) or any(a.refused_at or self._missing(a) for a in self.attachments)

    def touched(self) -> None:
        """Sockets have changed their state."""
        self.dirty = True
        if self.account._ack_due():
            self._look_at = 0.0  # recalled sockets are closed: the report must show what is in use now
        self.publish()

    def settle(self, now: float, send: list[wire.Message], effects: list[Effect]) -> float:
        """Do what is due, adding to ``send`` and ``effects``; returns when to come again."""
        self.dirty = False
        looked = self.look_due(now)
        account = self.account
        if account.promised and now >= account.promised_at + PROMISE:
            account.promised = 0
        if self.health.lifts(now) and account.available:
            effects.extend(Grow(attachment) for attachment in self.attachments)
        self._shed(account.surplus, None, effects)
        self.serve(effects)
        if self.logins:
            keys, self.logins = self.logins, set()
            effects.extend(Login(a) for a in self.attachments if a.pooled and a.endpoint.key in keys)
        effects.extend(Left(a) for a in self.attachments if a.leaving and not a.sockets)
        if self.health.takes_trial():
            pools = [attachment for attachment in self.attachments if attachment.pooled]
            effects.extend(Try(a) for a in sorted(pools, key=lambda a: a.demand.usage.quiet)[:1])
        if self.outage is not None:
            # To fail at once.
            effects.extend(Wake(waiter) for waiter, owner in self.waiters.items() if not owner.untried)
        short = self.wanting
        for attachment in self.attachments:
            if not short or attachment.demand.usage.idle:
                attachment.must_yield = False  # not needed, or an idle one can be taken without waiting for a release
        if not short:
            self._short_since = 0.0
        elif not self._short_since:
            self._short_since = now
        if short and account.seq and not account.shut:
            self._reassign(now, effects)
        wake = self._tell(now, short, send) if account.seq else NEVER
        if looked:
            self._schedule(now, short)
        self.publish()
        return min(wake, self._look_at, self._measure_at, self.health.lift_at, account.promised_at + PROMISE
                   if account.promised else NEVER)  # fmt: skip

    def _schedule(self, now: float, short: bool) -> None:
        """When to look next, and when windows of measurement end and begin."""
        pools = [a for a in self.attachments if a.pooled]
        active = any(a.demand.usage.quiet < LOOK_WHILE_QUIET or a.demand.usage.waiting for a in pools)
        soon, late = LOOK_WHILE_SHORT
        pause = min(late, max(soon, (now - self._short_since) / 2))
        self._look_at = now + (pause if short else SLOT if active else LOOK_WHILE_QUIET)
        if not pools and not short:
            self._look_at = NEVER
        if now >= self._measure_at:
            self._measure_at = NEVER
        if now >= self._slot_at and self._measure_at == NEVER:
            self._slot_at = now + SLOT
            for attachment in pools:
                attachment.demand.start_window(self._guard)

    def _shed(self, count: int, spared: Attachment | None, effects: list[Effect], guard: float | None = None) -> int:
        """Ask for idle connections, from the pool with most first, pools with waiters last; how many were asked for."""
        asked = 0
        order = sorted(self.attachments, key=lambda a: (a.demand.waiting > 0, -a.demand.usage.idle))
        for attachment in order:
            demand = attachment.demand
            idle = demand.usage.idle if guard is None else demand.unneeded(guard)
            part = min(count - asked, idle)
            if part > 0 and attachment is not spared:
                effects.append(Shed(attachment, part))
                demand.shed(part)
                asked += part
        return asked

    def serve(self, effects: list[Effect]) -> None:
        """Hand out available permits: waiting callers first, then pools, the one served longest ago first.

        Not in the order of their refusal: all get :class:`Grow`, the first takes the permit and the others are
        refused; the first is refused the next one before them, and would be first again.
        """
        available = self.account.available
        if available <= 0:
            return
        effects.extend(Wake(waiter) for waiter in list(self.waiters)[:available])
        if available <= len(self.waiters):
            return
        wanting = [a for a in self.attachments if a.refused_at or self._missing(a)]
        for attachment in sorted(wanting, key=lambda a: a.served_at):
            attachment.refused_at = 0.0
            effects.append(Grow(attachment))

    def _missing(self, attachment: Attachment) -> int:
        """Callers of a pool for whom no connection is on its way yet."""
        if not attachment.demand.waiting:
            return 0
        usage = attachment.demand.usage
        connecting = max(0, attachment.sockets - usage.lent - usage.idle)
        return max(0, attachment.demand.waiting - connecting)

    def _reassign(self, now: float, effects: list[Effect]) -> None:
        """No permit came from the supervisor: close a sibling's idle connection for the pool that waits."""
        waited = now - self._short_since
        if waited < PATIENCE:
            return
        short = [a for a in self.attachments if a.refused_at or self._missing(a)]
        under_way = len(self.account.closing) + self.account.promised + sum(a.must_yield for a in self.attachments)
        needed = len(self.waiters) + sum(max(1, self._missing(a)) for a in short) - under_way
        if needed <= 0:
            return
        spared = short[0] if len(short) == 1 and not self.waiters else None
        if self._shed(needed, spared, effects, None if waited >= STARVED else self._guard):
            return
        if waited >= STARVED and len(self.attachments) > 1 and not under_way:
            poor = min((a.sockets for a in short), default=0)
            rich = max(self.attachments, key=lambda a: a.sockets)
            if rich.sockets > poor + 1 or (rich.sockets > poor and not poor):
                rich.must_yield = True

    # ---- reporting -------------------------------------------------------------------------------

    def _report(self, now: float) -> wire.Report:
        return describe(
            self.account,
            self.attachments,
            len(self.waiters),
            guard=self._guard,
            descriptors=self.descriptors,
            reached=self.health.reached_at,
            now=now,
        )

    def _tell(self, now: float, short: bool, send: list[wire.Message]) -> float:
        """Send the report if it is due; returns when the next is."""
        account = self.account
        if self.tell_lost:
            self.tell_lost = False
            send.append(wire.Lost(account.server, tuple(sorted(account.lost))))
        at_once = account._ack_due() or self._asked or now >= self._measure_at
        report = self._report(now)
        at_once = self.health.is_contradicted(report.replied) or at_once
        at = now if at_once else self._told.due(report, account.limit, short=short)
        if at <= now:
            send.append(report)
            account.acknowledged(report.acked)
            self._asks(report, now)
            at = NEVER
        if self._asked:
            self._asked = False
            if not all(a.demand.certain(self._guard) for a in self.attachments if a.pooled):
                self._measure_at = now + self._guard
                for attachment in self.attachments:
                    attachment.demand.start_window(self._guard)
        return at
