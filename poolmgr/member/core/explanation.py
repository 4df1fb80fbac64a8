"""Why a process cannot have a connection now, in words, for a caller that waited in vain. Pure; decides nothing."""

from __future__ import annotations

from poolmgr.member.core.dispatcher import Dispatcher
from poolmgr.member.ports import Shortage


def explain(dispatcher: Dispatcher, key: str) -> Shortage:
    """Why this dispatcher has no permit, with numbers.

    Args:
        key: the endpoint, as the caller knows it.
    """
    account = dispatcher.account
    if dispatcher.outage is not None:
        return Shortage("server", f"{key} has been down: {dispatcher.outage.error}")
    closing = len(account.closing) + len(account.lost)
    mine = f"this process holds {account.open} of its limit {account.limit}" + (
        f" ({closing} of them closing)" if closing else ""
    )
    if account.seq and account.room is not None and account.room <= account.open < account.limit:
        return Shortage(
            "descriptors",
            f"this process's limit of open files leaves {dispatcher.descriptors} connections to {key}: {mine}; "
            "raise it (ulimit -n, LimitNOFILE=)",
        )
    if not account.seq:
        return Shortage("supervisor", f"no supervisor has answered for {key}, so no connection can be opened; {mine}")
    if dispatcher.picture is None:
        return Shortage("budget", f"the shared budget of {key} has no permit to spare: {mine}")
    others = ", ".join(f"{title} {count}" for title, count in dispatcher.picture.others)
    return Shortage(
        "budget",
        f"the shared budget of {dispatcher.picture.budget} connections to {key} is exhausted: {mine}"
        + (f"; held by {others}" if others else ""),
    )
