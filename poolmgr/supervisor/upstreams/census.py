"""Count the connections that are already there when a supervisor meets a server (rule S4).

After a lost snapshot, and always when a server is met for the first time, the list shows connections that may come from
an earlier supervisor (:mod:`poolmgr.supervisor.upstreams.belonging`). Nothing else identifies their owners, so they are
charged while a list shows them: those of living processes until they have registered.
"""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from poolmgr import tags
from poolmgr.budget import recovery
from poolmgr.budget.accounts import Identity
from poolmgr.budget.ledger import Ledger
from poolmgr.kernel import processes
from poolmgr.kernel.processes import lives
from poolmgr.supervisor.clients.watch import Watch
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log
from poolmgr.supervisor.upstreams import unproven
from poolmgr.supervisor.upstreams.belonging import Belonging
from poolmgr.supervisor.upstreams.findings import Findings
from poolmgr.supervisor.upstreams.ports import RegistryPort
from poolmgr.supervisor.upstreams.schedule import Schedule
from poolmgr.supervisor.upstreams.summary import Summary
from poolmgr.supervisor.upstreams.upstream import Upstream

UNHEARD = 2.0
"""Seconds for which no limit is raised at a newly met server where living processes hold connections of ours and have
not registered."""


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


class Census:
    """The search of one server for such connections, and the raises that are held until their holders have registered.
    Used in the event loop."""

    def __init__(self, upstream: Upstream, context: Context, registry: RegistryPort, schedule: Schedule) -> None:
        self._upstream = upstream
        self._context = context
        self._registry = registry
        self._ledger = context.ledger
        self._schedule = schedule
        self._unheard: set[str] = set()
        """Living processes that hold connections here and have not registered."""
        self._unheard_until = 0.0

    def heard(self, tag: str) -> None:
        """A process has registered, or is gone."""
        self._unheard.discard(tag)

    def begin(self, found: Findings, now: float, began: float) -> None:
        """The server is met."""
        self._unheard = self._count(found, now)
        if self._has_seen_all(found, began):
            self._ledger.searched(self._upstream.id)
        self._unheard_until = now + UNHEARD

    def again(self, found: Findings, now: float, began: float) -> None:
        """All members of the previous supervisor have had time to register (:meth:`Ledger.whole`), so this search is
        complete. Members that have not registered are charged with what it finds. Without a password that the server
        accepts the search is put off: a process that cannot log in has no use for a permit."""
        if self._has_seen_all(found, began):
            self._count(found, now)
            self._ledger.searched(self._upstream.id)
            self.release_held_raises(now)

    def release_held_raises(self, now: float) -> None:
        """Release raises after the census, once the processes it found have had time to register."""
        server = self._ledger.servers.get(self._upstream.id)
        if server is None or not server.held or not self._upstream.resolved:
            return
        if not self._unheard or now >= self._unheard_until:
            self._ledger.hold_raises(self._upstream.id, False)
            if not server.held:
                self._context.committer.touch()

    def held_until(self, now: float) -> float:
        """When to check again whether raises may be released; infinity: no process is waited for."""
        return max(self._unheard_until, now + 0.1) if self._unheard else math.inf

    def _count(self, found: Findings, now: float) -> set[str]:
        """Charge connections that bear our tags. Returns their living holders that have not registered."""
        context, server = self._context, self._upstream.id
        if found.shown is not None:
            context.scope.searched(self._ledger.servers[server].aliases)
        return take(found.shown or Summary(), server, self._ledger, context.watch, context.belonging, now)

    def _has_seen_all(self, found: Findings, began: float) -> bool:
        """Whether a look begun then cannot have missed anything opened before :meth:`Ledger.whole`.

        This is known from a list made after a fresh connection by every way, in which every connection of that time has
        a name. If there can be no such list, bounded waits replace it, as for a proof
        (:mod:`poolmgr.supervisor.upstreams.unproven`).
        """
        waited = began - self._registry.latecomers.over_since
        if waited < 0:
            return False
        if "CLIENT LIST" in found.forbidden or self._upstream.hidden:
            return True
        if found.shown is None or not (found.fresh or (found.silent and waited > unproven.WAIT)):
            return False
        return not found.suspects or waited > self._schedule.handshake + 1  # ages are whole seconds
