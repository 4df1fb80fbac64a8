"""Pools for Sentinel: ``sentinel.master_for("name", connection_pool_class=poolmgr.asyncio.SentinelConnectionPool)``.

The rules are :mod:`poolmgr.pool.sentinels`'s.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import redis.asyncio
import redis.asyncio.sentinel
from redis.asyncio.sentinel import MasterNotFoundError

from poolmgr.pool import sentinels
from poolmgr.pool.aio.pool import ConnectionPool

if TYPE_CHECKING:
    _Theirs: Any
else:
    _Theirs = redis.asyncio.sentinel.SentinelConnectionPool

THEIRS = redis.asyncio.ConnectionPool, redis.asyncio.BlockingConnectionPool


class _InLoop(NamedTuple):
    """The questions of one loop."""

    one: asyncio.Lock
    rounds: dict[str, sentinels.Rounds]


class Asking:
    """A ``Sentinel``, asked one question at a time in each loop."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.restart()

    def restart(self) -> None:
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _InLoop] = weakref.WeakKeyDictionary()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    async def discover_master(self, service_name: str) -> Any:
        return await self._ask("discover_master", service_name)

    async def discover_slaves(self, service_name: str) -> Any:
        return await self._ask("discover_slaves", service_name)

    async def _ask(self, name: str, service_name: str) -> Any:
        loop = asyncio.get_running_loop()
        here = self._loops.get(loop)
        if here is None:
            kinds = {"discover_master": sentinels.Rounds(), "discover_slaves": sentinels.Rounds()}
            here = self._loops[loop] = _InLoop(asyncio.Lock(), kinds)
        rounds = here.rounds[name]
        came = rounds.come()
        async with here.one:
            if rounds.has_answer(came):
                return rounds.answer()
            with rounds.ask(self._manager, MasterNotFoundError) as question:
                question.value = await getattr(self._manager, name)(service_name)
            return question.value


class SentinelConnectionPool(_Theirs, ConnectionPool):  # type: ignore[misc]
    """redis-py's way of finding primary and replicas, our way of pooling.

    A connection's permit is that of the address it turns out to connect to, so each server has its own
    budget, and a failover moves the connections from one to the other. A Sentinel is such a server too: the clients
    of the ``Sentinel`` get pools of ours.
    """

    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        if not inspect.iscoroutinefunction(getattr(sentinel_manager, "discover_master", None)):
            raise TypeError(
                "this pool is for tasks, and a redis.Sentinel finds servers for threads: give it "
                "connection_pool_class=poolmgr.SentinelConnectionPool"
            )
        super().__init__(service_name, Asking(sentinel_manager), **kwargs)  # type: ignore[arg-type]
        sentinels.adopt(sentinel_manager, THEIRS, ConnectionPool, kwargs)

    def _after_fork(self) -> None:
        self.sentinel_manager.restart()
        super()._after_fork()

    def _described(self) -> str:
        role = "master" if self.is_master else "replica"
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__}(service={self.service_name}({role}))>"

    __repr__ = ConnectionPool.__repr__
