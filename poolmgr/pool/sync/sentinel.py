"""Pools for Sentinel: ``sentinel.master_for("name", connection_pool_class=SentinelConnectionPool)``.

The rules are :mod:`poolmgr.pool.sentinels`'s.
"""

from __future__ import annotations

import inspect
import threading
from typing import Any

import redis
import redis.sentinel
from redis.sentinel import MasterNotFoundError

from poolmgr.pool import sentinels
from poolmgr.pool.sync.pool import ConnectionPool
from poolmgr.taking import taken

THEIRS = redis.ConnectionPool, redis.BlockingConnectionPool


class Asking:
    """A ``Sentinel``, asked one question at a time."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self.restart()

    def restart(self) -> None:
        """In a forked child too, where another thread's lock would never be released."""
        self._one = threading.RLock()  # a signal handler may ask while its thread does
        self._rounds = {"discover_master": sentinels.Rounds(), "discover_slaves": sentinels.Rounds()}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._manager, name)

    def discover_master(self, service_name: str) -> Any:
        return self._ask("discover_master", service_name)

    def discover_slaves(self, service_name: str) -> Any:
        return self._ask("discover_slaves", service_name)

    def _ask(self, name: str, service_name: str) -> Any:
        rounds = self._rounds[name]
        came = rounds.come()
        answer: Any = None
        for _ in taken(self._one):
            try:
                answer = self._answer(rounds, came, name, service_name)
            finally:
                self._one.release()
        return answer

    def _answer(self, rounds: sentinels.Rounds, came: int, name: str, service_name: str) -> Any:
        if rounds.has_answer(came):
            return rounds.answer()
        with rounds.ask(self._manager, MasterNotFoundError) as question:
            question.value = getattr(self._manager, name)(service_name)
        return question.value


class SentinelConnectionPool(redis.sentinel.SentinelConnectionPool, ConnectionPool):
    """redis-py's way of finding master and replicas, our way of pooling.

    A connection's permit is that of the address it turns out to connect to, so each server has its own
    budget, and a failover moves the connections from one to the other. A Sentinel is such a server too: the clients
    of the ``Sentinel`` get pools of ours.
    """

    def __init__(self, service_name: str, sentinel_manager: Any, **kwargs: Any) -> None:
        if inspect.iscoroutinefunction(getattr(sentinel_manager, "discover_master", None)):
            raise TypeError(
                "this pool is for threads, and a redis.asyncio.Sentinel finds servers for tasks: give it "
                "connection_pool_class=poolmgr.asyncio.SentinelConnectionPool"
            )
        self._asking = Asking(sentinel_manager)
        super().__init__(service_name, sentinel_manager, **kwargs)  # type: ignore[no-untyped-call]
        self.proxy.sentinel_manager = self._asking
        sentinels.adopt(sentinel_manager, THEIRS, ConnectionPool, kwargs)

    def _after_fork(self) -> None:
        self._asking.restart()
        super()._after_fork()

    def __repr__(self) -> str:
        role = "master" if self.is_master else "replica"
        kind = type(self)
        return f"<{kind.__module__}.{kind.__name__}(service={self.service_name}({role}))> {self._state_in_words()}"
