"""A model of a Redis server: what it counts, what it lists, and when it notices.

It counts a connection from the moment it *accepts* it (one queue, in order of the connects) until it
*notices* that it was closed, which may be long after the client's side did so. A connection has no
name until the server has read the client's first commands. Half-open ones never notice: only
``CLIENT KILL`` ends them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolmgr.supervisor.upstreams.proof import Row

HERE = "10.0.0.1"
"""Our address as servers see it."""

if TYPE_CHECKING:
    from tests.simulation.world import World


class Connection:
    """One socket, both ends."""

    __slots__ = (
        "accepted", "addr", "alive", "born", "census", "ended", "half", "id", "key",
        "named", "on_end", "on_ready", "ready", "shut", "strange", "tag",
    )  # fmt: skip

    def __init__(self, key: int, tag: str, on_ready: Callable[[], None], on_end: Callable[[], None]) -> None:
        self.key = key
        self.tag = tag
        """``PROCESS-SERIAL``: the name it will have."""
        self.id = 0
        self.born = 0.0
        self.accepted = False
        self.named = False
        self.ready = False
        self.shut = False
        """The client's side is closed, or its process is dead."""
        self.alive = True
        """The client reads: it hears of readiness and of the end."""
        self.census = False
        """A supervisor's that does not know of everything yet: there is nothing to charge it against."""
        self.addr = f"{HERE}:1"
        self.strange = False
        """Somebody else's, whatever its name says: it is not counted, and must not be killed."""
        self.half = False
        """No packet gets through any more: the server does not learn of the close."""
        self.ended = False
        """The server has let go of it."""
        self.on_ready = on_ready
        self.on_end = on_end


class Server:
    """See the module's docstring. ``count`` is the oracle: what ``maxclients`` would be compared with."""

    def __init__(self, world: World, id: str, budget: int) -> None:
        self.world = world
        self.id = id
        self.budget = budget
        """What the operator allows now; see :meth:`World.bound`."""
        self.bound = budget
        """How many connections there may be at this moment: more than the budget while a shrunk one is overdrawn."""
        self.slack = 0
        """1 while the supervisor looks with a permit over the budget, or takes a census of who knows what."""
        self.count = 0
        self.most = 0
        self.connections: dict[int, Connection] = {}
        """Accepted and not ended, by id."""
        self.strangers: list[Connection] = []
        self._queue: deque[Connection] = deque()
        self._accept_at = 0.0
        self._next = 0

    # ---- clients ---------------------------------------------------------------------------------

    def connect(self, tag: str, on_ready: Callable[[], None], on_end: Callable[[], None]) -> Connection:
        """It is queued at once; ``on_ready`` follows when it has been accepted and has answered."""
        self._next += 1
        conn = Connection(self._next, tag, on_ready, on_end)
        self._queue.append(conn)
        clock = self.world.clock
        self._accept_at = max(self._accept_at, clock.now + self.world.delay(self.world.scenario.accept))
        clock.at(self._accept_at, self._accept)
        return conn

    def _accept(self) -> None:
        if not self._queue:
            return
        conn = self._queue.popleft()
        world = self.world
        self.count += not (conn.census or conn.strange)
        self.most = max(self.most, self.count)
        conn.id = conn.key
        conn.accepted = True
        conn.born = world.clock.now
        self.connections[conn.id] = conn
        if world.tracing:
            world.note(f"{self.id} accepts {conn.tag}: {self.count} of {self.bound}")
        if self.count > self.bound + self.slack:
            world.violated(f"{self.id} counts {self.count} connections, {self.bound} allowed")
        world.clock.after(world.delay(world.scenario.accept), self._name, conn)
        if conn.shut and not conn.half:
            world.clock.after(world.delay(world.scenario.notice), self._notice, conn)

    def _name(self, conn: Connection) -> None:
        if conn.ended or conn.half or (conn.shut and self.world.rng.random() < 0.5):
            return  # the client was gone before it had said its name
        conn.named = True
        self.world.clock.after(self.world.delay(0.0001), self._ready, conn)

    def _ready(self, conn: Connection) -> None:
        if conn.alive and not conn.shut and not conn.ended:
            conn.ready = True
            conn.on_ready()

    def shut(self, conn: Connection) -> None:
        """The client ends its side. ``on_end`` follows when the server has confirmed."""
        if conn.shut:
            return
        conn.shut = True
        if conn.accepted and not conn.half and not conn.ended:
            self.world.clock.after(self.world.delay(self.world.scenario.notice), self._notice, conn)

    def die(self, conn: Connection) -> None:
        """The client's process is gone."""
        conn.alive = False
        self.shut(conn)

    def _notice(self, conn: Connection) -> None:
        if not conn.ended:
            self._end(conn)

    def _end(self, conn: Connection) -> None:
        conn.ended = True
        self.count -= not (conn.census or conn.strange)
        del self.connections[conn.id]
        if self.world.tracing:
            self.world.note(f"{self.id} lets go of {conn.tag}: {self.count} of {self.bound}")
        if conn.alive:
            self.world.clock.after(self.world.delay(0.0001), self._ended, conn)

    def _ended(self, conn: Connection) -> None:
        if conn.alive:
            conn.on_end()

    # ---- commands and troubles -------------------------------------------------------------------

    def rows(self) -> list[Row]:
        """``CLIENT LIST`` at this moment."""
        now = self.world.clock.now
        return [
            Row(c.id, c.addr, c.tag if c.named else "", int(now - c.born), "client|setname" if c.named else "")
            for c in self.connections.values()
        ]

    def kill(self, id: int) -> None:
        """``CLIENT KILL ID``."""
        conn = self.connections.get(id)
        if conn is not None:
            if conn.strange:
                self.world.violated(f"{self.id} is told to kill {conn.tag} of {conn.addr}, which is a stranger's")
            self._end(conn)

    def visit(self, tag: str, addr: str) -> None:
        """Somebody else connects, under a name that may look like ours."""
        conn = self.connect(tag, lambda: None, lambda: None)
        conn.strange, conn.addr = True, f"{addr}:2"
        self.strangers.append(conn)

    def strangers_leave(self) -> None:
        for conn in self.strangers:
            self.die(conn)
        self.strangers.clear()

    def keepalive(self) -> None:
        """It has asked those of whom it has heard nothing for long, and lets go of what nobody answers for."""
        for conn in list(self.connections.values()):
            if conn.half and not conn.alive:
                self._end(conn)

    def restart(self) -> None:
        """Every connection ends, the queued ones too."""
        for conn in list(self.connections.values()):
            self._end(conn)
        while self._queue:
            conn = self._queue.popleft()
            conn.ended = True
            if conn.alive:
                self.world.clock.after(self.world.delay(0.0001), self._ended, conn)

    @property
    def queued(self) -> int:
        return len(self._queue)
