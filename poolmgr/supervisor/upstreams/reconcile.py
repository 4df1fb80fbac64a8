"""What follows from a look at a server: its health, the next look, freed permits, the budget.

An inspection's :class:`Findings` go to the upstream, to the ledger (by :mod:`poolmgr.supervisor.upstreams.reclaim` and
:mod:`poolmgr.supervisor.upstreams.allowance`), to the schedule, and to the members when an outage begins or ends. It
must never look itself: nothing here waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from poolmgr import wire
from poolmgr.kernel import processes
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.allowance import Allowance
from poolmgr.supervisor.upstreams.findings import Findings, Work
from poolmgr.supervisor.upstreams.inspection import questions
from poolmgr.supervisor.upstreams.outages import Outages
from poolmgr.supervisor.upstreams.ports import RegistryPort
from poolmgr.supervisor.upstreams.reclaim import Reclaimer
from poolmgr.supervisor.upstreams.schedule import AGAIN, BUSY, STRANGE, Schedule
from poolmgr.supervisor.upstreams.unproven import Waits
from poolmgr.supervisor.upstreams.upstream import Upstream
from poolmgr.wire import Endpoint

ASK_EVERY = 1.0
"""Seconds between two requests for other credentials."""


HIDDEN_AGAIN = 10.0
"""Seconds between two looks at a server that only its users can reach: each takes one of their permits."""


@dataclass(eq=False, repr=False)
class Reconciler:
    """See the module's docstring. One for each upstream; used in the event loop."""

    _upstream: Upstream
    _context: Context
    _registry: RegistryPort
    _allowance: Allowance
    _reclaimer: Reclaimer
    _schedule: Schedule
    _waits: Waits

    def __post_init__(self) -> None:
        self._ledger = self._context.ledger
        self.learned: Callable[[Findings], None] = lambda found: None
        """Called with the findings of each look. Set once."""
        self.outages = Outages(self._upstream, self._context, self._registry)
        self._asked: dict[tuple[str, str | None, str | None], float] = {}
        """The ways for which other credentials were requested, and when."""

    def note(self, found: Findings, now: float, began: float) -> None:
        """Take health, and when to look again, from a look that began then."""
        upstream = self._upstream
        self.learned(found)
        if found.server_pid:
            upstream.server_process = found.server_pid, processes.start_time(found.server_pid)
        upstream.address = found.address or upstream.address
        for tried in found.tried:
            if tried.kind == "auth":
                self._ask_for_logins(tried.endpoint, now)
            if tried.kind:
                upstream.ways.failed(
                    tried.endpoint, tried.text, now, silent=tried.silent, unconnected=tried.unconnected
                )
            else:
                upstream.ways.worked(tried.endpoint, now, asked=tried.asked, forbidden=tried.forbidden)
        for rows, seconds in found.lists:
            self._schedule.throttle.made(rows, seconds, now)
        kind, text = found.error or ("", "")
        if found.answered or kind == "refused":
            said = f"the server refuses the supervisor's login: {text}" if kind == "auth" else ""
            if self.outages.seen(min(found.at or now, now), now, said):
                self._registry.twins.compare_again(upstream)
            self._waits.answered(now)
            if found.info or "INFO" in found.forbidden or found.busy or found.error is not None:
                self._schedule.looked(now)
            if found.shown is not None or "CLIENT LIST" in found.forbidden:
                self._schedule.listed(now)
            if found.error is not None:
                self._schedule.retry_at = now + self.outages.pause()
            if kind == "refused":
                upstream.refused = False
                self._allowance.full(now)
                self._schedule.looked(now)
            return
        if found.error is not None:
            self.outages.not_seen(text, began, now, ours=kind == "way" or upstream.own)
            if self.outages.blind and not upstream.own:  # what others close ends there, unseen by us
                left = self._reclaimer.targets() - upstream.unclosed.keys()
                self._waits.looked(left, now, fresh=True, blind=True)
            elif self.outages.helpless:
                self._waits.none_can_look(now, self.outages.replied)
        self._schedule.retry_at = now + (HIDDEN_AGAIN if upstream.own else self.outages.pause())
        if found.deserted:
            self._reclaimer.deserted(now)

    def _ask_for_logins(self, endpoint: Endpoint, now: float) -> None:
        """The server rejects these credentials. They may have been temporary, and the members that named them may have
        new ones: ask them."""
        self._asked = {asked: at for asked, at in self._asked.items() if now < at + ASK_EVERY}
        way = endpoint.key, endpoint.username, endpoint.password
        if way in self._asked:
            return
        self._asked[way] = now
        for tag in self._upstream.ways.names_of(endpoint):
            self._context.roster.send(tag, wire.Ask(self._upstream.id, login=endpoint.key))

    def feed(self, work: Work, found: Findings, now: float) -> None:
        """Free what is proven; let changes change the budget."""
        upstream = self._upstream
        run_id = upstream.sameness.turned(upstream.run_id, upstream.id)
        if run_id:
            if upstream.run_id:
                log.warning("server.restarted", extra={"server": upstream.id, "run_id": run_id})
            upstream.run_id, upstream.changed_at = run_id, now
            self._ledger.server(upstream.id, run_id=run_id)
        for what, words in found.forbidden.items():
            if what not in upstream.forbidden:
                log.warning("server.forbids", extra={"server": upstream.id, "command": what, "error": words})
        if (found.info or found.shown is not None or found.forbidden) and not found.busy:
            asked = questions(work) - (set() if found.killed else {"CLIENT KILL"})
            upstream.forbidden = {what: words for what, words in upstream.forbidden.items() if what not in asked}
            upstream.forbidden.update(found.forbidden)
        if found.shown is not None:
            upstream.shown, upstream.shown_at = found.shown, now
            upstream.listed.update(found.shown.numbers)
        nameless = self._reclaimer.nameless(work.targets)
        self._reclaimer.free(found.gone - nameless, now)
        if found.gone - nameless:
            self._context.committer.run()  # members have what is free before anything else is done
        if work.targets:
            shut_out = found.error is not None and found.error[0] == "auth"
            self._waits.looked(
                (work.targets - found.gone) | nameless,
                now,
                fresh=found.fresh or found.silent or shut_out,
                blind="CLIENT LIST" in found.forbidden or found.silent or shut_out or bool(upstream.sameness.several),
                nameless=nameless,
            )
            left = self._reclaimer.targets()
            again = BUSY if found.busy else AGAIN if left - self._reclaimer.strange() else STRANGE
            self._schedule.prove_at = now + again if left & work.targets else 0.0
        if found.info or found.shown is not None or "INFO" in found.forbidden:
            rejected = found.info.get("rejected_connections", "")
            rose = rejected.isdecimal() and upstream.rejected is not None and int(rejected) > upstream.rejected
            if rejected.isdecimal():
                upstream.rejected = int(rejected)
            if self._allowance.learn(found, now):
                self._schedule.list_again()
            if upstream.refused or rose:
                upstream.refused = False
                self._allowance.refused(now)
            self._allowance.apply(now)
            if work.facts:
                self._schedule.looked(now)  # the budget decides when to look again
