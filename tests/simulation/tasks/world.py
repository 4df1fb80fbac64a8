"""The world of tasks: its workers, its faults, and its course."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError

from poolmgr import native
from poolmgr.asyncio import ConnectionPool
from poolmgr.logs.journal import Log
from poolmgr.pool import waiting as steps
from poolmgr.pool.aio import claims, pool as shell, waiting
from tests.simulation.clock import Clock
from tests.simulation.tasks.checks import Checks
from tests.simulation.tasks.loop import Loop
from tests.simulation.tasks.server import Link, Member

LOOKS = 0.05
"""Seconds between two looks of the member's thread."""

BOUND = 30.0
"""Seconds after the last fault in which everybody is done."""

LOOPS = 3
"""Loops that there may be at a time."""

INSTANT = 1e-7
"""Seconds that a callback takes."""

STUCK = 100_000
"""Callbacks at one time, after which something turns for ever."""

ENDLESS = 10_000
"""Looks at the clock within one callback, after which it turns for ever."""


class Violation(Exception):
    """Something that must hold did not."""


class Caller(steps.Caller):
    """Known to the checks."""

    world: World
    over = False
    task: Any = None

    def join(self) -> None:
        loop = self.world.running
        assert loop is not None
        self.task = asyncio.current_task()
        self.world.checks.callers.append((loop, self))
        super().join()

    def outcome(self) -> Any:
        self.over = True
        return super().outcome()

    def give_up(self) -> None:
        self.over = True
        super().give_up()


class World:
    """One seed's."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.clock.now = 1000.0
        self.failing = ""
        self.faulty = True
        self.slow = rng.choice((0.0, 0.02, 0.1))
        self.refusing = rng.choice((0.0, 0.0, 0.05, 0.3))
        self.cancelling = rng.choice((0.0, 0.005, 0.05, 0.15))
        self.think = rng.choice((0.0, 0.001, 0.01))
        self.service = rng.choice((0.0, 0.001, 0.01))
        self.reconnects = rng.choice((0.0, 0.1, 0.3))
        self.breaking = rng.choice((0.0, 0.05, 0.3))
        self.member = Member(self, rng.randint(1, 4))
        member: Any = self.member
        self.checks = Checks(self)
        self.steps = self.cancelled = self._glances = 0
        self.loops: list[Loop] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.struck: set[asyncio.Task[None]] = set()
        self.kept: list[Any] = []
        """Tasks of closed loops, some of which a user still refers to."""
        self._again: asyncio.Task[None] | None = None
        self.pool = ConnectionPool(
            connection_class=Link,
            max_connections=rng.randint(1, 5),
            timeout=rng.choice((None, None, 0.3)),
            min_idle=rng.choice((0, 0, 1)),
            order=rng.choice(("fifo", "lifo")),
            max_connecting=rng.choice((1, 2)),
            max_lifetime=rng.choice((0, 0.2)),
            idle_timeout=rng.choice((0, 0.1)),
            member=member,
            world=self,
            host="10.0.0.1",
            port=1,
            retry=Retry(NoBackoff(), rng.choice((0, 1))),
        )

    # ---- used by all parts -----------------------------------------------------------------------

    @property
    def now(self) -> float:
        return self.clock.now

    def glance(self) -> float:
        """The time, for the pool's code: a callback that asks for it again and again never ends."""
        self._glances += 1
        if self._glances > ENDLESS:
            self.violated("a callback does not come to an end")
            raise Violation(self.failing)
        return self.now

    @property
    def running(self) -> Loop | None:
        found = asyncio._get_running_loop()
        assert found is None or isinstance(found, Loop)
        return found

    def after(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> None:
        """In the member's thread."""
        self.clock.after(seconds, call, *arguments)

    def delay(self, scale: float) -> float:
        if self.slow and self.rng.random() < self.slow:
            return scale * 30 * self.rng.random()
        return scale * 2 * self.rng.random()

    async def passes(self, scale: float) -> None:
        await asyncio.sleep(self.delay(scale))

    def refuses(self) -> bool:
        return self.faulty and self.rng.random() < self.refusing

    def free(self) -> int:
        return 0 if self.member.permits is None else self.member.permits.free_ones

    def violated(self, text: str) -> None:
        self.failing = self.failing or text

    # ---- workers ---------------------------------------------------------------------------------

    async def work(self) -> None:
        rng, pool = self.rng, self.pool
        for _ in range(rng.randint(1, 5)):
            await self.passes(max(self.think, 0.0001))
            try:
                connection = await pool.get_connection()
            except RedisConnectionError:
                continue
            self.checks.lent(connection)
            try:
                await self.passes(self.service)
                if rng.random() < self.reconnects:
                    await connection.disconnect()
                    with contextlib.suppress(RedisConnectionError):
                        await connection.connect()
                elif rng.random() < self.breaking:
                    connection._writer.ended = True
            finally:
                self.checks.back(connection)
                await pool.release(connection)

    def start_worker(self, loop: Loop) -> None:
        task = loop.create_task(self.work())
        self.tasks.append(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task in self.tasks:
            self.tasks.remove(task)
        if task in self.struck:
            self.struck.remove(task)
            if not task.cancelled():
                self.violated("a cancellation was swallowed")
        elif task.cancelled():
            self.violated("a task was cancelled by nobody")
        elif (error := task.exception()) is not None:
            self.violated(f"a worker got {error!r}")
        loop = task.get_loop()
        if self.faulty and isinstance(loop, Loop) and loop in self.loops:
            self.start_worker(loop)

    def start_loop(self) -> None:
        loop = Loop(self.clock)
        self.loops.append(loop)
        for _ in range(self.rng.randint(1, 6)):
            self.start_worker(loop)

    # ---- faults ----------------------------------------------------------------------------------

    def strike(self) -> None:
        """Cancel a task, or again the one that was cancelled last."""
        again, self._again = self._again, None
        if again is not None and not again.done():
            again.cancel()
            return
        if self.rng.random() < self.cancelling:
            behind = [task for shard in self.pool._shards for task in shard._tasks if shard.loop in self.loops]
            behind.sort(key=lambda task: int(task.get_name().rpartition("-")[2]))  # the order of a set is no seed's
            if behind and self.rng.random() < 0.5:
                self.rng.choice(behind).cancel()  # by code that cancels all tasks of a loop
                return
            decided = [caller.task for _, caller in self.checks.callers if caller._waiter.fate and not caller.over]
            struck = [task for task in decided if task in self.tasks]  # between its fate and its waking
            tasks = struck if struck and self.rng.random() < 0.5 else self.tasks
            task = self.rng.choice(tasks) if tasks else None
            if task is not None and task.cancel():
                self.cancelled += 1
                self.struck.add(task)
                if self.rng.random() < 0.3:
                    self._again = task

    def close_loop(self, loop: Loop) -> None:
        """Without a goodbye, in the middle of whatever its tasks do."""
        self.loops.remove(loop)
        gone = [task for task in self.tasks if task.get_loop() is loop]
        self.tasks = [task for task in self.tasks if task.get_loop() is not loop]
        self.struck.difference_update(gone)
        self.checks.closed(loop)
        loop.close()
        if self.rng.random() < 0.5:
            self.kept.extend(gone)
        del gone, loop
        gc.collect()

    def fault(self) -> None:
        rng = self.rng
        kind = rng.choice(("limit", "limit", "loop", "loop", "drain", "resize"))
        permits = self.member.permits
        if kind == "limit" and permits is not None:
            permits.limit = rng.randint(1, 4)
            self.pool.shed(permits.surplus)
            permits.tell()
        elif kind == "loop":
            if len(self.loops) < LOOPS and rng.random() < 0.6:
                self.start_loop()
            else:
                self.close_loop(rng.choice(self.loops))
                if not self.loops:
                    self.start_loop()
        elif kind == "drain":
            self.pool.drain()
        elif kind == "resize":
            self.pool.resize(max_connections=rng.randint(1, 5))

    def look(self) -> None:
        """The member's thread looks at its pool."""
        self.pool.usage(reset=True)
        self.pool.tick(self.now)
        permits = self.member.permits
        if permits is not None:
            wanted = len(permits.claimants) - permits.free_ones - permits.closing
            self.pool.shed(max(permits.surplus, wanted, 0))
        self.after(LOOKS, self.look)

    # ---- running ---------------------------------------------------------------------------------

    def step(self, until: float) -> bool:
        """The next thing that happens; False if nothing does before that time."""
        self._glances = 0
        busy = [loop for loop in self.loops if loop.busy()]
        if busy:
            self.steps += 1
            self.clock.now += INSTANT
            (self.rng.choice(busy) if len(busy) > 1 else busy[0]).turn()
            if self.faulty:
                self.strike()
        else:
            self.checks.quiet()
            due = min(until, *(loop.due() for loop in self.loops)) if self.loops else until
            before = self.now
            happened = self.clock.step(due)
            self.clock.now = max(before, self.now)
            if not happened and due >= until:
                return False
        if self.failing:
            raise Violation(self.failing)
        return True

    def until(self, when: float) -> None:
        while self.step(when):
            if self.steps > STUCK:
                raise Violation("it does not come to an end")

    def run(self) -> World:
        """The whole.

        Raises:
            Violation: something that must hold did not.
        """
        self.start_loop()
        self.look()
        for _ in range(self.rng.randint(2, 6)):
            self.until(self.now + 0.05 * self.rng.random())
            self.fault()
        self.faulty = False
        end = self.now + BOUND
        while self.tasks:
            if self.now >= end:
                raise Violation(f"{len(self.tasks)} tasks wait for ever: {[s._core for s in self.pool._shards]}")
            self.until(self.now + 0.05)
        for loop in tuple(self.loops):
            self.close_loop(loop)
        self.until(self.now + 1.0)
        self.checks.rest()
        if self.failing:
            raise Violation(self.failing)
        return self


async def _aside(call: Callable[[], Any]) -> Any:
    """What a thread would do."""
    await asyncio.sleep(0.001)
    return call()


@contextlib.contextmanager
def _arranged(world: World, seed: int) -> Iterator[None]:
    """The real code, with this world's time, in this thread alone."""
    random.seed(seed)
    with contextlib.ExitStack() as stack:
        for name, module in tuple(sys.modules.items()):
            if name.startswith("poolmgr.pool") and vars(module).get("monotonic") is native.monotonic:
                stack.enter_context(patch.object(module, "monotonic", world.glance))
        for module in (claims, shell):
            stack.enter_context(patch.object(module, "aside", _aside))
        stack.enter_context(patch.object(Log, "_note", lambda *line: None))
        stack.enter_context(patch.object(Caller, "world", world, create=True))
        stack.enter_context(patch.object(waiting, "Caller", Caller))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", RuntimeWarning)  # of tasks that are thrown away before they begin
        gc.collect()
        gc.disable()
        try:
            yield
        finally:
            gc.enable()


def failure(seed: int) -> str:
    """How that seed's world fails; empty if it does not."""
    world = World(seed)
    with _arranged(world, seed):
        try:
            world.run()
        except (Violation, AssertionError) as error:
            return str(error) or type(error).__name__
        finally:
            for loop in tuple(world.loops):
                world.close_loop(loop)
    return ""
