"""One server as the shell knows it: ways to it, credentials, health, limits. Plain data.

The ledger knows a server by its id and counts. Everything needed to *reach* it is here, in memory only. Credentials are
never logged and never in the snapshot.
"""

from __future__ import annotations

import msgspec

from poolmgr.budget.ceilings import Derivation, Governor
from poolmgr.supervisor.upstreams.sameness import Sameness
from poolmgr.supervisor.upstreams.summary import Summary
from poolmgr.supervisor.upstreams.ways import Ways
from poolmgr.wire import Endpoint


class Health(msgspec.Struct):
    """The server's health, as its users see it and as we do.

    Attributes:
        up: members can connect, as far as is known; since: seconds of the epoch, 0 while up; error: why they cannot.
        unseen: why the supervisor cannot see it; empty: it can. unseen_since: seconds of the epoch, 0 while it can.
    """

    up: bool = True
    since: float = 0.0
    error: str = ""
    unseen: str = ""
    unseen_since: float = 0.0


class Neighbour(msgspec.Struct):
    """Another supervisor of this host: how many connections at the server bear its names, one of its processes, and
    when that was seen."""

    count: int
    pid: int
    seen: float


class Upstream:
    """See the module's docstring.

    Attributes:
        id: the server's id: the first key by which it was learned.
        ways: how it can be reached, by key, and the results.
        resolved: its identity is known, so members may receive its id.
        reached: our last look was answered, or none has been made.
        waiting: (tag, key) of members to inform when it is resolved.
        lost: names (``TAG-SERIAL``) of connections that members could not close properly.
        unclosed: names of our own such connections, and of those made to an address that may lead here; with the time
            from which each holds a permit of this server.
        nameless: processes whose connections here bear no name, and why: no list proves that these are gone.
        listed: processes of whose connections a list has shown one.
        overdrawn_at: when an unknown address was last looked at without a permit of this server's.
        forbidden: commands that the server does not let us give, with its words.
        refused: a member has met ``maxclients``, and we have not looked since.
        server_process: (pid, start time) of the server, where it is on this host and on a Unix socket.
        address: the server's address and port as the kernel knows them; None over a Unix socket.
        others: clients that are not ours; fits: how many of ours there is room for, open ones included; None: not
            known.
        used: when it was last used, in the ledger's time.
        asked_at: when it was last asked for its run_id, and gave it or could not be reached; likewise.
        fresh_at: likewise, by fresh connections to all its addresses.
        changed_at: when its run_id last changed.
        sameness: what its addresses say.
        neighbours: other supervisors of this host that use the server, by the scope or place in their names.
        unproven: permits freed after a bounded wait instead of a proof.
        outages: how often the server has stopped answering.
        shown: what the last list came to; shown_at: when it came.
    """

    def __init__(self, server: str) -> None:
        self.id = server
        self.ways = Ways()
        self.resolved = False
        self.waiting: list[tuple[str, str]] = []
        self.run_id = ""
        self.health = Health()
        self.reached = True
        self.governor = Governor()
        self.derivation = Derivation(0, "not known yet")
        self.bound = ""
        """Why no word of the operator's would make the budget larger now; empty if one would."""
        self.operator: str | None = None
        self.maxclients: int | None = None
        self.others: int | None = None
        self.fits: int | None = None
        self.remark = ""
        self.rejected: int | None = None
        self.lost: dict[str, float] = {}
        self.unclosed: dict[str, float] = {}
        self.nameless: dict[str, str] = {}
        self.listed: set[str] = set()
        self.overdrawn_at = -1e9
        self.forbidden: dict[str, str] = {}
        self.refused = False
        self.neighbours: dict[str, Neighbour] = {}
        self.unproven = 0
        self.outages = 0
        self.server_process: tuple[int, int] | None = None
        self.address: tuple[str, int] | None = None
        self.used = 0.0
        self.asked_at = self.fresh_at = -1e9
        self.sameness = Sameness()
        self.changed_at = -1e9
        self.shown = Summary()
        self.shown_at = -1e9

    @property
    def among(self) -> bool:
        """Whether each name that led here led to other addresses as well."""
        ways = list(self.ways.all())
        return bool(ways) and all(way.endpoint.among for way in ways)

    @property
    def own(self) -> bool:
        """Whether all its users reach it in ways of their own: then our failure to reach it says nothing about it."""
        ways = list(self.ways.all())
        return bool(ways) and all(way.endpoint.own for way in ways)

    @property
    def hidden(self) -> bool:
        """Its users have ways of their own, and we do not reach it."""
        return not self.reached and self.own

    @property
    def endpoints(self) -> tuple[tuple[Endpoint, ...], ...]:
        """The endpoints to try, by key, likeliest first."""
        return self.ways.endpoints
