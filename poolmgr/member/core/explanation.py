"""Why a process cannot have a connection now, in words, for a caller that waited in vain. Pure; decides nothing."""

from __future__ import annotations

from poolmgr.member.core.dispatcher import Attachment
from poolmgr.member.ports import MAXCLIENTS, Shortage


def explain(attachment: Attachment, stuck: str = "") -> Shortage:
    """Why there is no permit here, with numbers.

    Args:
        stuck: why the supervisor raises no limit; empty if it can.
    """
    dispatcher, endpoint = attachment.dispatcher, attachment.endpoint
    account, key = dispatcher.account, str(endpoint)
    if attachment.outage is not None:
        return Shortage("server", f"{key} is down: {attachment.outage.error}")
    closing = len(account.closing) + len(account.lost)
    mine = f"this process holds {account.open} of its limit {account.limit}" + (
        f", {closing} of them closing" if closing else ""
    )
    if account.seq and account.room is not None and account.room <= account.open < account.limit:
        return Shortage(
            "descriptors",
            f"the open-file limit of this process allows {dispatcher.descriptors} connections to {key} ({mine})",
            "Raise that limit: ulimit -n N, or LimitNOFILE=N in the systemd unit",
        )
    if stuck:
        return Shortage("budget" if account.seq else "supervisor", f"no permit for {key} ({mine}): {stuck}")
    if not account.seq:
        return Shortage("supervisor", f"no supervisor has granted a permit for {key} ({mine})")
    remedy = f"Raise the budget with: poolmgr budget {endpoint.named.removeprefix('tcp://')} N"
    if dispatcher.picture is not None and dispatcher.picture.bound:
        remedy = f"A larger budget does not help, because {dispatcher.picture.bound}: {MAXCLIENTS}"
    if dispatcher.picture is None:
        return Shortage("budget", f"no permit for {key} is free ({mine})", remedy)
    fleet = dispatcher.picture.fleet
    if fleet:
        mine, remedy = f"{mine}; {fleet}", "See who holds what with: poolmgr fleet"
    others = ", ".join(f"{title}: {count}" for title, count in dispatcher.picture.others)
    return Shortage(
        "budget",
        f"all {dispatcher.picture.budget} permits for {key} are taken ({mine}"
        + (f"; largest holders: {others})" if others else ")"),
        remedy,
    )
