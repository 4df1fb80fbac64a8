"""The part of a pool that lives in one event loop: its connections, its queue and its core.

A connection belongs to the loop of its transport, so a pool that is used in several loops has a shard in each. Most
have one. What a user sets and what is counted is the pool's (:class:`poolmgr.pool.aio.pool.ConnectionPool`), to which a
shard refers weakly: no cycle keeps sockets alive.

Any thread may advance a shard's core, as any thread's pool (:class:`poolmgr.pool.base.BasePool`): tasks are woken and
started in their own loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

from redis.asyncio.observability import recorder
from redis.observability.attributes import ConnectionState, get_pool_name

from poolmgr.errors import PoolmgrError
from poolmgr.member.core.bounds import ANSWER
from poolmgr.member.ports import Claimant, Permit
from poolmgr.native import monotonic
from poolmgr.pool import admission, housekeeping
from poolmgr.pool.aio.aside import aside
from poolmgr.pool.aio.finish import finish
from poolmgr.pool.base import BasePool, teller
from poolmgr.pool.parts import RESERVED, Part, is_served
from poolmgr.pool.queue import LEFT, NEVER, PoolCore, Ticket, Waiter
from poolmgr.pool.stats import Stats


class _Of:
    """An attribute of the pool. A destructor that uses the pool may run after the garbage collector has cut all weak
    references to it: then it has the value that it had in the beginning."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, shard: Shard, owner: type) -> Any:
        pool = shard.home()
        return shard.first[self._name] if pool is None else getattr(pool, self._name)

    def __set__(self, shard: Shard, value: Any) -> None:
        pool = shard.home()
        if pool is not None:
            setattr(pool, self._name, value)


class Shard(BasePool):
    """See the module's docstring.

    Args:
        pool: the :class:`poolmgr.pool.aio.pool.ConnectionPool`.
        opener: opens a connection for the queue, with the ticket that it is offered.
    """

    name: Any = _Of()
    timeout: Any = _Of()
    max_waiting: Any = _Of()
    idle_timeout: Any = _Of()
    max_lifetime: Any = _Of()
    leak_after: Any = _Of()
    hooks: Any = _Of()
    connection_class: Any = _Of()
    _ensures: Any = _Of()
    connection_kwargs: Any = _Of()
    _misdirected_at: Any = _Of()
    _misdirected_by: Any = _Of()
    _watched: Any = _Of()
    _strict: Any = _Of()

    def __init__(
        self,
        pool: Any,
        loop: asyncio.AbstractEventLoop,
        opener: Callable[[Shard, list[Ticket]], Coroutine[Any, Any, None]],
    ) -> None:
        self.loop = loop
        self.teller: Any = loop if hasattr(loop, "_thread_id") else None
        """The loop, if it tells in which thread it runs (``_thread_id``, as asyncio's do). To read that is quicker than
        ``_get_running_loop``, which asks the kernel for the process's id before Python 3.12. uvloop's does not tell."""
        self.hook: Any = object()
        """By which uvloop's is known instead: the method of its own that every loop has its thread call for new
        asynchronous generators, from the beginning of its run to the end."""
        self._opener = opener
        self.home = weakref.ref(pool)
        self.first = {name: getattr(pool, name) for name, kind in vars(Shard).items() if isinstance(kind, _Of)}
        self._owner = {}
        self._dirty = False
        self._core = core = PoolCore(
            ceiling=pool.max_connections, lifo=pool.order == "lifo", max_opening=pool.max_connecting
        )
        core.min_idle = pool.min_idle
        core.closed = pool.closed
        core.on_lost = teller(self)
        self._idle, self._queue = core.idle, core.queue
        self._lifo = core.lifo
        self._origin = pool._origin
        self.pid = os.getpid()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.claimants: set[Claimant] = set()
        """Tasks that wait for a permit themselves."""
        housekeeping.restart_counting(self)
        self._tally = pool._tally
        self.errand: Any = None
        """The last one sent to other loops (:mod:`poolmgr.pool.aio.errand`)."""
        self.got_at = float("-inf")
        """When this loop last got what another one had (monotonic seconds)."""
        self.reserved_until = 0.0
        """Other loops do not grow before that, since this one is about to."""
        self.looks_at = NEVER
        """When the head of its queue looks whether it may have what another loop's tasks could use."""
        self._claimant: Claimant | None = None
        self._size = 0
        """As the other loops know it."""

    def note_hook(self) -> None:
        """It runs here and now."""
        found: Any = sys.get_asyncgen_hooks()[0]
        self.hook = found if getattr(found, "__self__", None) is self.loop else object()

    def _advance(self, may_open: bool = True) -> None:
        pool = self.home()
        if pool is None or (len(pool._shards) < 2 and self._core.ceiling == pool._ceiling):
            super()._advance(may_open)
            return
        pool._make_room(self)
        super()._advance(may_open)
        pool._receive()
        pool._fetch(self)
        if (self.reserved_until or self.errand is not None) and is_served(self.part()):
            self._settle()
        self._tell_smaller(pool)

    def _tell_smaller(self, pool: Any) -> None:
        """A place that was freed here may be another loop's."""
        before, self._size = self._size, self._core.size
        if self._size < before:
            pool._pass_on(self)

    def _dispose(self, connection: Any, reason: str, *, was_idle: bool = True) -> None:
        super()._dispose(connection, reason, was_idle=was_idle)
        pool = self.home()
        if pool is not None and len(pool._shards) > 1:
            self._tell_smaller(pool)

    # ---- what the parts of the pool decide by ------------------------------------------------------

    def head(self) -> Waiter | None:
        """The first task of its own that waits."""
        for waiter in tuple(self._queue):
            if waiter.fate is None and not waiter.elsewhere:
                return waiter
        return None

    def part(self) -> Part:
        """What is known of it now."""
        core = self._core
        head = self.head() if self._queue else None
        sent = self.errand
        return Part(
            len(core.places),
            core.ceiling,
            len(core.idle),
            len(core.opening),
            None if head is None else head.since,
            head is not None and core.starved and not self.answer_is_due(),
            core.closed is not None,
            sent is not None and sent.fate is None,
            self.got_at,
            self.reserved_until,
            core.connect_time,
            core.retry_at,
        )

    def call_head(self, *, anew: bool = False) -> None:
        """Have the first of its tasks look.

        Args:
            anew: there may be a permit.
        """
        if anew:
            self._core.starved = False
        head = self.head()
        if head is not None:
            head.wake()

    # ---- what another loop has lost for this one ---------------------------------------------------

    def give(self, now: float) -> None:
        """A place is free for this loop, and its permit soon: no other loop and no other pool may take them first."""
        self.got_at, self.reserved_until = now, now + RESERVED
        permits = self._origin.attach()
        if permits is not None and self._claimant is None:
            try:
                self._claimant = permits.claimant(RESERVED, self)
            except PoolmgrError:
                return

    def ring(self) -> None:
        """The permit may be free."""
        self.grow()

    def _take(self) -> Permit | None:
        claimant = self._claimant
        if claimant is None:
            return super()._take()
        try:
            found = claimant.look()
        except PoolmgrError:
            self._settle()
            return super()._take()
        if found is None or isinstance(found, float):
            return None
        self._settle()
        return found

    def _settle(self) -> None:
        """It has it, or needs it no more."""
        self.reserved_until = 0.0
        sent, self.errand = self.errand, None
        if sent is not None:
            sent.settle(LEFT)
        claimant, self._claimant = self._claimant, None
        if claimant is not None:
            claimant.leave()

    def make_room(self) -> None:
        """Find out how many connections it may have."""
        pool = self.home()
        if pool is not None and len(pool._shards) > 1:
            pool._make_room(self)

    def _remind(self) -> None:
        if self._queue and self._due(monotonic()) < NEVER:
            self.call_head()

    def _due(self, now: float) -> float:
        pool = self.home()
        due = super()._due(now)
        return due if pool is None else min(due, pool._patience(self, now))

    @property  # type: ignore[misc]  # it is set on the pool
    def max_connections(self) -> int:
        """The pool's, for all loops together."""
        pool = self.home()
        return self._core.ceiling if pool is None else int(pool.max_connections)

    def _blocks(self) -> Any:
        return None  # a task that waits lets others run

    def stats(self) -> Stats:
        pool = self.home()
        return super().stats() if pool is None else pool.stats()

    def answer_is_due(self) -> bool:
        """Whether the supervisor has been asked for a permit, and has not answered."""
        permits = self._origin.attach()
        return permits is not None and permits.pending == ANSWER

    def tell_login(self, key: str) -> None:
        """As the base's, with the loop beside the thread: a provider's methods for tasks belong to it."""
        if not self.soon(lambda: aside(lambda: self._tell_login(key))):
            super().tell_login(key)

    # ---- the base's questions --------------------------------------------------------------------

    def _open(self, ticket: Ticket) -> None:
        offered = [ticket]
        del ticket
        if asyncio._get_running_loop() is self.loop:
            self._begin(offered)
            return
        try:
            self.loop.call_soon_threadsafe(self._begin, offered)
        except RuntimeError:  # it is closed, and so is the shard soon
            self._core.drop(offered.pop())

    def _begin(self, offered: list[Ticket]) -> None:
        if not self.start(self._opener(self, offered), lambda: self._take_back(offered)):
            self._take_back(offered)

    def _take_back(self, offered: list[Ticket]) -> None:
        if offered:  # its task was cancelled before it began
            self._core.drop(offered.pop())
            if self._queue:
                self._advance(may_open=False)

    def start(self, work: Coroutine[Any, Any, Any], after: Callable[[], object] | None = None) -> bool:
        """Run it in a task of this loop, which is the running one. False: there can be none any more.

        Args:
            after: to be called when the task has ended, however it did.
        """
        try:
            task = self.loop.create_task(work)
        except RuntimeError:
            work.close()
            return False
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # a loop may be closed with it
        self._tasks.add(task)

        def done(task: asyncio.Task[Any]) -> None:
            self._tasks.discard(task)
            if after is not None:
                after()

        task.add_done_callback(done)
        return True

    def soon(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> bool:
        """The same from any thread."""
        if asyncio._get_running_loop() is self.loop:
            return self.start(work())
        try:
            self.loop.call_soon_threadsafe(lambda: self.start(work()))
        except RuntimeError:
            return False
        return True

    def stop(self) -> None:
        """Cancel what goes on in the background: it gives back what it holds at the loop's next turn."""
        for task in tuple(self._tasks):
            if asyncio._get_running_loop() is self.loop:
                task.cancel()
                continue
            try:
                self.loop.call_soon_threadsafe(task.cancel)
            except RuntimeError:  # the loop is closed
                return

    def _end(self, connection: Any) -> None:
        finish(connection.disconnect())

    def owns_connection(self, connection: Any) -> bool:
        pool = self.home()
        return super().owns_connection(connection) and (pool is None or bool(pool.owns_connection(connection)))

    def _give_back(self, connection: Any) -> None:
        if connection._loan:
            connection._loan.pop()
            self.make_room()
            admission.keep(self, connection, admission.flaw(self, connection))

    def _count(self, state: ConnectionState, change: int) -> None:
        pool = self.home()
        if pool is not None:
            finish(recorder.record_connection_count(get_pool_name(pool), state, change))

    def _tell_waited(self, seconds: float) -> None:
        pool = self.home()
        if pool is not None and recorder._async_metrics_collector is not None:
            finish(recorder.record_connection_wait_time(get_pool_name(pool), seconds))

    def _tell_timeout(self) -> None:
        pool = self.home()
        if pool is not None:
            finish(recorder.record_connection_timeout(get_pool_name(pool)))

    # ---- its end ---------------------------------------------------------------------------------

    def bury(self) -> None:
        """The loop was closed: its tasks are gone, and so is what they held. The permits are the process's again."""
        self._settle()
        for waiter in tuple(self._queue):
            self._core.leave(waiter)
        while self.claimants:
            self.claimants.pop().leave()
        self._core.min_idle = 0
        for connection in self._connections():
            housekeeping.take_out(self, connection)
            connection._loan.clear()
            self._dispose(connection, "loop")
        for ticket in self._core.tickets():
            self._core.drop(ticket)
