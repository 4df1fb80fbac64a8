"""What one host at a time does for the whole fleet: prove that marked leases have nothing left, audit, count (F6).

Pure: a survey of the table and a list of clients in, what follows out. The order is what makes it a proof, and is the
caller's: the survey marks; then a fresh connection is opened and answered; then it lists. Whatever passed its gate
before the mark is in that list, since it had its name by then; what has no name yet, and was accepted before the fresh
connection, holds up the proof. What comes later finds its gate shut.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from poolmgr.fleet.script import Survey


class Seen(msgspec.Struct, frozen=True, gc=False):
    """One client in a list.

    Attributes:
        id: the server's number of it; later ones have larger numbers.
        lease: the lease's name in its name; empty: none.
        suspect: it has no name yet, and may still get one of the fleet's.
    """

    id: int
    lease: str = ""
    suspect: bool = False


class Verdict(msgspec.Struct, frozen=True):
    """What a list says.

    Attributes:
        shown: names of leases that have connections.
        gone: marked leases that have none: their grants can be freed.
        complete: nothing that was accepted before the fresh connection is still without a name. Only then does a
            census say all.
        others: clients that bear no lease's name.
    """

    shown: frozenset[str]
    gone: frozenset[str]
    complete: bool
    others: int


def judge(survey: Survey, fresh: int, clients: Iterable[Seen]) -> Verdict:
    """Read a list.

    Args:
        survey: taken before the fresh connection was opened.
        fresh: that connection's number; 0: the server does not say, and any suspect may be older. It was answered
            before the list was asked for.
        clients: the list.
    """
    shown: set[str] = set()
    complete, others = True, 0
    for client in clients:
        if client.lease:
            shown.add(client.lease)
        else:
            others += 1
            complete = complete and not (client.suspect and (not fresh or client.id < fresh))
    gone = survey.marked - shown if complete else frozenset()
    return Verdict(frozenset(shown), gone, complete, others)


def leftovers(condemned: Iterable[str], clients: Iterable[Seen]) -> list[int]:
    """The numbers of the clients to be killed: those that bear a name which the table has condemned."""
    names = frozenset(condemned)
    return [client.id for client in clients if client.lease in names]
