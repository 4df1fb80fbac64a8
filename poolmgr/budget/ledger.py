"""The ledger: how many connections each process may hold, and why that can never be too many.

Theory of operation
===================

For each server there is a *budget*: the connections that all our processes together may hold. The
ledger keeps three kinds of claims against it::

    Σ charge of members  +  Σ quarantine  +  own   <=   budget          (the invariant)

*Charge* is what a member may have open now: the largest limit it was sent and has not yet replaced,
by acknowledgement, with a smaller one. *Quarantine* is what dead processes may have left open on the
server. *Own* counts the supervisor's own connections.

These methods change these numbers, one for each way a permit can move. Each keeps the invariant, but for
``register``, which writes down what is so already:

=================== ======================================================== ==========
``_raise``          free → charge. The only way up; checks the sum.          rule S1
``_lower``, ``_ack``  a smaller limit is sent; the charge falls only when    rule S2
                    the member has acknowledged that sequence on that link.
``exited``          charge → quarantine, when the *process* is gone.         rule S3
``proven``          quarantine → free, when a look at the server has shown
                    none of its connections any more.                        rule S3
``register``        charge := what the member states it holds or may open.   rule M4, S4
``leave``,          charge → free, when the member states that it holds      rule M4
``leave_one``       nothing and has heard of all limits that it was sent.
``_grant_own``,     free → own → free: the supervisor's own connections.     rule S5
``return_own``
=================== ======================================================== ==========

Two more files write claims: :mod:`poolmgr.budget.recovery` rebuilds them after a crash (rule S4), and
:mod:`poolmgr.budget.merging` moves them when two servers turn out to be one, or one to be two.

In a fleet the budget is at most this host's lease (:mod:`poolmgr.fleet`), and connections bear the lease's name. A
member that holds connections under another name gets the limit 0, and is raised when it holds none (``_purge``,
rule F7).

:mod:`poolmgr.budget.sharing` decides *which* members should get more or less; the rules hold
whatever it says. Nothing here does I/O, reads a clock or starts a thread: every event brings its time
(monotonic seconds), and :meth:`Ledger.settle` returns what must be done, in a :class:`Turn`. The
shell (:mod:`poolmgr.supervisor.committer`) must write the snapshot *before* it acts on a turn that says
``persist``; if it cannot, it calls :meth:`Ledger.abandon`.

More than 400 lines, so that all that can move a permit is read in one file.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping

import msgspec

from poolmgr.budget import recalls, sharing
from poolmgr.budget.accounts import Account, Identity, Quarantine, Quarantined, Server
from poolmgr.budget.effects import Tell, Turn
from poolmgr.fleet.lease import SavedLease
from poolmgr.wire import Ask, Gate, Limit, Report

__all__ = ["Identity", "Ledger", "Member", "Tell", "Turn"]

DEPARTED_KEPT = 4096
"""How many tags of departed processes are remembered, to ignore what they sent before."""

MOST_SCOPES = 16
"""How many scopes are known at the same time."""

RETRY_SNAPSHOT = 0.5
"""Seconds until raises are tried again after a failed write of a snapshot."""


class Member(msgspec.Struct):
    """A registered process; its accounts are with the servers."""

    identity: Identity
    link: int = 0
    """Number of its newest link; 0: read from a snapshot and not registered yet."""
    linked: bool = False
    ceiling: int = 0
    """How many connections its limit of open files left when it registered; 0: not known."""


class Ledger:
    """All servers, all members. See the module's theory of operation.

    Args:
        owner: the supervisor's own process; its connections bear its tag.
        rng: jitter of the rotation's turns.
        fleet: key of the fleet's table; empty: this host is in no fleet. In a fleet nothing may be opened at a server
            before :meth:`let_in`.
    """

    def __init__(self, *, owner: Identity | None = None, rng: random.Random | None = None, fleet: str = "") -> None:
        self.fleet = fleet
        self.owner = owner or Identity(tag="", pid=0)
        self.servers: dict[str, Server] = {}
        self.members: dict[str, Member] = {}
        self.restarts = 0
        """Earlier supervisors that ended with permits charged."""
        self.partial = False
        """A snapshot was lost: unknown members may live, until they have had time to register (S4)."""
        self.scopes: dict[str, None] = {}
        """Scopes that the names of our connections may bear (:mod:`poolmgr.tags`): the supervisor's, and those of
        earlier ones that members have brought along."""
        self._departed: dict[str, None] = {}
        self._touched: set[str] = set()
        self._wakes: dict[str, float] = {}
        self._unsaved = False
        self.stuck = False
        """The last turn's snapshot could not be written."""
        self._rng = rng or random.Random()

    # ---- servers and budgets ----------------------------------------------------------------------

    def server(self, server: str, *, aliases: Iterable[str] = (), run_id: str = "") -> Server:
        """The server, made known if it is new. A new one is held: nothing is raised until
        :meth:`hold_raises` says that its identity is known. A changed ``run_id`` (a restart) keeps
        the ledger: the old process's connections ended with it."""
        known = self.servers.get(server)
        if known is None:
            known = self.servers[server] = Server(server, gate=Gate(self.fleet, "", "") if self.fleet else None)
        known.aliases.update(aliases)
        if run_id and run_id != known.run_id:
            known.run_id = run_id
            self._unsaved = True
        return known

    def set_budget(
        self, server: str, budget: int, now: float, *, operator: str | None = None, spares_used: bool = False
    ) -> None:
        """The effective budget. When it shrinks below what is charged, nothing is raised until enough
        has come back.

        Args:
            operator: the operator's word for it, kept over restarts.
            spares_used: only unused permits shall come back.
        """
        known = self.servers[server]
        known.spares_used = spares_used
        if operator is not None and operator != known.operator:
            known.operator = operator
            self._unsaved = True
        if budget != known.budget:
            known.budget = budget
            self._forgive(known)
            self._unsaved = True
            self._touched.add(server)

    def forget_operator(self, server: str) -> None:
        """The operator withdraws the word: the environment's holds again."""
        self.servers[server].operator = None
        self._unsaved = True

    def hold_raises(self, server: str, held: bool) -> None:
        """Whether nothing may be raised: the run_id is not known yet, or a census is not done. While unknown
        members may live (:attr:`partial`), nothing is, whatever ``held`` says."""
        known = self.servers[server]
        held = held or self.partial or known.search
        if held != known.held:
            known.held = held
            self._touched.add(server)

    def let_in(self, server: str, lease: SavedLease | None, gate: Gate | None) -> None:
        """What members' new connections have to ask there from now on, and the lease as the snapshot must have it.
        All members are sent their limits again, with the gate; what bears another name is purged.

        Args:
            gate: None: nothing is to be asked, since that server has no table.
        """
        known = self.servers[server]
        if lease != known.lease:
            known.lease, self._unsaved = lease, True
        same = gate is not None and known.gate is not None and _without_time(gate) == _without_time(known.gate)
        before, known.gate = known.gate, gate
        if not same and gate != before:
            for account in known.accounts.values():
                account.old_gate = True
            self._touched.add(server)

    def let_in_again(self, server: str, tag: str) -> None:
        """The member found the gate shut, and waits for another limit."""
        account = self.servers[server].accounts.get(tag)
        if account is not None:
            account.old_gate = True
            self._touched.add(server)

    def strike(self, server: str) -> None:
        """Forget a server that no member uses and at which nothing is charged."""
        known = self.servers[server]
        assert not known.accounts, f"{server} is still used"
        assert known.outstanding == 0, f"{known.outstanding} permits are still charged at {server}"
        self.remove(server)

    def remove(self, server: str) -> Server:
        """Take a server out of the ledger. Its charges are the caller's to look after."""
        self._wakes.pop(server, None)
        self._unsaved = True
        return self.servers.pop(server)

    def settled(self, server: str) -> None:
        """The server's identity is known now: limits may be sent to its members."""
        known = self.servers[server]
        if known.unknown:
            known.unknown = False
            self._touched.add(server)

    # ---- members ----------------------------------------------------------------------------------

    def is_departed(self, tag: str) -> bool:
        """Whether the process is known to have ended, or has said goodbye."""
        return tag in self._departed

    def register(
        self,
        identity: Identity,
        link: int,
        holds: Mapping[str, int],
        now: float,
        *,
        opened: Mapping[str, int] | None = None,
        ceiling: int = 0,
        leases: Mapping[str, Collection[str]] | None = None,
    ) -> bool:
        """Rules M4 and S4: a member states what it holds, on a new link.

        Args:
            holds: ``max(limit, open)`` by server.
            opened: how much of that is open; None: all of it.
            ceiling: how many connections its limit of open files leaves; 0: not known.
            leases: the leases that the names of its open connections bear, by server.

        Returns:
            False if the registration is older than one already taken, or the process is known to have
            ended: it is ignored and its link must be dropped. After True every older link of the
            member must be dropped.
        """
        tag = identity.tag
        if self._outdated(tag, link):
            return False
        member = self.members.get(tag)
        if member is None:
            member = self.members[tag] = Member(identity)
        member.identity, member.link, member.linked, member.ceiling = identity, link, True, ceiling
        for server in self.servers.values():
            if tag in server.accounts or server.id in holds or tag in server.quarantine:
                stated = holds.get(server.id, 0)
                self._state(server, tag, stated, stated if opened is None else opened.get(server.id, 0), now)
                server.accounts[tag].leases.update((leases or {}).get(server.id, ()))
        return True

    def _outdated(self, tag: str, link: int) -> bool:
        """S4: registrations with an older link number, and those of the dead, are ignored."""
        member = self.members.get(tag)
        return tag in self._departed or (member is not None and link <= member.link)

    def _state(self, server: Server, tag: str, stated: int, opened: int, now: float) -> None:
        """The charge becomes what the member states. Limits sent on older links are void: the member has
        closed them unread, and ``stated`` includes what it did read."""
        found = server.quarantine.pop(tag, None)  # a census's find under this tag is part of what is stated
        account = server.accounts.get(tag)
        charge = account.charge if account else 0
        excess = max(0, stated - charge - (found.charge if found else 0))
        server.charged += stated - charge
        server.accounts[tag] = Account(
            told=[(0, stated)],
            unanswered=True,
            excess=excess,
            unopened=max(0, stated - opened),
            linked=True,
            ceiling=self.members[tag].ceiling,
            active=now,
        )
        self._touched.add(server.id)

    def attach(self, tag: str, server: str, now: float) -> None:
        """The member uses this server from now on; a limit answers it."""
        if tag not in self.members:
            return
        known = self.servers[server]
        account = known.accounts.get(tag)
        if account is None:
            member = self.members[tag]
            account = Account(told=[(0, 0)], unanswered=True, linked=member.linked, ceiling=member.ceiling)
            known.accounts[tag] = account
        account.active = now
        self._touched.add(server)

    def report(self, tag: str, link: int, report: Report, now: float) -> None:
        """The newest state of a member at one server; a report on an older link is ignored."""
        member = self.members.get(tag)
        server = self.servers.get(report.server)
        if member is None or server is None or not self._same_link(member, link):
            return
        account = server.accounts.get(tag)
        if account is None:
            return
        self._ack(server, account, report.acked, now)
        account.report, account.reported = report, now
        if account.peak > 0:
            account.active = now
        self._reckon(account, now)
        self._touched.add(server.id)

    @staticmethod
    def _reckon(account: Account, now: float) -> None:
        """Since when it waits, and since when it owes."""
        if account.need <= account.keeps:
            account.waiting = None
        elif account.waiting is None and not account.owed:
            account.waiting = now  # it counts as waiting again only after it has returned what was recalled
        if not account.owed:
            account.recalled = None
        elif account.recalled is None:
            account.recalled = now

    def _same_link(self, member: Member, link: int) -> bool:
        """S2: an acknowledgement counts only on the link on which the limit was sent."""
        return link == member.link

    def unlink(self, tag: str, link: int, now: float) -> None:
        """A link closed. That proves nothing about the process: the charge stays (rule S3)."""
        member = self.members.get(tag)
        if member is None or link != member.link:
            return
        member.linked = False
        for server in self.servers.values():
            account = server.accounts.get(tag)
            if account is not None:
                account.linked = False
                account.waiting = account.turn_ends = None
                self._touched.add(server.id)

    def leave(self, tag: str, link: int, now: float) -> None:
        """The member says goodbye: it has nothing open and its limits are 0 by its own statement. A successor must
        know, or it would wait for a process that may live on and sends nothing more."""
        member = self.members.get(tag)
        if member is None or not self._same_link(member, link):
            return
        self.forget(tag)
        for server in self.servers.values():
            account = server.accounts.pop(tag, None)
            if account is not None:
                server.charged -= account.charge
                self._unsaved = self._unsaved or account.charge > 0
                self._touched.add(server.id)

    def leave_one(self, tag: str, link: int, server: str, seq: int, now: float) -> bool:
        """The same at one server. It counts only if the member has heard of all limits sent to it there: it will
        answer one that is still on its way by saying that it does not know that server any more."""
        member, known = self.members.get(tag), self.servers.get(server)
        account = known.accounts.get(tag) if known is not None else None
        if member is None or known is None or account is None or not self._same_link(member, link):
            return False
        if not self._has_heard_all(account, seq):
            return False
        del known.accounts[tag]
        known.charged -= account.charge
        self._unsaved = self._unsaved or account.charge > 0
        self._touched.add(server)
        return True

    @staticmethod
    def _has_heard_all(account: Account, seq: int) -> bool:
        return not account.unanswered and seq == account.seq

    def exited(self, tag: str, now: float) -> None:
        """Rule S3: the *process* has ended, or has become another program. What it may have left open
        on the servers stays in quarantine until :meth:`proven`."""
        self.forget(tag)
        for server in self.servers.values():
            entry = server.quarantine.get(tag)
            if entry is not None:
                entry.exited = True
                entry.since = now
            account = server.accounts.pop(tag, None)
            if account is not None:
                server.charged -= account.charge
                self._touched.add(server.id)
                self.quarantine(server, tag, account.charge, now)

    def quarantine(
        self, server: Server, tag: str, charge: int, now: float, *, exited: bool = True, registered: bool = True
    ) -> None:
        """``charge`` permits belong to a process that has ended; their end must be proven."""
        if charge <= 0:
            return
        entry = server.quarantine.setdefault(tag, Quarantine(0, now, exited, registered))
        entry.charge += charge
        entry.registered = entry.registered or registered

    def forget(self, tag: str) -> None:
        """The process has ended: ignore what it sent before."""
        self.members.pop(tag, None)
        self._departed[tag] = None
        while len(self._departed) > DEPARTED_KEPT:
            del self._departed[next(iter(self._departed))]

    def remember(self, identity: Identity) -> None:
        """A snapshot lists this process and it still lives: a member that has yet to register."""
        self.members[identity.tag] = Member(identity)

    # ---- proof and the supervisor's own connections ------------------------------------------------

    def knows(self, tag: str) -> bool:
        """Whether a process with that tag is or was a member, or is the supervisor itself."""
        return tag in self.members or tag in self._departed or tag == self.owner.tag

    def adopt(self, scope: str) -> None:
        """An earlier supervisor gave a member that scope: connections that bear it may be ours."""
        if scope and scope not in self.scopes and len(self.scopes) < MOST_SCOPES:
            self.scopes[scope] = None
            self._unsaved = True

    def quarantined(self) -> list[Quarantined]:
        """All permits not proven free yet."""
        return [
            Quarantined(server.id, tag, entry.charge, entry.since, entry.exited, entry.registered)
            for server in self.servers.values()
            for tag, entry in server.quarantine.items()
        ]

    def look_at(self, server: str) -> None:
        """Something has changed there: the next turn decides again."""
        self._touched.add(server)

    def persist(self) -> None:
        """Have the last event on disk before any member hears of what follows from it. For ends that a successor
        could not find out: the process lives, and only it knows that it is not that member any more."""
        self._unsaved = True

    def proven(self, server: str, tag: str, now: float) -> None:
        """The server has no connection of that tag any more: its quarantine is free."""
        known = self.servers[server]
        if known.quarantine.pop(tag, None) is not None:
            self._touched.add(server)

    def overdraw_own(self, server: str) -> None:
        """Grant the next own permit even if it does not fit: for too long there has been none to look
        with, because the connections to look for fill the budget (rule S5, the bounded wait)."""
        self.servers[server].own_overdraws = True
        self._touched.add(server)

    def want_own(self, server: str, count: int, now: float) -> None:
        """How many connections the supervisor wants to hold itself. A turn grants them."""
        known = self.servers[server]
        if known.own_wanted != count:
            known.own_wanted = count
            self._touched.add(server)

    def own(self, server: str) -> int:
        """Permits granted for the supervisor's own connections."""
        return self.servers[server].own

    def return_own(self, server: str, count: int, now: float) -> None:
        """``count`` own connections are proven gone."""
        known = self.servers[server]
        known.own = max(0, known.own - count)
        known.own_over = min(known.own_over, known.own)
        known.own_wanted = min(known.own_wanted, known.own)
        self._touched.add(server)

    # ---- the turn ---------------------------------------------------------------------------------

    def settle(self, now: float) -> Turn:
        """Decide what follows from all events since the last turn. Call it once per loop turn."""
        turn = Turn(persist=self._unsaved)
        self._unsaved = False
        stuck, self.stuck = self.stuck, False
        due = {server for server, at in self._wakes.items() if at <= now}
        for id in sorted(self._touched | due):
            server = self.servers.get(id)
            if server is None:
                continue
            self._wakes.pop(id, None)
            self._grant_own(server, turn)
            if server.unknown:  # send no limit, not even a smaller one: it too would let members open
                continue
            decision = sharing.decide(server, now, self._rng)
            if stuck and server.free >= 0:
                # While no limit can be raised, recall nothing for other members: all go on with what they have.
                if decision.lowers or decision.asks:
                    decision.lowers.clear()
                    decision.asks.clear()
                    decision.again(now)
            for tag, limit in decision.lowers:
                if not stuck:
                    turn.undo.append((server.id, tag, list(server.accounts[tag].told)))
                self._lower(server, tag, limit, now, turn)
            for tag, limit in decision.raises:
                self._raise(server, tag, limit, now, turn)
            for tag in decision.asks:
                server.accounts[tag].asked = now
                turn.tells.append(Tell(tag, self.members[tag].link, Ask(id, recalls.guard(server))))
            for tag, account in server.accounts.items():
                if account.unanswered and account.linked:
                    self._answer(server, tag, account, now, turn)
                self._purge(server, tag, account, now, turn)
                if account.old_gate and account.linked:
                    self._tell(server, tag, account, account.limit, turn)
            if decision.wake is not None:
                self._wakes[id] = max(decision.wake, now)
        self._touched.clear()
        turn.wake = min(self._wakes.values(), default=None)
        return turn

    def _fits(self, server: Server, more: int) -> bool:
        """Rule S1: all charges, plus quarantine, plus own, plus the raise stay within the budget."""
        return not server.held and server.outstanding + more <= server.budget

    def _raise(self, server: Server, tag: str, limit: int, now: float, turn: Turn) -> bool:
        """Rule S1. Sends a larger limit if it fits, and has the snapshot written first."""
        account = server.accounts[tag]
        if not account.linked or limit <= account.limit or not self._fits(server, max(0, limit - account.charge)):
            return False
        if self._is_foreign(server, account):
            return False
        turn.undo.append((server.id, tag, list(account.told)))
        turn.persist = True
        self._tell(server, tag, account, limit, turn)
        account.served = now
        self._reckon(account, now)
        return True

    @staticmethod
    def _is_foreign(server: Server, account: Account) -> bool:
        """Rule F7: whether it may hold connections under a name that is not the present lease's."""
        return not account.leases <= {server.lease_name}

    def _purge(self, server: Server, tag: str, account: Account, now: float, turn: Turn) -> None:
        """Rule F7: such connections are closed: now, if they are idle, else when they come back."""
        if account.charge and self._is_foreign(server, account):
            self._lower(server, tag, 0, now, turn)

    def _lower(self, server: Server, tag: str, limit: int, now: float, turn: Turn) -> bool:
        """Rule S2. Sends a smaller limit; the charge stays until the acknowledgement."""
        account = server.accounts[tag]
        if not account.linked or limit >= account.limit:
            return False
        account.ends_turn = limit <= 0 and account.turn_ends is not None
        self._tell(server, tag, account, max(0, limit), turn)
        if account.owed:
            account.waiting = None
            if account.recalled is None:
                account.recalled_idle = account.report is not None and account.report.spare >= account.owed
        self._reckon(account, now)
        return True

    def _answer(self, server: Server, tag: str, account: Account, now: float, turn: Turn) -> None:
        """Rule M4: a numbered limit answers a registration, usually the stated one.

        After a lost snapshot a member may state more than is known. It opens nothing before this answer, so
        unopened permits can still be taken back here: all of them while members may yet come that hold the same
        permits (:attr:`partial`), later those that do not fit, as others may have been raised meanwhile.
        The snapshot must show what is left to the member before it can open that.
        """
        if account.excess:
            turn.undo.append((server.id, tag, list(account.told)))
            turn.persist = True
        back = min(account.excess, account.unopened)
        if not self.partial:
            back = min(back, max(0, server.outstanding - server.budget))
        if back:
            self._lower(server, tag, account.limit - back, now, turn)
        else:
            self._tell(server, tag, account, account.limit, turn)

    def _tell(self, server: Server, tag: str, account: Account, limit: int, turn: Turn) -> None:
        before = account.charge
        account.seq += 1
        account.unanswered = account.old_gate = False
        if limit:
            account.leases.add(server.lease_name)
        while account.told and account.told[-1][1] <= limit:
            account.told.pop()
        account.told.append((account.seq, limit))
        server.charged += account.charge - before
        turn.tells.append(Tell(tag, self.members[tag].link, Limit(server.id, account.seq, limit, gate=server.gate)))

    def _ack(self, server: Server, account: Account, seq: int, now: float) -> None:
        """Rule S2: the acknowledgement of that sequence lowers the charge to the largest limit
        sent at or after it."""
        if seq > account.seq:
            return
        before = account.charge
        last = account.told[-1]
        account.told = [entry for entry in account.told if entry[0] >= seq] or [last]
        server.charged += account.charge - before
        if not account.charge:
            account.leases.clear()
        # Count here, where nothing can be undone any more: neither called off nor abandoned.
        server.recalled_total += before - account.charge
        if account.ends_turn and account.charge == 0 < before:
            server.rotated_total += 1
        if account.charge < before and account.recalled is not None and account.recalled_idle:
            took = min(0.1, max(0.0, now - account.recalled))
            server.handover += 0.2 * (took - server.handover)
        if account.charge < before:
            account.recalled = now if account.owed else None
            if account.waiting is not None:
                account.waiting = now  # a pinned permit has come back: this turn is over, and the next one comes last

    def _grant_own(self, server: Server, turn: Turn) -> None:
        """Rule S5: the supervisor's own connections are charged, in the snapshot too, before they open."""
        self._forgive(server)
        while server.own < server.own_wanted and self._own_fits(server):
            server.own_over += int(server.outstanding >= server.budget)
            server.own += 1
            server.own_overdraws = False
            turn.own.append(server.id)
            turn.persist = True

    @staticmethod
    def _forgive(server: Server) -> None:
        """All permits fit again: those granted in excess are ordinary ones now."""
        if server.free >= 0:
            server.own_over = 0

    def _own_fits(self, server: Server) -> bool:
        return server.own_overdraws or server.outstanding + 1 <= server.budget

    def abandon(self, turn: Turn, now: float) -> None:
        """The snapshot could not be written: undo the turn's raises, and the recalls meant for them.
        Must be called before any other event. :meth:`Turn.rest` may still be sent.

        The next turn tries to write again; until it can, only an overdrawn budget causes recalls.
        """
        for id, tag, told in reversed(turn.undo):
            account = self.servers[id].accounts[tag]
            self.servers[id].charged += told[0][1] - account.charge
            account.told = told
            account.unanswered = account.unanswered or told[-1][0] == 0
            self._reckon(account, now)
            self._wakes[id] = now + RETRY_SNAPSHOT
        for id in turn.own:
            self.servers[id].own -= 1
            self._wakes[id] = now + RETRY_SNAPSHOT
        for id, at in self._wakes.items():
            if at <= now:
                self._wakes[id] = now + RETRY_SNAPSHOT
        turn.wake = min(self._wakes.values(), default=None)
        self._unsaved = self._unsaved or turn.persist
        self.stuck = True

    # ---- restarts (rule S4, also in recovery.py) ---------------------------------------------------

    def mark_partial(self) -> None:
        """A snapshot was lost: unknown members may live. Until :meth:`whole` nothing is raised, and a member that
        registers keeps what it has open. Snapshots say so to a successor: meanwhile they are not the whole truth."""
        self.partial = self._unsaved = True
        for server in self.servers.values():
            self.hold_raises(server.id, True)

    def whole(self) -> None:
        """All living members have had time to register. Those that died before they could may have left connections
        that only the servers know of: each server is searched once more before its first raise, by a successor too."""
        self.partial = False
        self._unsaved = True
        for server in self.servers.values():
            server.search = True
            self.hold_raises(server.id, True)

    def search_again(self, server: str) -> None:
        """Charges there were freed without a proof, so connections may be left that only the server knows of."""
        self.servers[server].search = self._unsaved = True
        self.hold_raises(server, True)

    def searched(self, server: str) -> None:
        """All connections there that bear a tag of ours are counted (:func:`poolmgr.budget.recovery.census`)."""
        known = self.servers[server]
        self._unsaved = self._unsaved or known.search
        known.search = False

    # ---- looking at it ----------------------------------------------------------------------------

    @property
    def idle(self) -> bool:
        """Nothing of ours is charged or in quarantine: the supervisor may exit and drop the snapshot. Connections
        found under unregistered names do not keep it: the next supervisor finds them as well."""
        return not self.partial and all(self._settled(server) for server in self.servers.values())

    def _settled(self, server: Server) -> bool:
        return server.outstanding == server.strange


def _without_time(gate: Gate) -> Gate:
    """The gate, whenever it is sent."""
    return msgspec.structs.replace(gate, sure=0.0)
