"""The sentences about this host's lease at a server: where its budget comes from, why it has no more, what is odd.

This module only words them; :mod:`poolmgr.supervisor.fleet.leaseholder` decides. Errors and ``poolmgr status`` show
them.
"""

from __future__ import annotations

from poolmgr.fleet import rights
from poolmgr.supervisor.fleet.leaseholder import Leaseholder


def origin(holder: Leaseholder) -> str:
    """Where the budget there comes from."""
    answer = None if holder.lease is None else holder.lease.answer
    if answer is None:
        return f"lease of fleet {holder.fleet}"
    hosts = f"{answer.hosts:,} host{'' if answer.hosts == 1 else 's'}"
    return f"lease of fleet {holder.fleet} (budget {answer.budget:,}, {hosts})"


def obstacle(holder: Leaseholder, now: float) -> str:
    """Why no process gets more there, if the fleet is the reason; empty: it is not."""
    lease, fleet = holder.lease, holder.fleet
    if holder.outside:
        return ""
    if holder.trouble:
        ended = (holder.seconds_left(now) or 0.0) <= 0
        return f"{holder.trouble} ({'so nothing new is opened' if ended else 'the lease still stands'})"
    if lease is None or not lease.name:
        return f"this host has not joined the fleet {fleet} yet"
    answer = lease.answer
    if answer is not None and answer.budget <= answer.slack:
        return (
            f"the budget of fleet {fleet} is {answer.budget}, its slack {answer.slack}, so no host gets any: "
            f"raise it with poolmgr fleet budget, or REDIS_FLEET_BUDGET, to {answer.slack + 1} or more"
        )
    if answer is not None and answer.learning:
        text = f"the table of fleet {fleet} is new: what is connected is counted first"
        if not holder.able(now):
            ways = holder.upstream.endpoints
            user = ways[0][0].username if ways else None
            text += f", by a host that may list clients, as this one may not. Allow it: {rights.line(user)}"
        return text
    if answer is not None and answer.grant == 0:
        return (
            f"the budget {answer.budget:,} of fleet {fleet} has no connection left for this host: others need all. "
            "For more, raise it with poolmgr fleet budget, or REDIS_FLEET_BUDGET"
        )
    return ""


def oddity(holder: Leaseholder) -> str:
    """What people should know of the fleet's settings though it works; empty: nothing."""
    answer = None if holder.lease is None else holder.lease.answer
    most = holder.upstream.maxclients
    stated = holder.stated_budget
    if answer is not None and stated is not None and answer.slack < answer.budget < stated:
        return (
            f"REDIS_FLEET_BUDGET={stated} here, but {answer.budget} holds in fleet {holder.fleet}: another host states "
            "less, or poolmgr fleet budget has set it. Set the same on all hosts"
        )
    if answer is None or most is None or answer.budget <= most:
        return ""
    return (
        f"the budget {answer.budget} of fleet {holder.fleet} is more than the server takes, which refuses the rest: "
        f"maxclients is {most}. Lower it with poolmgr fleet budget, or raise maxclients"
    )
