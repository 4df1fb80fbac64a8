"""The ledger seen from outside: the numbers of one server, for people."""

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
