"""The ledger seen from outside: numbers for people, and a check of what must always hold."""

from __future__ import annotations

from poolmgr.budget.accounts import MemberView, ServerView
from poolmgr.budget.ledger import Ledger


def of(ledger: Ledger, id: str) -> ServerView:
    """The numbers of one server, for people."""
    server = ledger.servers[id]
    return ServerView(
        id=server.id,
        aliases=tuple(sorted(server.aliases)),
        run_id=server.run_id,
        budget=server.budget,
        operator=server.operator,
        held=server.held,
        charged=server.charged,
        quarantined=server.quarantined,
        own=server.own,
        free=server.free,
        handover=server.handover,
        recalled_total=server.recalled_total,
        rotated_total=server.rotated_total,
        members=tuple(
            MemberView(
                identity=ledger.members[tag].identity,
                limit=account.limit,
                charge=account.charge,
                linked=account.linked,
                report=account.report,
                waiting=account.waiting,
                recalled=account.recalled,
            )
            for tag, account in server.accounts.items()
        ),
    )


def check(ledger: Ledger) -> None:
    """Raise AssertionError if what must always hold does not. For the simulation and for debugging."""
    for server in ledger.servers.values():
        for tag, account in server.accounts.items():
            assert tag in ledger.members, f"{tag} has an account and is not a member"
            limits = [limit for _, limit in account.told]
            assert limits, f"{tag} was sent no limit"
            assert limits == sorted(set(limits), reverse=True), f"{tag} was sent {account.told}"
            assert min(limits) >= 0, f"{tag} was sent {account.told}"
        assert all(entry.charge > 0 for entry in server.quarantine.values())
        assert server.charged == sum(account.charge for account in server.accounts.values())
        assert server.own >= 0
