"""Connections whose end has to be proven at one server, and what the proof frees (rule S3).

There are three kinds: those of ended processes (quarantine), those that members could not close properly, and our own
that were not closed properly. An inspection proves the end with :mod:`poolmgr.supervisor.upstreams.proof`; this module
lists what needs a proof and informs the holders. It must never free anything on less: where a proof is impossible,
:mod:`poolmgr.supervisor.upstreams.unproven` replaces it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Set

from poolmgr import wire
from poolmgr.budget.accounts import TO_REGISTER
from poolmgr.kernel import processes
from poolmgr.supervisor.context import Context
from poolmgr.supervisor.upstreams.own_permits import OwnPermits
from poolmgr.supervisor.upstreams.upstream import Upstream


class Reclaimer:
    """See the module's docstring. One for each upstream; used in the event loop."""

    def __init__(self, upstream: Upstream, context: Context, permits: OwnPermits) -> None:
        self._upstream = upstream
        self._context = context
        self._ledger = context.ledger
        self._permits = permits

    def targets(self) -> frozenset[str]:
        """Everything whose end has to be proven now."""
        server, now = self._ledger.servers[self._upstream.id], self._context.committer.clock()
        gone = {tag for tag, entry in server.quarantine.items() if entry.due(now)}
        return frozenset(gone | self._upstream.lost.keys() | self._upstream.unclosed.keys())

    def due_at(self, now: float) -> float:
        """When the next target is due, among those that still have time to register; infinity: none."""
        server = self._ledger.servers[self._upstream.id]
        waiting = (entry.since + TO_REGISTER for entry in server.quarantine.values() if not entry.due(now))
        return min(waiting, default=math.inf)

    def strange(self) -> frozenset[str]:
        """Targets that may not be ours: they are counted, and never killed."""
        server = self._ledger.servers[self._upstream.id]
        return frozenset(tag for tag, entry in server.quarantine.items() if not entry.registered)

    def nameless(self, targets: Set[str]) -> frozenset[str]:
        """The targets that a list cannot show: their connections bear no name, or use the process's own way, which has
        not been seen to lead to this server."""
        return frozenset(name for name in targets if self._is_unlisted(name.partition("-")[0]))

    def _is_unlisted(self, tag: str) -> bool:
        upstream = self._upstream
        return tag in upstream.nameless or (tag not in upstream.listed and upstream.ways.own(tag))

    def free(self, gone: Set[str], now: float) -> None:
        """The server no longer shows any of these."""
        upstream = self._upstream
        for name in gone:
            if upstream.unclosed.pop(name, None) is not None:
                self._permits.release()
            elif upstream.lost.pop(name, None) is not None:
                self.let_go(name)
            else:
                self._ledger.proven(upstream.id, name, now)
                self._forget(name)
        here = self._context.roster.known.keys() | {name.partition("-")[0] for name in self.targets()}
        upstream.nameless = {tag: why for tag, why in upstream.nameless.items() if tag in here}
        upstream.listed &= here

    def _forget(self, tag: str) -> None:
        """Nothing of it is left here. Stop following a living process that has never registered."""
        ledger = self._ledger
        if tag not in ledger.members and not any(tag in s.quarantine for s in ledger.servers.values()):
            self._context.watch.remove(tag)

    def let_go(self, name: str) -> None:
        """Tell a member that its lost connection is gone."""
        tag, _, serial = name.rpartition("-")
        self._context.roster.send(tag, wire.Gone(self._upstream.id, (int(serial),)))

    def deserted(self, now: float) -> None:
        """No process listens at the server any more."""
        if self._server_is_gone():
            self.free(self.targets(), now)

    def _server_is_gone(self) -> bool:
        """Whether the very process that held the other ends has ended: a proof for all of them at once, while no
        process listens there. A listener may be its successor, to which members may have connected.

        A missing listener proves nothing by itself: a server closes its listeners in the middle of its life (CONFIG SET
        port, the first moment of SHUTDOWN), and a proxy, a firewall or an address that has moved refuses while the
        connections behind it live on.
        """
        known = self._upstream.server_process
        if known is None or known[1] == 0:
            return False
        now = processes.start_time(known[0])
        # 0 also means "cannot look", when descriptors are short.
        return now != known[1] if now else not os.path.lexists(f"/proc/{known[0]}")
