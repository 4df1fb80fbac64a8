"""This host's lease at one server, in the event loop: when the table is asked, and what follows for the ledger.

:class:`poolmgr.fleet.lease.Lease` decides; here its events come together: a ledger's turn is over, a look at the server
has brought an answer, a member found its gate shut. Each goes to the lease, and then to the ledger, in one step: the
lease as the snapshot must have it, the gate that members ask, and by ``apply`` the budget.

A word that falls is in the snapshot before it is said (rule F2): the lease says nothing while :attr:`Lease.unsaved`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from poolmgr.budget import ceilings
from poolmgr.budget.accounts import Server
from poolmgr.fleet import rights, script
from poolmgr.fleet.lease import Lease, SavedLease, Terms
from poolmgr.fleet.script import Renewal, Renewed
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.fleet.fencing import Done
from poolmgr.supervisor.logs import Limited, log
from poolmgr.supervisor.upstreams.findings import Asked, Findings
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.wire import Gate

SLACK_SHARE, SLACK_LEAST = 50, 2
"""The slack is a fiftieth of the fleet's budget, and at least so many, unless the operator sets it."""

KNOCK = 0.25
"""Seconds to wait for a permit to ask the table with. Then the connection comes out of the fleet's slack: a lease must
not end because members have pinned all its permits."""

LOOK_AGAIN = 2.0
"""Seconds after which a server is asked again what it is, that did not let itself be asked."""

ABLE_AGAIN = 60.0
"""Seconds for which a host does not take the duty that the server did not let it do: others may."""

OTHER_MODES = {
    "sentinel": "a Sentinel has no table: each host has its own budget there",
    "cluster": "a cluster's fleet is not supported yet: each host has its own budget there",
}


class Leaseholder:
    """See the module's docstring. One for each upstream of a host in a fleet.

    Args:
        apply: the lease has changed: derive the budget again.
        wake: a request has become due.

    Attributes:
        lease: None: not known yet, or this server has no table.
        outside: why the server takes no part; empty: it does.
        trouble: why the table was not asked, last time; empty: it was.
        done: what this host last did for all.
        upstream: the server.
    """

    def __init__(
        self, upstream: Upstream, context: Context, apply: Callable[[], None], wake: Callable[[], None]
    ) -> None:
        settings = context.settings
        assert settings.fleet is not None
        self.fleet = settings.fleet
        self.key = script.key(self.fleet)
        self.lease: Lease | None = None
        self.outside = ""
        self.trouble = ""
        self.passing = False
        self.done = Done()
        self.renewals: dict[str, int] = {}
        """By outcome: ``ok``, ``fenced``, ``table``, ``old``, ``error``."""
        self.seconds = 0.0
        """Round trips with the table, together."""
        self.gates_shut = 0
        self.tables = 0
        """How often another table has been met."""
        self.freed = self.killed = 0
        """Leases and connections, by this host's duty."""
        self.unproven = 0
        """Leases that were freed without a proof, when this host asked."""
        self.upstream = upstream
        self._context = context
        self._settings = settings
        self._apply = apply
        self._wake = wake
        self._clock = context.committer.clock
        self._fleet_budget = ceilings.Governor()
        self._known = False
        """Whether it is known that the server takes part."""
        self._leaving = False
        self._owed: set[str] = set()
        """Members that have asked whether the lease stands."""
        self._sent = 0.0
        self._heard: tuple[Renewed, float] | None = None
        """The last good answer, and when it was asked for: it may have lain there for long."""
        self._limited = Limited(burst=1)
        self._look_at = float("inf")
        """When to ask again what server it is."""
        self._able_at = 0.0
        """When the duty may be tried again, which the server did not let this host do."""

    # ---- the lease's life -------------------------------------------------------------------------

    def learned(self, found: Findings) -> None:
        """A look has shown what kind of server this is."""
        mode = found.info.get("server_mode") or found.info.get("redis_mode")
        if not mode and not self._known and "INFO" in found.forbidden:
            ways = self.upstream.endpoints
            user = ways[0][0].username if ways else None
            self._note(rights.refusal("INFO", found.forbidden["INFO"], user), passing=False)
            self._look_at = self._clock() + LOOK_AGAIN
        if mode and not self._known:
            self._note("", passing=False)
            self._known = True
            self.outside = OTHER_MODES.get(mode, "")
            if self.outside:
                log.warning("fleet.outside", extra={"server": self.upstream.id, "reason": self.outside})
                self._context.ledger.let_in(self.upstream.id, None, None)
                self._apply()

    @property
    def limit(self) -> int | None:
        """What the ledger may hand out; None: the fleet does not bound it."""
        if self.outside:
            return None
        if self._leaving:
            return 0
        if self.lease is None:
            saved = self._server.lease  # the previous supervisor's, whose members live
            return 0 if saved is None else saved.word
        return self.lease.limit

    def _start(self, now: float) -> None:
        server = self._server
        if self.lease is not None or self.outside or not self._may_start(server):
            return
        settings = self._settings
        self.lease = Lease(
            Terms(
                lease=settings.fleet_lease,
                floor=settings.fleet_floor,
                host=host_name(),
                unproven=settings.fleet_unproven,
            ),
            lambda: script.new_name(self.fleet),
            random.Random(),
            saved=server.lease,
            held=server.held_of_lease,
            now=now,
        )
        self._leaving = False
        self._publish()

    def _may_start(self, server: Server) -> bool:
        """Whether all that bears this host's names is known: a word must cover it."""
        return self._known and self.upstream.resolved and not self._context.ledger.partial and not server.unknown

    def adopt(self, names: list[str]) -> None:
        """A member has stated which leases its connections bear. Without a snapshot, that is all that is known."""
        server = self._server
        mine = [name for name in names if name.startswith(script.mark(self.fleet))]
        if self.lease is None and server.lease is None and mine:
            server.lease = SavedLease(mine[0])
            self._context.ledger.persist()

    # ---- asking -----------------------------------------------------------------------------------

    def settled(self) -> None:
        """A turn of the ledger is over."""
        now = self._clock()
        self._start(now)
        lease = self.lease
        if lease is None:
            return
        limit = lease.limit
        lease.settle(self._server.held_of_lease, now)
        # Not while it is only not on disk yet: a full disk would have one turn follow another.
        if lease.limit != limit or lease.saved() != self._server.lease:
            self._publish()
        if now >= self.due():
            self._wake()

    @property
    def knows_server(self) -> bool:
        """Whether it is known that the server takes part, or does not. A snapshot does not say so."""
        return self._known

    def looks_again(self, now: float) -> bool:
        """Whether the server is to be asked again what it is."""
        return not self._known and now >= self._look_at

    def due(self) -> float:
        """When the next request is due."""
        if not self._known:
            return self._look_at
        lease = self.lease
        if lease is None or lease.under_way or lease.unsaved or self._leaving:
            return float("inf")
        return lease.due(self.demand)

    def request(self, now: float) -> Renewal | None:
        """The request to be sent now; it is under way until :meth:`looked`."""
        self._start(now)
        lease = self.lease
        if lease is None or self._leaving:
            return None
        budget = self._budget(now)
        slack = self._settings.fleet_slack
        if slack is None:
            slack = max(SLACK_LEAST, budget // SLACK_SHARE)
        self._sent = now
        able = self.able(now)
        return lease.request(self.upstream.run_id, self.demand, budget, min(slack, budget), now, able=able)

    def able(self, now: float) -> bool:
        """Whether this host may get the duty: it may list and kill clients, as far as is known. A host that keeps the
        duty and cannot do it would keep all others from doing it."""
        return not {"CLIENT LIST", "CLIENT KILL"} & self.upstream.forbidden.keys() and now >= self._able_at

    @property
    def demand(self) -> int:
        """Connections that this host could use: its members', those not proven gone, and one of its own; at most the
        host's ceiling, if the operator has set one."""
        server = self._server
        members = sum(a.charge if a.report is None else max(a.peak, a.pinned) for a in server.accounts.values())
        word = self.upstream.operator or self._settings.budget_of(server.aliases)
        wanted = members + server.quarantined + 1
        return min(wanted, int(word)) if isinstance(word, int) or word.isdecimal() else wanted

    @property
    def stated_budget(self) -> int | None:
        """The fleet's budget as this host is configured; None: ``auto``."""
        word = self._settings.fleet_budget
        return None if word == "auto" else int(word)

    def _budget(self, now: float) -> int:
        """The fleet's, by this host's settings. ``auto`` follows the server, and grows slowly."""
        if (stated := self.stated_budget) is not None:
            return stated
        upstream, answer = self.upstream, None if self.lease is None else self.lease.answer
        facts = ceilings.Facts(
            maxclients=upstream.maxclients,
            reserve=self._settings.reserve,
            others=None if answer is None else answer.others,
        )
        return self._fleet_budget.follow(ceilings.derive(facts).budget, now, at_once=self._fleet_budget.budget is None)

    # ---- what comes back --------------------------------------------------------------------------

    def looked(self, renewal: Renewal, asked: Asked | None) -> None:
        """The look that carried a request is over."""
        lease, now = self.lease, self._clock()
        if lease is None:
            return
        if asked is None or asked.answer is None:
            lease.failed(now)
            self._count("error")
            if asked is not None:
                self._note(asked.error, passing=asked.passing)
        else:
            self.seconds += asked.seconds
            self._answered(lease, renewal, asked, now)
        self._publish()

    def _answered(self, lease: Lease, renewal: Renewal, asked: Asked, now: float) -> None:
        answer = asked.answer
        assert answer is not None
        name, table, fenced = lease.name, lease.table, lease.fenced
        lease.answered(renewal.seq, answer, now)
        if isinstance(answer, Renewed):
            self._heard = answer, self._sent
            self.unproven += answer.unproven
            if answer.unproven:
                log.warning("fleet.freed_unproven", extra={"server": self.upstream.id, "count": answer.unproven})
            if self._owed and self._sure(now):
                self._tell_owed()
        self._count("ok" if isinstance(answer, Renewed) else answer.why)
        self._note("", passing=False)
        server = self.upstream.id
        if lease.fenced > fenced:
            log.warning("fleet.fenced", extra={"server": server, "lease": name or renewal.name})
        elif lease.name != name:
            log.info("fleet.joined", extra={"server": server, "lease": lease.name, "grant": lease.word})
        if lease.table != table and table and lease.table:
            self.tables += 1
            log.warning("fleet.table_lost", extra={"server": server})
        if asked.done is not None:
            self._did(asked.done)

    def failed(self) -> None:
        """The request could not be sent."""
        if self.lease is not None:
            self.lease.failed(self._clock())
            self._count("error")
            self._publish()

    def _did(self, done: Done) -> None:
        self.done = done
        self.freed += len(done.proven)
        self.killed += done.killed
        if done.proven and self.lease is not None:
            self.lease.hurry(self._clock())  # this host may have waited for it
        for name in done.proven:
            log.warning("fleet.freed", extra={"server": self.upstream.id, "lease": name})
        if done.killed:
            log.warning("fleet.killed", extra={"server": self.upstream.id, "count": done.killed})
        if done.error:
            self._able_at = self._clock() + ABLE_AGAIN
            self._limited("fleet.cannot_fence", server=self.upstream.id, error=done.error)

    def _note(self, error: str, *, passing: bool) -> None:
        before, self.trouble, self.passing = self.trouble, error, passing
        if error and error != before:
            log.warning("fleet.not_renewed", extra={"server": self.upstream.id, "error": error})
        elif before and not error:
            log.info("fleet.renewed_again", extra={"server": self.upstream.id})

    def _count(self, outcome: str) -> None:
        self.renewals[outcome] = self.renewals.get(outcome, 0) + 1

    def asked(self, tag: str, *, shut: bool) -> None:
        """A member asks whether the lease stands, and opens nothing before it has an answer.

        Args:
            shut: its new connection found its gate shut; else it has not heard of the lease for long.
        """
        now = self._clock()
        self._owed.add(tag)
        self.gates_shut += shut
        if self.lease is None:
            return
        if shut:
            self.lease.shut(now)
            self._publish()
        if self._sure(now):
            self._tell_owed()
        else:
            self.lease.hurry(now)
            self._wake()

    def _sure(self, now: float) -> bool:
        """Whether the lease certainly stands: no other host can have fenced this one yet."""
        lease = self.lease
        return lease is not None and bool(lease.name) and not lease.blocked and (self.seconds_left(now) or 0.0) > 0

    def _tell_owed(self) -> None:
        for tag in self._owed:
            self._context.ledger.let_in_again(self.upstream.id, tag)
        self._owed.clear()
        self._publish()

    def saved(self, lease: SavedLease | None) -> None:
        """The snapshot on disk has this lease."""
        if self.lease is not None and lease is not None:
            self.lease.on_disk(lease)
            if self._clock() >= self.due():
                self._wake()

    def seconds_left(self, now: float) -> float | None:
        """Until the lease ends, as this host's clock tells it since the last answer; None: not known."""
        if self.lease is None or self._heard is None:
            return None
        answer, at = self._heard
        return (answer.end - answer.now) / 1000 - (now - at)

    # ---- the end ----------------------------------------------------------------------------------

    @property
    def unneeded(self) -> bool:
        """Whether there is a lease, and this host holds nothing of it but the supervisor's own connections."""
        lease, server = self.lease, self._server
        return lease is not None and bool(lease.name) and server.outstanding <= server.own

    @property
    def may_leave(self) -> bool:
        """Whether the host can tell the table so now."""
        return self.unneeded and self.lease is not None and not self.lease.under_way

    def leaves(self) -> tuple[str, str] | None:
        """No process wants the server any more. If this host holds nothing there but its supervisor's own connections,
        the lease ends: from here on the ledger hands out nothing. Returns the table's number and the lease's name, for
        the table; None: there is nothing to leave."""
        lease = self.lease
        if lease is None or not self.may_leave:
            return None
        self._leaving = True
        self._publish()
        return lease.table, lease.name

    def left(self) -> None:
        """The host has told the table that it leaves, or could not reach the table."""
        self.lease = None
        self._leaving = False
        self._publish()

    # ---- the ledger -------------------------------------------------------------------------------

    @property
    def _server(self) -> Server:
        return self._context.ledger.servers[self.upstream.id]

    def _publish(self) -> None:
        """Give the ledger the lease as it is now."""
        lease = self.lease
        if lease is None:
            saved, gate = None, Gate(self.key, "", "")
        else:
            open_to_members = lease.name and not lease.blocked and not self._leaving
            sure = max(0.0, self.seconds_left(self._clock()) or 0.0)
            saved, gate = lease.saved(), Gate(self.key, lease.name, lease.table if open_to_members else "", sure)
        self._context.ledger.let_in(self.upstream.id, saved, gate)
        self._apply()
        self._context.committer.touch()


def host_name() -> str:
    """This host, for people. One word."""
    import socket

    return "".join(c if c.isalnum() or c in ".-_" else "_" for c in socket.gethostname())[:64] or "-"
