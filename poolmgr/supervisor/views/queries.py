"""Answers to tools' questions: status, limits, a new budget. It reads, and changes nothing itself; the schema is
:mod:`poolmgr.status`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import poolmgr
from poolmgr import status as schema, wire
from poolmgr.budget import views
from poolmgr.budget.accounts import MemberView, ServerView
from poolmgr.budget.ledger import Ledger
from poolmgr.supervisor.clients.footprint import Footprints
from poolmgr.supervisor.clients.listener import Listener
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.committer import Committer
from poolmgr.supervisor.fleet import remarks
from poolmgr.supervisor.fleet.leaseholder import Leaseholder
from poolmgr.supervisor.upstreams.allowance import ONE_SOCKET
from poolmgr.supervisor.upstreams.registry import Registry
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.supervisor.views.audit import Audit
from poolmgr.supervisor.views.metrics import Counted, Reading

COSTLY = 0.002
"""Seconds from which an answer counts as costly."""

SILENT_AFTER = 5.0
"""Seconds after which a member that owes an acknowledgement is called silent."""


def _health(upstream: Upstream) -> schema.HealthStatus:
    known = upstream.health
    unseen = known.unseen or upstream.ways.unseen
    if not unseen and upstream.sameness.several:
        unseen = f"{len(upstream.sameness.several)} servers answer at one address in turn, so no list shows all"
    if not unseen and "CLIENT LIST" in upstream.forbidden:
        unseen = f"it forbids CLIENT LIST: {upstream.forbidden['CLIENT LIST']}"
    return schema.HealthStatus(
        up=known.up, since=known.since, error=known.error, unseen=unseen, unseen_since=known.unseen_since
    )


def _lease(holder: Leaseholder | None, now: float) -> schema.LeaseStatus | None:
    if holder is None:
        return None
    lease = holder.lease
    answer = None if lease is None else lease.answer
    left = holder.seconds_left(now)
    return schema.LeaseStatus(
        fleet=holder.fleet,
        name=lease.name if lease is not None else "",
        table=lease.table if lease is not None else "",
        grant=lease.word if lease is not None else 0,
        demand=holder.demand,
        target=lease.target if lease is not None else 0,
        wanted=lease is not None and lease.wanted,
        seconds_left=None if left is None else round(left, 3),
        budget=answer.budget if answer is not None else None,
        slack=answer.slack if answer is not None else None,
        hosts=answer.hosts if answer is not None else None,
        others=answer.others if answer is not None else None,
        learning=answer is not None and answer.learning,
        trouble=holder.trouble,
        outside=holder.outside,
        renewals=dict(holder.renewals),
        renew_seconds=holder.seconds,
        fenced=lease.fenced if lease is not None else 0,
        gates_shut=holder.gates_shut,
        tables=holder.tables,
        freed=holder.freed,
        unproven=holder.unproven,
        killed=holder.killed,
    )


@dataclass(eq=False, repr=False)
class Queries:
    """Answers of one supervisor.

    Args:
        path: its socket.
        listener: the connected clients.
        notes: further notes for people, as of now.
    """

    _path: str
    _ledger: Ledger
    _committer: Committer
    _registry: Registry
    _roster: Roster
    _footprints: Footprints
    _listener: Listener
    _audit: Audit
    _more_notes: Callable[[], list[str]]

    def __post_init__(self) -> None:
        self._started = self._committer.clock()
        self._kept: dict[str, tuple[float, wire.Answer]] = {}
        self._questions: dict[str, Callable[[], str]] = {
            "status": lambda: schema.dump(self.status()),
            "limits": lambda: schema.dump(self.limits()),
        }

    def answer(self, question: wire.Query | wire.SetBudget) -> wire.Answer:
        """The answer to send."""
        if isinstance(question, wire.SetBudget):
            taken, text = self._registry.set_budget(question.server, question.budget)
            return wire.Answer(text, ok=taken)
        known = self._questions.get(question.what)
        if known is None:
            return wire.Answer(f"{question.what[:40]!r} is not one of {', '.join(self._questions)}", ok=False)
        return self._computed(question.what, known)

    def _computed(self, what: str, compute: Callable[[], str]) -> wire.Answer:
        """A costly answer is repeated for ten times as long as it took, so that a tool that asks in a loop cannot keep
        the supervisor from its work."""
        now = time.monotonic()
        kept = self._kept.get(what)
        if kept is not None and now < kept[0]:
            return kept[1]
        answer = wire.Answer(compute())
        took = time.monotonic() - now
        self._kept[what] = now + (10 * took if took > COSTLY else 0.0), answer
        return answer

    def status(self) -> schema.Status:
        """Everything, as it is now."""
        now = self._committer.clock()
        return schema.Status(
            pid=os.getpid(),
            version=poolmgr.__version__,
            uptime=now - self._started,
            socket=self._path,
            clients=len(self._listener.links),
            servers=tuple(self._server(upstream, now) for upstream in self._registry.shown()),
            differences=self._audit.differences(),
            notes=tuple(self._notes()),
        )

    def _server(self, upstream: Upstream, now: float) -> schema.ServerStatus:
        view = views.of(self._ledger, upstream.id)
        return schema.ServerStatus(
            id=upstream.id,
            aliases=view.aliases,
            run_id=view.run_id,
            budget=view.budget if upstream.resolved else None,
            derivation=upstream.derivation.text,
            charged=view.charged,
            quarantine=view.quarantined,
            own=view.own,
            free=view.free,
            unproven=upstream.unproven,
            health=_health(upstream),
            members=tuple(self._member(view, member, now) for member in view.members),
            lease=_lease(self._registry.probes[upstream.id].holder, now),
        )

    def _member(self, view: ServerView, member: MemberView, now: float) -> schema.MemberStatus:
        report = member.report
        account = self._ledger.servers[view.id].accounts[member.identity.tag]
        silent = member.recalled is not None and now - member.recalled > SILENT_AFTER
        known = self._roster.known.get(member.identity.tag)
        footprint = self._footprints.of.get(member.identity.pid)
        return schema.MemberStatus(
            pid=member.identity.pid,
            title=member.identity.title,
            tag=member.identity.tag,
            limit=member.limit,
            charge=member.charge,
            open=report.open if report else 0,
            in_use=report.in_use if report else 0,
            pinned=report.pinned if report else 0,
            waiting=report.waiting if report else 0,
            acked=member.recalled is None,
            silent_for=now - account.reported if report else None,
            state="restored" if known is None else "silent" if silent else "live",
            ceiling=report.ceiling if report else 0,
            processor=footprint.processor if footprint else None,
            memory=footprint.memory if footprint else None,
            descriptors=footprint.descriptors if footprint else None,
            threads=footprint.threads if footprint else None,
        )

    def _notes(self) -> list[str]:
        notes = [text for text in (self._committer.unwritten, *self._more_notes()) if text]
        for upstream in self._registry.shown():
            notes += [f"{upstream.id}: {text}" for text in self._notes_of(upstream)]
        return notes

    def _notes_of(self, upstream: Upstream) -> list[str]:
        notes: list[str] = []
        if not upstream.resolved:
            notes.append("not reached yet, so nothing is handed out")
        if "CLIENT LIST" in upstream.forbidden:
            notes.append(
                f"the server forbids CLIENT LIST ({upstream.forbidden['CLIENT LIST']}), so permits of dead "
                "processes are freed after a wait instead of a proof"
            )
        if upstream.nameless:
            notes.append(
                f"connections of {len(upstream.nameless)} processes bear no name there "
                f"({next(iter(upstream.nameless.values()))}), so their permits are unprovable: once a process is gone "
                "its own are freed after a wait; allow their user CLIENT SETNAME or CLIENT SETINFO "
                "(ACL SETUSER ... +client|setname +client|setinfo)"
            )
        holder = self._registry.probes[upstream.id].holder
        if holder is not None and (why := holder.outside or remarks.obstacle(holder, self._committer.clock())):
            notes.append(why)
        if holder is not None and (odd := remarks.oddity(holder)):
            notes.append(odd)
        if upstream.neighbours:
            others = sorted(upstream.neighbours.values(), key=lambda known: -known.count)
            pids = ", ".join(f"process {known.pid}" for known in others[:3])
            notes.append(
                f"another supervisor of ours uses it from this host ({pids}), and neither knows what "
                f"the other grants: {ONE_SOCKET}"
            )
        strange = self._ledger.servers[upstream.id].strange
        if strange:
            notes.append(
                f"{strange} connections bear names like ours, and no registered process owns them: they are "
                "charged for as long as the server shows them (CLIENT LIST, names with pm1.)"
            )
        view = views.of(self._ledger, upstream.id)
        busy = sum(1 for member in view.members if member.report is not None)
        if upstream.resolved and 0 < view.budget < busy:
            notes.append(f"the budget {view.budget} is less than its {busy} processes: permits rotate")
        return notes

    def reading(self) -> Reading:
        """Everything that ``/metrics`` serves."""
        seen = {upstream.id: (upstream, views.of(self._ledger, upstream.id)) for upstream in self._registry.shown()}
        return Reading(
            status=self.status(),
            limits=self.limits(),
            ledgers={
                id: Counted(
                    recalled=view.recalled_total,
                    rotated=view.rotated_total,
                    outages=upstream.outages,
                    handover=view.handover,
                )
                for id, (upstream, view) in seen.items()
            },
            totals=self._roster.totals.copy(),
            restarts=self._ledger.restarts,
            snapshots=self._committer.writer.writes,
            unwritten=bool(self._committer.unwritten),
        )

    def limits(self) -> schema.Limits:
        """How each budget was derived."""
        return schema.Limits(
            servers=tuple(
                schema.ServerLimits(
                    id=upstream.id,
                    budget=self._ledger.servers[upstream.id].budget if upstream.resolved else None,
                    derivation=upstream.derivation.text,
                    parts=upstream.derivation.parts,
                )
                for upstream in self._registry.shown()
            )
        )
