"""After a snapshot was lost: members may live that this supervisor does not know (rule S4).

They get :data:`GRACE` seconds to register, in which no limit is raised. Then each server is searched for connections of
those that died before they could register (:mod:`poolmgr.supervisor.upstreams.census`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from poolmgr.supervisor.context import Context
from poolmgr.supervisor.logs import log

GRACE = 2.0
"""Seconds for which no limit is raised after a snapshot was lost, so that the previous supervisor's members can
register. The wait replaces a proof: those members are not known."""


class Latecomers:
    """See the module's docstring. One for the supervisor; used in the event loop.

    Args:
        over: called when the wait is over.

    Attributes:
        over_since: since when no unknown process opens anything (monotonic seconds).
    """

    def __init__(self, context: Context, over: Callable[[], None]) -> None:
        self._ledger = context.ledger
        self._committer = context.committer
        self._over = over
        self._waited = False
        self.over_since = context.committer.clock()

    def wait(self) -> None:
        """The ledger is partial: wait for unknown members."""
        self._waited = True
        asyncio.get_running_loop().call_later(GRACE, self._end)

    def registered(self, tag: str) -> None:
        """If this member states more than is charged, the supervisor that granted it left no record, so there may be
        other unknown members. No limit is raised until they have had time to register."""
        servers = self._ledger.servers.values()
        if self._waited or not any(server.accounts[tag].excess for server in servers if tag in server.accounts):
            return
        self._ledger.mark_partial()
        self.wait()
        detail = "a member states more than is known: the previous supervisor's snapshot is lost"
        log.warning("snapshot.unusable", extra={"reason": "missing", "detail": detail})

    def search_again(self, server: str) -> None:
        """Permits charged there were freed without a proof: the server is searched for what may be left."""
        self.over_since = self._committer.clock()
        self._ledger.search_again(server)
        self._committer.touch()

    def _end(self) -> None:
        self._ledger.whole()
        self.over_since = self._committer.clock()
        self._over()
        self._committer.touch()
