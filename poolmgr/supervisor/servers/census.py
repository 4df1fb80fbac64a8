"""Count the connections that are already there when a supervisor meets a server (rule S4).

After a lost snapshot, and always when a server is met for the first time, the list shows connections that may come from
an earlier supervisor (:mod:`poolmgr.supervisor.servers.belonging`). Nothing else identifies their owners, so they are
charged while a list shows them: those of living processes until they have registered.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from poolmgr import tags
from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.kernel import processes
from poolmgr.kernel.processes import lives
from poolmgr.supervisor.clients.watch import Watch
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.servers.belonging import Belonging
from poolmgr.supervisor.servers.summary import Summary


def take(shown: Summary, server: str, ledger: Ledger, watch: Watch, belonging: Belonging, now: float) -> set[str]:
    """Charge connections that no registered member accounts for.

    Returns:
        Tags of living processes that have not registered.
    """
    counts: Counter[tags.Tag] = Counter()
    for scoped, count in shown.counts.items():
        if belonging.known(scoped) or belonging.possible(scoped):
            counts[msgspec.structs.replace(scoped, scope="")] += count
    known = ledger.servers[server]
    unheard: set[str] = set()
    for tag, count in counts.items():
        name = tag.process
        if name == ledger.owner.tag:
            continue
        if name in known.quarantine:  # more may be there than was found, or charged, before
            recovery.census(ledger, server, name, count, now, exited=known.quarantine[name].exited)
            continue
        process = Identity(name, tag.pid, tag.start, processes.program(tag.pid))
        alive = tag.boot == belonging.boot and not ledger.is_departed(name) and lives(process)
        if name in ledger.members:
            continue
        if alive and watch.add(process):
            unheard.add(name)
        else:
            alive = False
        recovery.census(ledger, server, name, count, now, exited=not alive)
        log.warning("census.found", extra={"server": server, "member": tag.pid, "count": count, "alive": alive})
    return unheard
