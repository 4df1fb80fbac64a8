"""Answers to the questions of tools: status, limits, a new budget. It reads, and changes nothing
itself; the schema is :mod:`poolmgr.status`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import poolmgr
from poolmgr import status as schema, wire
from poolmgr.budget import views
from poolmgr.budget.accounts import MemberView, ServerView
from poolmgr.supervisor.servers.allowance import ONE_SOCKET
from poolmgr.supervisor.servers.upstream import Site
from poolmgr.supervisor.views.metrics import Counted, Reading

if TYPE_CHECKING:
    from poolmgr.supervisor.supervisor import Supervisor

COSTLY = 0.002
"""Seconds."""

SILENT_AFTER = 5.0
"""Seconds after which a member that owes an acknowledgement is called silent."""


def _health(site: Site) -> schema.HealthStatus:
    known = site.health
    unseen = known.unseen or site.ways.unseen
    if not unseen and site.sameness.several:
        unseen = f"{len(site.sameness.several)} servers answer at one address in turn, so no list shows all"
    if not unseen and "CLIENT LIST" in site.forbidden:
        unseen = f"it forbids CLIENT LIST: {site.forbidden['CLIENT LIST']}"
    return schema.HealthStatus(
        up=known.up, since=known.since, error=known.error, unseen=unseen, unseen_since=known.unseen_since
    )


class Answers:
    """Answers for one supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        self._kept: dict[str, tuple[float, wire.Answer]] = {}
        self._questions: dict[str, Callable[[], str]] = {
            "status": lambda: schema.dump(self.status()),
            "limits": lambda: schema.dump(self.limits()),
        }

    def answer(self, question: wire.Query | wire.SetBudget) -> wire.Answer:
        """The answer to send."""
        if isinstance(question, wire.SetBudget):
            taken, text = self._of.book.set_budget(question.server, question.budget)
            return wire.Answer(text, ok=taken)
        known = self._questions.get(question.what)
        if known is None:
            return wire.Answer(f"{question.what[:40]!r} is not one of {', '.join(self._questions)}", ok=False)
        return self._computed(question.what, known)

    def _computed(self, what: str, compute: Callable[[], str]) -> wire.Answer:
        """A costly answer is given again for ten times as long as it took, so that nobody who asks in a
        loop can keep the supervisor from its work."""
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
        supervisor = self._of
        now = supervisor.turns.clock()
        return schema.Status(
            pid=os.getpid(),
            version=poolmgr.__version__,
            uptime=now - supervisor.started,
            socket=supervisor.path,
            clients=len(supervisor.door.links),
            servers=tuple(self._server(site, now) for site in supervisor.book.shown()),
            differences=supervisor.audit.differences(),
            notes=tuple(self._notes()),
        )

    def _server(self, site: Site, now: float) -> schema.ServerStatus:
        view = views.of(self._of.ledger, site.id)
        return schema.ServerStatus(
            id=site.id,
            aliases=view.aliases,
            run_id=view.run_id,
            budget=view.budget if site.resolved else None,
            derivation=site.derivation.text,
            charged=view.charged,
            quarantine=view.quarantined,
            own=view.own,
            free=view.free,
            unproven=site.unproven,
            health=_health(site),
            members=tuple(self._member(view, member, now) for member in view.members),
        )

    def _member(self, view: ServerView, member: MemberView, now: float) -> schema.MemberStatus:
        report = member.report
        account = self._of.ledger.servers[view.id].accounts[member.identity.tag]
        silent = member.recalled is not None and now - member.recalled > SILENT_AFTER
        known = self._of.members.known.get(member.identity.tag)
        footprint = self._of.footprints.of.get(member.identity.pid)
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
        supervisor = self._of
        notes = [text for text in (supervisor.turns.unwritten, supervisor.astray) if text]
        notes += supervisor.notes
        for site in supervisor.book.shown():
            if not site.resolved:
                notes.append(f"{site.id}: not reached yet, so nothing is handed out")
            if "CLIENT LIST" in site.forbidden:
                notes.append(
                    f"{site.id}: the server forbids CLIENT LIST ({site.forbidden['CLIENT LIST']}), so permits of dead "
                    "processes are freed after a wait instead of a proof"
                )
            if site.nameless:
                notes.append(
                    f"{site.id}: connections of {len(site.nameless)} processes bear no name there "
                    f"({next(iter(site.nameless.values()))}), so their permits are unprovable: once a process is gone "
                    "its own are freed after a wait; allow their user CLIENT SETNAME or CLIENT SETINFO "
                    "(ACL SETUSER ... +client|setname +client|setinfo)"
                )
            if site.neighbours:
                others = sorted(site.neighbours.values(), key=lambda known: -known.count)
                pids = ", ".join(f"process {known.pid}" for known in others[:3])
                notes.append(
                    f"{site.id}: another supervisor of ours uses it from this host ({pids}), and neither knows what "
                    f"the other gives away: {ONE_SOCKET}"
                )
            strange = supervisor.ledger.servers[site.id].strange
            if strange:
                notes.append(
                    f"{site.id}: {strange} connections bear names like ours, and nobody has registered them: they are "
                    "charged for as long as the server shows them (CLIENT LIST, names with pm1.)"
                )
            view = views.of(supervisor.ledger, site.id)
            busy = sum(1 for member in view.members if member.report is not None)
            if site.resolved and view.budget < busy:
                notes.append(f"{site.id}: the budget {view.budget} is less than its {busy} processes: permits rotate")
        return notes

    def reading(self) -> Reading:
        """Everything that ``/metrics`` serves."""
        of = self._of
        views = {site.id: (site, views.of(of.ledger, site.id)) for site in of.book.shown()}
        return Reading(
            status=self.status(),
            limits=self.limits(),
            ledgers={
                id: Counted(
                    recalled=view.recalled_total,
                    rotated=view.rotated_total,
                    outages=site.outages,
                    handover=view.handover,
                )
                for id, (site, view) in views.items()
            },
            totals=of.members.totals.copy(),
            restarts=of.ledger.restarts,
            snapshots=of.turns.writer.writes,
            unwritten=bool(of.turns.unwritten),
        )

    def limits(self) -> schema.Limits:
        """How each budget came about."""
        return schema.Limits(
            servers=tuple(
                schema.ServerLimits(
                    id=site.id,
                    budget=self._of.ledger.servers[site.id].budget if site.resolved else None,
                    derivation=site.derivation.text,
                    parts=site.derivation.parts,
                )
                for site in self._of.book.shown()
            )
        )
