"""Rule S4: how the ledger survives its supervisor.

A successor must know everything that rule S1 sums, and whose it is. It does not need sequences, links
and demands: members state again what they hold when they register. :mod:`poolmgr.supervisor.disk.snapshot`
reads and writes the file.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from poolmgr.budget.accounts import Account, Identity, Saved, SavedMember, SavedQuarantine, SavedServer, Server
from poolmgr.budget.ledger import Ledger


def save(ledger: Ledger, now: float) -> Saved:
    """The ledger as a successor needs it: everything that S1 sums, and whose it is."""
    charges: dict[str, dict[str, int]] = {}
    for server in ledger.servers.values():
        for tag, account in server.accounts.items():
            if account.charge:
                charges.setdefault(tag, {})[server.id] = account.charge
    return Saved(
        owner=ledger.owner,
        servers=tuple(_server(server, now) for server in ledger.servers.values()),
        members=tuple(SavedMember(ledger.members[tag].identity, held) for tag, held in charges.items()),
        restarts=ledger.restarts,
        partial=ledger.partial,
        scopes=tuple(ledger.scopes),
    )


def _server(server: Server, now: float) -> SavedServer:
    return SavedServer(
        id=server.id,
        aliases=tuple(sorted(server.aliases)),
        run_id=server.run_id,
        budget=server.budget,
        operator=server.operator,
        own=server.own,
        quarantine=tuple(
            SavedQuarantine(tag, entry.charge, max(0.0, now - entry.since), entry.exited, entry.registered)
            for tag, entry in server.quarantine.items()
        ),
        search=server.search,
        unknown=server.unknown,
        lease=server.lease,
    )


def restored(
    saved: Saved,
    now: float,
    *,
    alive: Callable[[Identity], bool],
    owner: Identity | None = None,
    rng: random.Random | None = None,
    fleet: str = "",
) -> Ledger:
    """Rule S4: the ledger of the successor of the supervisor that wrote ``saved``.

    Args:
        alive: whether a listed process still runs, as the same program.
        fleet: as for :class:`Ledger`.
    """
    ledger = Ledger(owner=owner, rng=rng, fleet=fleet)
    restore(ledger, saved, now, alive)
    ledger.persist()
    return ledger


def restore(ledger: Ledger, saved: Saved, now: float, alive: Callable[[Identity], bool]) -> None:
    """Fill an empty ledger. The old supervisor's own connections go into quarantine under its tag."""
    ledger.restarts = saved.restarts + 1
    ledger.partial = saved.partial
    for scope in saved.scopes:
        ledger.adopt(scope)
    for old in saved.servers:
        server = ledger.server(old.id, aliases=old.aliases, run_id=old.run_id)
        server.budget, server.operator, server.search = old.budget, old.operator, old.search
        server.unknown, server.lease = old.unknown, old.lease if ledger.fleet else None
        for entry in old.quarantine:
            since = now - entry.age
            ledger.quarantine(server, entry.tag, entry.charge, since, exited=entry.exited, registered=entry.registered)
        ledger.quarantine(server, saved.owner.tag, old.own, now)
    for listed in saved.members:
        restore_member(ledger, listed, now, alive(listed.identity))


def restore_member(ledger: Ledger, listed: SavedMember, now: float, lives: bool) -> None:
    """A living member keeps its charge until it registers; that of a dead one goes into quarantine."""
    tag = listed.identity.tag
    if lives:
        ledger.remember(listed.identity)
    for id, charge in listed.charges.items():
        server = ledger.servers[id]
        if lives:
            server.accounts[tag] = Account(told=[(0, charge)])
            server.charged += charge
        else:
            ledger.quarantine(server, tag, charge, now)
    if not lives:
        ledger.forget(tag)


def census(ledger: Ledger, id: str, tag: str, count: int, now: float, *, exited: bool) -> None:
    """Without a readable snapshot, charge what the server shows under our tags: ``count`` connections. A member
    that has registered has stated what it holds; it is not counted twice.

    Args:
        exited: whether the process is known to have ended. The find of one that lives is charged
            until it registers and states what it holds.
    """
    server = ledger.servers[id]
    if tag in server.accounts and not exited:
        ledger.look_at(id)
        return
    entry = server.quarantine.get(tag)
    if entry is None:
        departed = ledger.is_departed(tag)  # it was a member, and has said goodbye if it lives
        ledger.quarantine(server, tag, count, now, exited=exited or departed, registered=departed)
    else:
        entry.charge = max(entry.charge, count)
    ledger.look_at(id)
