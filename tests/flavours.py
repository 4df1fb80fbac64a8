"""One test for every flavour: clients for tasks, driven as those for threads are. Their loop stands still between two
calls."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import redis
import redis.asyncio

import poolmgr
import poolmgr.asyncio
from tests.walker import LOOPS

FLAVOURS = ("threads", *LOOPS)


class Driven:
    """An object whose methods may be coroutines, called as if they were not."""

    def __init__(self, runner: asyncio.Runner, inner: Any) -> None:
        self._runner = runner
        self.inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if name == "connection_pool":
            return Driven(self._runner, found)
        if not callable(found):
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            async def run() -> Any:
                made = found(*(getattr(argument, "inner", argument) for argument in arguments), **options)
                return await made if inspect.isawaitable(made) and not hasattr(made, "execute_command") else made

            made = self._runner.run(run())
            return Driven(self._runner, made) if name in ("pubsub", "pipeline", "monitor", "get_connection") else made

        return call

    def __enter__(self) -> Driven:
        entered = self._runner.run(self.inner.__aenter__())
        return self if entered is self.inner else Driven(self._runner, entered)

    def __exit__(self, *error: Any) -> None:
        self._runner.run(self.inner.__aexit__(*error))


@contextlib.contextmanager
def client_on(flavour: str, url: str, **options: Any) -> Iterator[Any]:
    """A client of this flavour on a pool of its own; its ``connection_pool`` is the pool."""
    if flavour == "threads":
        pool = poolmgr.ConnectionPool.from_url(url, **options)
        yield redis.Redis(connection_pool=pool)
        pool.close()
        return
    with asyncio.Runner(loop_factory=LOOPS[flavour]) as runner:
        tasks = poolmgr.asyncio.ConnectionPool.from_url(url, **options)
        yield Driven(runner, redis.asyncio.Redis(connection_pool=tasks))
        runner.run(tasks.aclose())
