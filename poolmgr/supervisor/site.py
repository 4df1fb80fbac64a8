"""One server as the shell knows it: ways to it, credentials, health, limits. Plain data.

The ledger knows a server by its id and counts; everything that is needed to *reach* it is here, in
memory only. Credentials are never logged and never in the snapshot.
"""

from __future__ import annotations

import msgspec

from poolmgr.budget.ceilings import Derivation, Governor
from poolmgr.supervisor.proof import Row
from poolmgr.wire import Endpoint

CREDENTIALS = 4
"""How many different credentials for one way are kept; newest first."""


class Health(msgspec.Struct):
    """What the probe knows. ``since``: seconds of the epoch, 0 while up."""

    up: bool = True
    since: float = 0.0
    error: str = ""


class Site:
    """See the module's docstring.

    Attributes:
        id: the server's id: the first key by which it was learned.
        ways: endpoints by key, likeliest credentials first.
        resolved: it is known which server this is, so that members may be told its id.
        waiting: (tag, key) of members that are to be told when it is resolved.
        lost: names (``TAG-SERIAL``) of connections that members could not close properly.
        unclosed: names of own connections of which the same is true.
        forbidden: what the server does not let us do, by command, with its words.
        refused: a member has met ``maxclients``, and nobody has looked since.
        server_process: (pid, start time) of the server, where it is on this host and on a Unix socket.
        address: the server's address and port as the kernel knows them; None over a Unix socket.
        used: when somebody last used it, in the ledger's time.
        asked_at: when it was last asked who it is, and said so or could not be reached; likewise.
        unproven: permits freed after a bounded wait instead of a proof.
        outages: how often the server has stopped answering.
    """

    def __init__(self, server: str) -> None:
        self.id = server
        self.ways: dict[str, list[Endpoint]] = {}
        self.resolved = False
        self.waiting: list[tuple[str, str]] = []
        self.run_id = ""
        self.health = Health()
        self.governor = Governor()
        self.derivation = Derivation(0, "not known yet")
        self.operator: str | None = None
        self.maxclients: int | None = None
        self.others: int | None = None
        self.remark = ""
        self.rejected: int | None = None
        self.lost: dict[str, float] = {}
        self.unclosed: set[str] = set()
        self.forbidden: dict[str, str] = {}
        self.refused = False
        self.unproven = 0
        self.outages = 0
        self.server_process: tuple[int, int] | None = None
        self.address: tuple[str, int] | None = None
        self.used = 0.0
        self.asked_at = -1e9
        self.rows: list[Row] = []
        self.rows_at = -1e9

    def learn(self, endpoint: Endpoint) -> bool:
        """Another way, or other credentials for one; whether the way is new."""
        ways = self.ways.setdefault(endpoint.key, [])
        new = not ways
        if endpoint in ways:
            ways.remove(endpoint)
        ways.insert(0, endpoint)
        del ways[CREDENTIALS:]
        return new

    @property
    def endpoints(self) -> tuple[tuple[Endpoint, ...], ...]:
        return tuple(tuple(ways) for ways in self.ways.values() if ways)
