"""How large a server's budget is now: what was found out, put into :mod:`poolmgr.budget.ceilings`."""

from __future__ import annotations

from collections.abc import Callable

from poolmgr.budget import ceilings
from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.inspection import Findings
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.proof import Row
from poolmgr.supervisor.site import Site


class Allowance:
    """One site's budget.

    Args:
        scope: of the tags that are ours.
        descriptors: what a member's limit of open files leaves, by its tag; 0: not known.
    """

    def __init__(
        self, site: Site, ledger: Ledger, settings: Settings, scope: str, descriptors: Callable[[str], int]
    ) -> None:
        self._site = site
        self._ledger = ledger
        self._settings = settings
        self._scope = scope
        self._descriptors = descriptors

    def learn(self, found: Findings) -> None:
        """Keep what an inspection has found out about limits and other clients."""
        site = self._site
        if found.info or found.forbidden:
            site.maxclients = found.maxclients if found.maxclients is not None else site.maxclients
        site.remark = "; ".join(f"{what}: {words}" for what, words in found.forbidden.items() if what != "CLIENT KILL")
        bus = _number(found.info.get("cluster_connections"))
        if found.rows is not None:
            site.others = sum(1 for row in found.rows if not self._ours(row)) + bus
        elif found.info and "CLIENT LIST" in site.forbidden:
            everyone = _number(found.info.get("connected_clients")) + _number(found.info.get("connected_slaves"))
            site.others = max(0, everyone - self.open()) + bus

    def _ours(self, row: Row) -> bool:
        """With other hosts in the division their connections are no foreign ones."""
        tag = row.tag
        return tag is not None and (tag.scope == self._scope or self._settings.hosts > 1)

    def open(self) -> int:
        """Connections that our members have open, by their own account, and our own."""
        server = self._ledger.servers[self._site.id]
        return server.own + sum(account.report.open for account in server.accounts.values() if account.report)

    def refused(self, found: Findings, now: float) -> None:
        """``maxclients`` is reached: what we have now is what we may have."""
        if found.rows is not None:
            opened = sum(1 for row in found.rows if row.tag is not None and row.tag.scope == self._scope)
        else:
            opened = self.open()
        budget = self._site.governor.refused(opened, now)
        if budget is not None:
            log.warning("budget.refused", extra={"server": self._site.id, "open": opened, "budget": budget})
            self.apply(now)

    def restored(self, now: float) -> None:
        """The budget of the supervisor before holds until the server has been asked; the operator's own
        number needs no asking."""
        budget = self._ledger.servers[self._site.id].budget
        self._site.derivation = ceilings.Derivation(budget, f"budget {budget} = as it was before the restart")
        if self._word() != "auto":
            self.apply(now, at_once=True)

    def _word(self) -> str | int:
        """What the operator says: live before the environment, a number or ``auto``."""
        return self._site.operator or self._settings.budget_of(self._keys())

    def _keys(self) -> set[str]:
        return self._ledger.servers[self._site.id].aliases

    def apply(self, now: float, *, at_once: bool = False) -> None:
        """Derive the budget anew and give it to the ledger.

        Args:
            at_once: the operator has just said so, or it is the first time.
        """
        site, settings = self._site, self._settings
        word = self._word()
        operator = None if word == "auto" else int(word)
        source = "set by poolmgr budget" if site.operator else "REDIS_CONNECTION_BUDGET"
        if not site.operator and any(key in settings.budgets for key in self._keys()):
            source = "REDIS_CONNECTION_BUDGETS"
        derivation = ceilings.derive(
            ceilings.Facts(
                operator=operator,
                source=source,
                maxclients=site.maxclients,
                reserve=settings.reserve,
                others=site.others,
                hosts=settings.hosts,
                descriptors=self._members_descriptors(),
                remark=site.remark,
            )
        )
        before = site.governor.budget
        budget = site.governor.follow(derivation.budget, now, at_once=at_once or before is None)
        if budget < derivation.budget:
            why = "after a refusal" if site.governor.cap is not None else "until that has lasted"
            derivation = ceilings.Derivation(
                budget, f"budget {budget}, less than {derivation.text.removeprefix('budget ')} {why}", derivation.parts
            )
        site.derivation = derivation
        self._ledger.set_budget(site.id, budget, now, operator=site.operator)
        if before is None or abs(budget - before) > before // 20:
            log.info("budget.derived", extra={"server": site.id, "budget": budget, "derivation": derivation.text})

    def _members_descriptors(self) -> int | None:
        """The sum over the members; None if one of them has not said."""
        total = 0
        for tag in self._ledger.servers[self._site.id].accounts:
            left = self._descriptors(tag)
            if left <= 0:
                return None
            total += left
        return total or None


def _number(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else 0
