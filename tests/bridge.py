"""The pool for tasks behind the interface of the pool for threads: a test written for threads runs on both.

Where a test uses the fixture ``flavour`` it runs twice, and :mod:`tests.pools` makes the pools of that flavour. Those
for tasks live in a loop in a thread of its own; a call waits for what it awaits there.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import redis.asyncio
import redis.retry
from redis.asyncio.client import Monitor, Pipeline, PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry

from poolmgr.asyncio import ConnectionPool, SentinelConnectionPool
from poolmgr.pool.aio.lease import Lease

BRIDGED = (redis.asyncio.Redis, Pipeline, PubSub, Monitor, AbstractConnection, Lease)
"""What a call may return that has coroutines of its own."""

OF_SHARD = frozenset({"_core", "_idle", "_queue", "_advance", "_low"})
"""Attributes that a pool for tasks has in each loop."""


RENAMED = {"close": "aclose"}


class Tasks:
    """A loop in a thread, and the pools in it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.pools: list[ConnectionPool] = []
        self._bridges: dict[int, Bridge] = {}
        self._thread = threading.Thread(target=self.loop.run_forever, name="flavour-tasks", daemon=True)
        self._thread.start()

    def pool(self, **options: Any) -> Any:
        retry = options.get("retry")
        if isinstance(retry, redis.retry.Retry):
            options["retry"] = Retry(retry._backoff, retry._retries)
        return self._kept(ConnectionPool(**options))

    def pool_at(self, url: str, **options: Any) -> Any:
        return self._kept(ConnectionPool.from_url(url, **options))

    def _kept(self, made: ConnectionPool) -> Any:
        self.pools.append(made)
        return self.bridge(made)

    def sentinel_pool(self, port: int, **options: Any) -> Any:
        async def make() -> ConnectionPool:
            sentinel = redis.asyncio.Sentinel([("127.0.0.1", port)], socket_timeout=5)
            client = sentinel.master_for("main", connection_pool_class=SentinelConnectionPool, **options)
            client.auto_close_connection_pool = False
            pool: ConnectionPool = client.connection_pool
            return pool

        made = self.run(make)
        self.pools.append(made)
        return self.bridge(made)

    def bridge(self, thing: Any) -> Bridge:
        """Always the same for the same."""
        found = self._bridges.get(id(thing))
        if found is None:
            found = self._bridges[id(thing)] = Bridge(self, thing)
        return found

    def run(self, call: Any, *arguments: Any, **options: Any) -> Any:
        """What the call returns, or what it returns when it is awaited, in the loop."""

        async def work() -> Any:
            found = call(*arguments, **options)
            return await found if inspect.iscoroutine(found) else found

        found = asyncio.run_coroutine_threadsafe(work(), self.loop).result()
        return self.bridge(found) if isinstance(found, BRIDGED) else found

    def end(self) -> None:
        for pool in self.pools:
            self.run(pool.aclose)
        self._bridges.clear()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Bridge:
    """See the module's docstring."""

    _tasks: Tasks
    _thing: Any

    def __init__(self, tasks: Tasks, thing: Any) -> None:
        self.__dict__.update(_tasks=tasks, _thing=thing)

    def __getattr__(self, name: str) -> Any:
        thing = self._thing
        if name in OF_SHARD and isinstance(thing, ConnectionPool):
            thing = self._tasks.run(thing._here)
        found = getattr(thing, RENAMED.get(name, name))
        if not callable(found) or isinstance(found, type):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            return self._tasks.run(found, *map(_plain, arguments), **options)

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._thing, name, value)

    def __repr__(self) -> str:
        return repr(self._thing)

    def __eq__(self, other: object) -> bool:
        return self._thing is _plain(other)

    def __hash__(self) -> int:
        return id(self._thing)

    def __enter__(self) -> Any:
        return self._tasks.run(self._thing.__aenter__)

    def __exit__(self, *error: Any) -> Any:
        return self._tasks.run(self._thing.__aexit__, *error)


def _plain(value: Any) -> Any:
    return value._thing if isinstance(value, Bridge) else value


present: Tasks | None = None
"""Where the pools of the present test live; None: in threads."""


@contextlib.contextmanager
def flavoured(flavour: str) -> Iterator[None]:
    """Pools are of this flavour meanwhile."""
    global present
    present = Tasks() if flavour == "tasks" else None
    try:
        yield
    finally:
        tasks, present = present, None
        if tasks is not None:
            tasks.end()
