"""How large a server's budget is now: it feeds what was found out into :mod:`poolmgr.budget.ceilings`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from poolmgr import tags
from poolmgr.budget import ceilings
from poolmgr.budget.foreign_clients import Others
from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.fleet import remarks
from poolmgr.supervisor.fleet.leaseholder import Leaseholder
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams.belonging import Belonging
from poolmgr.supervisor.upstreams.findings import Findings
from poolmgr.supervisor.upstreams.summary import Summary
from poolmgr.supervisor.upstreams.upstream import Neighbour, Upstream

NEIGHBOURS_KEPT = 180.0
"""Seconds for which another supervisor of this host is remembered without open connections: three lists."""

ONE_SOCKET = (
    "give all services of this host one POOLMGR_SOCKET, outside of /tmp (PrivateTmp=); or divide the server by "
    "REDIS_CONNECTION_BUDGET"
)


@dataclass(eq=False, repr=False)
class Allowance:
    """One upstream's budget.

    Args:
        belonging: which connections are ours.
        descriptors: what a member's limit of open files leaves, by its tag; 0: not known.
        lease: this host's part of its fleet; None: it is in none.
    """

    _upstream: Upstream
    _ledger: Ledger
    _settings: Settings
    _belonging: Belonging
    _descriptors: Callable[[str], int]
    lease: Leaseholder | None = None

    def __post_init__(self) -> None:
        self._others = Others()
        self._bus = 0
        """Connections of the server's cluster bus."""
        self._unknown = 0
        """Connections in the last list that did not belong to this host."""

    def learn(self, found: Findings, now: float) -> bool:
        """Keep an inspection's findings about limits and other clients. Returns whether so many clients have come that
        a list is worth its cost."""
        upstream = self._upstream
        if found.info or found.forbidden:
            upstream.maxclients = found.maxclients if found.maxclients is not None else upstream.maxclients
        upstream.remark = "; ".join(
            f"{what}: {words}" for what, words in upstream.forbidden.items() if what != "CLIENT KILL"
        )
        counted = found.info.get("connected_clients", "").isdecimal()
        server = self._ledger.servers[upstream.id]
        opened, likely, unknown = self.open(), 0, 0
        if counted:
            self._bus = _number(found.info.get("cluster_connections"))
            everyone = _number(found.info["connected_clients"]) + _number(found.info.get("connected_slaves"))
            likely = self._others.read(everyone, opened, server.outstanding, now) + self._bus
            unknown = everyone - opened
            upstream.fits = (
                None if upstream.maxclients is None else opened + max(0, upstream.maxclients - everyone - self._bus)
            )
        elif found.info or "INFO" in found.forbidden:
            upstream.fits = None
        if found.shown is not None:
            self._meet(found.shown, now)
            self._unknown = unknown if counted else self._unknown
            if not upstream.nameless or not counted:
                named = sum(count for tag, count in found.shown.counts.items() if not self._ours(tag))
                upstream.others = found.shown.strangers + named + self._bus
                return False
        # Only a list distinguishes connections of our other hosts and supervisors from foreign ones.
        divided = self._settings.hosts > 1 or bool(upstream.neighbours)
        if counted and (not divided or upstream.others is None or "CLIENT LIST" in upstream.forbidden):
            upstream.others = likely
        if not counted or upstream.maxclients is None:
            return False
        return 2 * (unknown - self._unknown) > ceilings.reserve_of(upstream.maxclients, self._settings.reserve)

    def _meet(self, shown: Summary, now: float) -> None:
        """Log each other supervisor of this host that uses the server, loudly, once: neither knows of the other. Those
        of a fleet share the fleet's budget: pods of one machine are hosts of their own."""
        upstream = self._upstream
        here: dict[str, Neighbour] = {}
        for tag, count in shown.counts.items():
            if self._belonging.neighbour(tag) and not (self._settings.fleet and tag.scope in shown.leased):
                here.setdefault(tag.scope or tag.place, Neighbour(0, tag.pid, now)).count += count
        for scope, found in here.items():
            if scope not in upstream.neighbours:
                log.warning(
                    "server.shared",
                    extra={"server": upstream.id, "member": found.pid, "count": found.count, "remedy": ONE_SOCKET},
                )
        before = {scope: known for scope, known in upstream.neighbours.items() if now < known.seen + NEIGHBOURS_KEPT}
        upstream.neighbours = {**{s: Neighbour(0, known.pid, known.seen) for s, known in before.items()}, **here}

    def _ours(self, tag: tags.Tag) -> bool:
        """Whether a connection is ours. With other hosts in the division, theirs are not foreign."""
        return self._settings.hosts > 1 or self._charged(tag)

    def _charged(self, tag: tags.Tag) -> bool:
        """Whether it is in the ledger. While no limit is raised, some may belong to members that still have to
        register."""
        server = self._ledger.servers[self._upstream.id]
        known = self._belonging.known(tag) or tag.process in server.quarantine
        return known or (server.held and self._belonging.possible(tag))

    def open(self) -> int:
        """Connections that our members report open, plus our own. A member without a report, or a dead one, counts with
        its charge."""
        server = self._ledger.servers[self._upstream.id]
        accounts = server.accounts.values()
        said = sum(account.report.open if account.report else account.charge for account in accounts)
        return server.own + server.quarantined + said

    def refused(self, now: float) -> None:
        """``maxclients`` is reached: the budget is what we have now."""
        opened = self.open()
        budget = self._upstream.governor.refused(opened, now)
        if budget is not None:
            log.warning("budget.refused", extra={"server": self._upstream.id, "open": opened, "budget": budget})
            self.apply(now)

    def full(self, now: float) -> None:
        """A look of our own was refused: there is no room, whatever was reported before."""
        if self._upstream.fits is not None:
            self._upstream.fits = self.open()
        self.refused(now)

    def restored(self, now: float) -> None:
        """The previous supervisor's budget holds until the server has been asked; the operator's own number needs no
        asking."""
        budget = self._ledger.servers[self._upstream.id].budget
        self._upstream.derivation = ceilings.Derivation(budget, f"budget {budget} = as it was before the restart")
        if self._word() != "auto":
            self.apply(now, at_once=True)

    def _word(self) -> str | int:
        """The operator's word, a number or ``auto``: a live command goes before the environment."""
        return self._upstream.operator or self._settings.budget_of(self._keys())

    def _keys(self) -> set[str]:
        return self._ledger.servers[self._upstream.id].aliases

    def apply(self, now: float, *, at_once: bool = False) -> None:
        """Derive the budget again and give it to the ledger.

        Args:
            at_once: the operator has just set it, or it is the first time.
        """
        upstream, settings = self._upstream, self._settings
        word = self._word()
        operator = None if word == "auto" else int(word)
        source = "set by poolmgr budget" if upstream.operator else "REDIS_CONNECTION_BUDGET"
        if not upstream.operator and any(key in settings.budgets for key in self._keys()):
            source = "REDIS_CONNECTION_BUDGETS"
        leased = None if self.lease is None else self.lease.limit
        derivation = ceilings.derive(
            ceilings.Facts(
                lease=leased,
                lease_words="" if self.lease is None else remarks.origin(self.lease),
                operator=operator,
                source=source,
                maxclients=upstream.maxclients,
                reserve=settings.reserve,
                others=upstream.others,
                hosts=settings.hosts,
                supervisors=1 + len(upstream.neighbours),
                theirs=sum(known.count for known in upstream.neighbours.values()) if settings.hosts == 1 else 0,
                used=self._ledger.servers[upstream.id].used,
                descriptors=self._members_descriptors(),
                remark=upstream.remark,
            )
        )
        before = upstream.governor.budget
        budget = upstream.governor.follow(
            derivation.budget, now, at_once=at_once or before is None, fits=upstream.fits, quick=leased is not None
        )
        if budget < derivation.budget:
            why = "after a refusal" if upstream.governor.cap is not None else "until that has lasted"
            derivation = ceilings.Derivation(
                budget,
                f"budget {budget}, less than {derivation.text.removeprefix('budget ')} {why}",
                derivation.parts,
                derivation.alone,
            )
        upstream.derivation = derivation
        upstream.bound = self._bound(budget)
        yields = (operator is not None or leased is not None) and upstream.governor.cap is None
        self._ledger.set_budget(upstream.id, budget, now, operator=upstream.operator, spares_used=not yields)
        if before is None or abs(budget - before) > before // 20:
            log.info("budget.derived", extra={"server": upstream.id, "budget": budget, "derivation": derivation.text})

    def _bound(self, budget: int) -> str:
        """See :attr:`poolmgr.supervisor.upstreams.upstream.Upstream.bound`."""
        most = self._upstream.maxclients
        if self._upstream.governor.cap is not None:
            return f"the server takes no more clients now (maxclients{'' if most is None else f' {most}'})"
        if most is not None and budget >= most:
            return f"the server's maxclients is {most}"
        return ""

    def _members_descriptors(self) -> int | None:
        """The sum over the members; None if one of them has not reported it."""
        total = 0
        for tag in self._ledger.servers[self._upstream.id].accounts:
            left = self._descriptors(tag)
            if left <= 0:
                return None
            total += left
        return total or None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
