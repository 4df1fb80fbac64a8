"""What becomes of the claims when two servers turn out to be one, or one turns out to be two.

The ledger counts each server by itself. Which server an address leads to shows only when it is asked, and may change
(a failover by DNS, a balancer): :mod:`poolmgr.supervisor.upstreams` finds that out. Here the claims follow. They are
added where two become one, and counted at both where one becomes two. So until the members have said what they hold
where, too much may be charged, and never too little.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from poolmgr.budget.accounts import Account
from poolmgr.budget.ledger import Ledger


def dissolve(ledger: Ledger, server: str, into: str) -> None:
    """``server`` has turned out to be another name of ``into``, which takes over all charges."""
    old, new = ledger.remove(server), ledger.servers[into]
    new.aliases |= old.aliases
    for tag, account in old.accounts.items():
        known = new.accounts.get(tag)
        stated = account.charge + (known.charge if known else 0)
        new.charged += stated - (known.charge if known else 0)
        seq = known.seq if known else 0  # the member has heard of these; the next limit must be newer
        new.accounts[tag] = Account(
            told=[(seq, stated)],
            seq=seq,
            unanswered=True,
            excess=sum(a.excess for a in (account, known) if a is not None and a.unanswered),
            unopened=sum(a.unopened for a in (account, known) if a is not None and a.unanswered),
            linked=account.linked,
            ceiling=account.ceiling,
            active=account.active,
            leases=account.leases | (known.leases if known else set()),
        )
    for tag, entry in old.quarantine.items():
        ledger.quarantine(new, tag, entry.charge, entry.since, exited=entry.exited, registered=entry.registered)
    new.own += old.own
    if old.search and not new.search:
        ledger.search_again(into)
    ledger.look_at(into)


def part(ledger: Ledger, server: str, new: str, aliases: Iterable[str], tags: Collection[str]) -> None:
    """Some addresses of ``server``, which ``tags`` use, lead to another one: ``new``. Only a member knows what it
    has open by which address, and has not said so yet: so it is charged with all at both. At ``new`` it opens
    nothing before a limit reaches it, and none is sent before :meth:`Ledger.settled`, or :func:`dissolve` into a known
    one."""
    old, known = ledger.servers[server], ledger.server(new, aliases=aliases)
    known.budget, known.unknown = old.budget, True
    for tag, account in old.accounts.items():
        if tag in tags or not account.linked:  # the addresses of an unregistered member are not known
            charge = account.charge
            known.accounts[tag] = Account(
                told=[(0, charge)],
                unanswered=True,
                excess=charge,
                unopened=charge,
                linked=account.linked,
                ceiling=account.ceiling,
                active=account.active,
                leases=set(account.leases),
            )
            known.charged += charge
            account.unanswered, account.excess = True, 0  # permits that move to `new` make room here
    for tag, entry in old.quarantine.items():
        ledger.quarantine(known, tag, entry.charge, entry.since, exited=entry.exited, registered=entry.registered)
    known.search = old.search
    ledger.persist()
    ledger.look_at(new)
