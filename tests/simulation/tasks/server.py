"""A server in virtual time, connections to it made by the real pool's classes, and the permits for them."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any

from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError

from poolmgr.exceptions import ConnectionPoolTimeoutError
from poolmgr.member.core.bounds import Cause
from poolmgr.member.ports import Bell, Outage, Shortage
from poolmgr.pool.aio.parker import TaskParker
from poolmgr.wire import Endpoint

if TYPE_CHECKING:
    from tests.simulation.tasks.world import World

ANY = socket.socket(socket.AF_UNIX)
"""What all connections here are copies of: a descriptor that says nothing."""


class Permit:
    """See :class:`poolmgr.member.ports.Permit`."""

    name = ""

    def __init__(self, permits: Permits, serial: int) -> None:
        self.permits = permits
        self.serial = serial
        self.held: socket.socket | None = None
        self.ended = self.closing = False

    def hold(self, sock: socket.socket, below: int = -1) -> None:
        if self.held is not None or self.ended:
            self.permits.world.violated("a permit is used for two sockets")
        self.held = sock
        self.permits.held[self.serial] = self

    def gone(self) -> None:
        if not self.ended and not self.closing:
            if self.held is not None:
                self.permits.world.violated("a permit is given back while its socket is open")
            self.permits.free(self)

    def close(self, sock: socket.socket) -> None:
        if self.ended:
            self.permits.world.violated("a socket is closed whose permit was given back")
        elif not self.closing:
            self.closing = self.permits.out[self.serial] = True
            sock.close()
            world = self.permits.world
            world.after(world.delay(0.0005), self.permits.free, self)

    def __del__(self) -> None:
        self.gone()


class Permits:
    """At most :attr:`limit` permits; whoever waits hears of one that is free some time after."""

    outage: Outage | None = None
    pending: Cause = "others"
    obstacle = ""
    over = serves_here = unreached = False

    def __init__(self, world: World, limit: int, endpoint: Endpoint) -> None:
        self.world = world
        self.limit = limit
        self.endpoint = endpoint
        self.out: dict[int, bool] = {}
        """Serials of permits that are not free; the value: whether it is being closed."""
        self.held: dict[int, Permit] = {}
        """Those of sockets: the member refers to them until they are closed."""
        self.claimants: list[Claimant] = []
        self._serials = itertools.count(1)

    @property
    def free_ones(self) -> int:
        return self.limit - len(self.out)

    @property
    def surplus(self) -> int:
        return max(0, len(self.out) - self.closing - self.limit)

    @property
    def closing(self) -> int:
        return sum(self.out.values())

    def take(self, claimant: Claimant | None = None) -> Permit | None:
        """As the member's: who waits by itself comes first."""
        spoken_for = self.claimants and claimant not in self.claimants and self.free_ones <= len(self.claimants)
        if self.free_ones <= 0 or spoken_for:
            return None
        permit = Permit(self, next(self._serials))
        self.out[permit.serial] = False
        return permit

    def free(self, permit: Permit) -> None:
        permit.ended = True
        del self.out[permit.serial]
        self.held.pop(permit.serial, None)
        self.world.after(self.world.delay(0.0005), self.tell)

    def tell(self) -> None:
        """The member's thread: there may be a permit. Who reconnects inside a command waits for one by itself."""
        for claimant in tuple(self.claimants)[: max(0, self.free_ones)]:
            claimant.bell.ring()
        self.world.pool.grow()

    def give_up(self) -> bool:
        return self.surplus > 0

    def attend(self, seconds: float) -> bool:
        return False

    def claimant(self, timeout: float | None, bell: Bell) -> Claimant:
        return Claimant(self, timeout, bell)

    def explain(self) -> Shortage:
        return Shortage("budget", f"all {self.limit} permits are taken")

    def wait(self, timeout: float | None) -> Permit:
        raise AssertionError("a task would block its loop")

    def trouble(self, kind: str, detail: str, began: float = 0.0) -> None: ...

    def renew(self, endpoint: Endpoint) -> None: ...

    def prefer(self) -> None: ...

    def leave(self) -> None: ...

    def reached(self) -> None: ...


class Claimant:
    """See :class:`poolmgr.member.ports.Claimant`."""

    def __init__(self, permits: Permits, timeout: float | None, bell: Bell) -> None:
        self.permits = permits
        self.bell = bell
        self.until = permits.world.now + (60.0 if timeout is None else timeout)
        self.loop = permits.world.running
        permits.claimants.append(self)

    def by_itself(self) -> bool:
        """Whether it is a task's, and not what a loop is about to open."""
        return isinstance(self.bell, TaskParker) and self.loop in self.permits.world.loops

    def look(self) -> Permit | float:
        permit = self.permits.take(self)
        left = self.until - self.permits.world.now
        if permit is None and left <= 0:
            raise ConnectionPoolTimeoutError("no permit", reason="budget")
        return min(left, 0.25) if permit is None else permit

    def leave(self) -> None:
        if self in self.permits.claimants:
            self.permits.claimants.remove(self)
            self.permits.world.after(self.permits.world.delay(0.0005), self.permits.tell)


class Writer:
    """Stands for a connection's stream of bytes."""

    def __init__(self) -> None:
        self.ended = False
        """By the server."""
        self.transport = self

    def get_extra_info(self, name: str, default: object = None) -> object:
        return ANY if name == "socket" else default

    def at_eof(self) -> bool:
        return self.ended

    def abort(self) -> None: ...

    close = abort


class Link(Connection):
    """A connection of a user's own class: each step of its connect takes a while, and may fail or be cancelled."""

    def __init__(self, *, world: World, **options: Any) -> None:
        self.world = world
        super().__init__(**options)

    async def _connect(self) -> None:
        await self.world.passes(0.001)
        if self.world.refuses():
            raise RedisConnectionError("refused")
        stream: Any = Writer()
        self._reader = self._writer = stream

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await self.world.passes(0.001)
        if self.world.refuses():
            await self.disconnect()
            raise RedisConnectionError("ended in the handshake")


class Member:
    """Gives the permits of one address."""

    def __init__(self, world: World, limit: int) -> None:
        self.world = world
        self.limit = limit
        self.permits: Permits | None = None

    def attach(self, endpoint: Endpoint, pool: Any) -> Permits:
        if self.permits is None:
            self.permits = Permits(self.world, self.limit, endpoint)
        return self.permits
