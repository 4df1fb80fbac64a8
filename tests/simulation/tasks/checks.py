"""What must hold in the world of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from poolmgr.pool import parts

if TYPE_CHECKING:
    from tests.simulation.tasks.loop import Loop
    from tests.simulation.tasks.world import World

PROMPT = 0.03
"""Seconds in which what is free goes to a waiter. Far less than those after which a waiter looks for itself, which
would hide a wake-up that was lost."""


class Checks:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.holders: dict[Any, Loop] = {}
        self.callers: list[tuple[Loop, Any]] = []
        """Those in a queue, and the loop of each."""
        self._idle_since: dict[str, float] = {}
        self._size = 0
        """Of the pool, at the last look."""

    # ---- a connection ----------------------------------------------------------------------------

    def lent(self, connection: Any) -> None:
        if connection in self.holders:
            self.world.violated("a connection is lent twice")
        if not connection.is_connected or connection._owed:
            self.world.violated("a connection is lent that is not connected, or not clean")
        permit = connection._permit
        if permit is None or permit.ended or permit.closing:
            self.world.violated("a connection is lent that has no permit")
        loop = self.world.running
        assert loop is not None
        self.holders[connection] = loop

    def back(self, connection: Any) -> None:
        self.holders.pop(connection, None)

    def closed(self, loop: Loop) -> None:
        """A loop's tasks are no more."""
        self.holders = {connection: at for connection, at in self.holders.items() if at is not loop}
        self.callers = [pair for pair in self.callers if pair[0] is not loop]

    # ---- between the steps -----------------------------------------------------------------------

    def quiet(self) -> None:
        """Nothing is left to do at this time: nobody may be owed anything."""
        self.callers = [pair for pair in self.callers if not pair[1].over]
        for _, caller in self.callers:
            if caller._waiter.fate is not None:
                self.world.violated(f"a waiter was not woken for {caller._waiter.fate}")
        world = self.world
        shards = [shard for shard in world.pool._shards if not shard.loop.is_closed()]
        for shard in shards:
            core = shard._core
            if core.waiting and core.idle:
                world.violated(f"a connection lies idle beside a waiter: {core}")
        size, ceiling = sum(shard._core.size for shard in world.pool._shards), world.pool.max_connections
        if size > ceiling and size > self._size:
            world.violated(f"the loops together have grown above the ceiling of {ceiling}: {[s._core for s in shards]}")
        self._size = size
        over = sum(shard._core.size - shard._core.lent - len(shard._core.opening) for shard in shards)
        self._lasts("more connections than the ceiling", over > ceiling)
        self._lasts("one loop has an idle connection, another one's task waits with nothing", self._is_hoarded(shards))
        self._lasts("a permit is free, and a waiter waits", world.free() > 0 and self._could_open(shards))
        permits = world.member.permits
        claims = [] if permits is None else [c for c in permits.claimants if c.by_itself()]
        self._lasts("a permit is free, and one that reconnects waits", world.free() > 0 and bool(claims))

    def _is_hoarded(self, shards: list[Any]) -> bool:
        """It costs a connect, so a task that has waited for less than some has no right to it."""
        now = self.world.now
        worth = [parts.WORTH * shard._core.connect_time for shard in shards]
        starving = [
            shard for shard, pause in zip(shards, worth, strict=True)
            if shard._core.size == 0 and shard._core.waiting and shard._core.closed is None
            and now >= shard._core.retry_at and (head := shard.head()) is not None and now > head.since + pause
            and now > shard.got_at + pause and not self.world.free()
        ]  # fmt: skip
        return bool(starving) and any(shard._core.idle for shard in shards)

    def _could_open(self, shards: list[Any]) -> bool:
        pool = self.world.pool
        room = sum(shard._core.size for shard in pool._shards) < pool.max_connections
        claims = 0 if self.world.member.permits is None else len(self.world.member.permits.claimants)
        return (
            room
            and self.world.free() > claims
            and any(
                shard._core.waiting and not shard._core.opening and self.world.now >= shard._core.retry_at + PROMPT
                for shard in shards
            )
        )

    def _lasts(self, what: str, true: bool) -> None:
        """It may be so for a moment."""
        if not true:
            self._idle_since.pop(what, None)
        elif self.world.now - self._idle_since.setdefault(what, self.world.now) > PROMPT:
            self.world.violated(f"{what}: {[shard._core for shard in self.world.pool._shards]}")

    # ---- in the end ------------------------------------------------------------------------------

    def rest(self) -> None:
        """All loops are closed, and the member has looked since."""
        world = self.world
        permits = world.member.permits
        if permits is not None and (permits.out or permits.claimants):
            world.violated(f"{len(permits.out)} permits are out, {len(permits.claimants)} wait, and nobody lives")
        if world.pool._shards:
            world.violated(f"loops are not forgotten: {world.pool._shards}")
