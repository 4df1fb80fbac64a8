"""What must always hold of a ledger, whatever happened to it."""

from __future__ import annotations

from poolmgr.budget.ledger import Ledger


def check(ledger: Ledger) -> None:
    """Raise AssertionError if it does not hold."""
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
