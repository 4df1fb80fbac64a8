"""What the supervisor's parts have in common, made once and never changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from poolmgr.budget.ledger import Ledger
from poolmgr.settings import Settings
from poolmgr.supervisor.clients.roster import Roster
from poolmgr.supervisor.clients.watch import Watch
from poolmgr.supervisor.committer import Committer
from poolmgr.supervisor.disk.scope import Scope
from poolmgr.supervisor.upstreams.belonging import Belonging


@dataclass(frozen=True)
class Context:
    """See the module's docstring.

    Attributes:
        committer: settles the ledger, saves it, and sends its decisions.
        watch: follows processes.
        belonging: who owns a connection.
        serial: numbers for connections of the supervisor's own.
    """

    ledger: Ledger
    committer: Committer
    settings: Settings
    roster: Roster
    watch: Watch
    belonging: Belonging
    scope: Scope
    serial: Iterator[int]
