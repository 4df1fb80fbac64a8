"""A policy without sense: raises and lowers anybody at any time, in place of :mod:`poolmgr.budget.sharing`.

The rules of the ledger must hold whatever the policy says.
"""

from __future__ import annotations

import random

from poolmgr.budget.accounts import Server
from poolmgr.budget.effects import Decision

OFTEN = 0.004
"""Longest time in seconds between two decisions."""


def decide(server: Server, now: float, rng: random.Random) -> Decision:
    """As :func:`poolmgr.budget.sharing.decide`, at random."""
    decision = Decision(wake=now + OFTEN * rng.random())
    for tag, account in server.accounts.items():
        dice = rng.random()
        if dice < 0.3:
            decision.raises.append((tag, account.limit + rng.randint(1, 3)))
        elif dice < 0.5 and account.limit:
            decision.lowers.append((tag, rng.randrange(account.limit)))
        elif dice < 0.55 and account.linked:
            decision.asks.append(tag)
    return decision
