"""The least that a pool and a client for asyncio can do: what stays of a figure when nothing is left to leave out.

:class:`LeastPool` and :class:`LeastConnection` check nothing and bound nothing. They stand beside the contestants of
:mod:`bench.parts.tasks`, so that a goal that is missed can be told from one that nobody can reach. :data:`STEPS` adds
to that pool, one after the other, what ours does in a checkout and its release: what each of them costs.
Each step is written out whole: a call in a checkout would cost as much as what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from threading import get_ident
from time import monotonic
from typing import Any

import hiredis
import redis.asyncio

_hooks = sys.get_asyncgen_hooks


class LeastConnection(asyncio.Protocol):
    """A transport and hiredis: one command at a time, no timeout, no look at anything."""

    def __init__(self, pool: LeastPool) -> None:
        self.retry = pool.make_connection().retry
        self.host, self.port, self.db = pool.connection_kwargs["host"], pool.connection_kwargs["port"], 0
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader()
        self._reply: asyncio.Future[Any]
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        self._reply.set_result(self._reader.gets())

    async def get(self, key: str) -> Any:
        """Without any client."""
        self._reply = reply = self._loop.create_future()
        self.transport.write(hiredis.pack_command(("GET", key)))  # type: ignore[arg-type]
        return await reply

    async def send_command(self, *words: Any, **_: Any) -> None:
        self._reply = self._loop.create_future()
        self.transport.write(hiredis.pack_command(words))

    async def read_response(self, **_: Any) -> Any:
        return await self._reply


class LeastPool(redis.asyncio.ConnectionPool):
    """Two coroutines, one deque, two looks at the clock (since when a connection is lent, and idle) and the question
    which loop runs."""

    kind = LeastConnection

    async def fill(self, count: int) -> None:
        """Connect so many."""
        self._loop = loop = asyncio.get_running_loop()
        self._teller: Any = loop if hasattr(loop, "_thread_id") else None
        self._hook = _hooks()[0]
        self._lent = self._since = 0.0
        where = self.connection_kwargs["host"], self.connection_kwargs["port"]
        self.least: deque[LeastConnection] = deque()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: self.kind(self), *where)
            self.least.append(connection)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if _hooks()[0] is not self._hook if self._teller is None else self._teller._thread_id != get_ident():
            raise RuntimeError("another loop")
        connection = self.least.popleft()
        self._lent = monotonic()
        return connection

    async def release(self, connection: Any) -> None:
        self._since = monotonic()
        self.least.append(connection)

    def end(self) -> None:
        """Close all."""
        for connection in self.least:
            connection.transport.close()


class _Counting(LeastPool):
    """Knows what is lent, how often, and how few were idle: what ``stats()``, a second release and a shrinking pool
    need."""

    async def fill(self, count: int) -> None:
        await super().fill(count)
        self.low, self.checkouts, self.origin = count, 0, object()
        for connection in self.least:
            connection.__dict__.update(loan=[], since=0.0, origin=self.origin)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if _hooks()[0] is not self._hook if self._teller is None else self._teller._thread_id != get_ident():
            raise RuntimeError("another loop")
        idle: Any = self.least
        connection = idle.popleft()
        left = len(idle)
        if left < self.low:
            self.low = left
        connection.loan.append(monotonic())
        self.checkouts += 1
        return connection

    async def release(self, connection: Any) -> None:
        try:
            if connection.origin is not self.origin:
                return
            connection.loan.pop()
        except (IndexError, AttributeError):
            return
        connection.since = monotonic()
        self.least.append(connection)


class _Looking(_Counting):
    """And hands out no connection that has ended, has something to read, or is too old."""

    async def fill(self, count: int) -> None:
        await super().fill(count)
        for connection in self.least:
            connection.__dict__.update(stream=connection, stirred=False, expires=float("inf"))

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if _hooks()[0] is not self._hook if self._teller is None else self._teller._thread_id != get_ident():
            raise RuntimeError("another loop")
        idle: Any = self.least
        connection = idle.popleft()
        left = len(idle)
        if left < self.low:
            self.low = left
        now = monotonic()
        stream = connection.stream
        if stream is None or stream.stirred or now >= connection.expires:
            raise RuntimeError("look closely")
        connection.loan.append(now)
        self.checkouts += 1
        return connection


class _Asking(_Looking):
    """And asks what a release may owe: replies, a permit that is wanted back, callers that wait, those who listen."""

    async def fill(self, count: int) -> None:
        await super().fill(count)
        self.queue, self.watched, self.metrics, self.usual = [], False, None, None  # type: ignore[var-annotated]
        self.listeners: dict[str, Any] = {"released": None}
        for connection in self.least:
            connection.__dict__.update(owed=0, special=False, draws=self, home=self)
        self.surplus = 0

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if _hooks()[0] is not self._hook if self._teller is None else self._teller._thread_id != get_ident():
            raise RuntimeError("another loop")
        if self.queue or self.watched or self.metrics is not None:
            raise RuntimeError("look closely")
        idle: Any = self.least
        connection = idle.popleft()
        left = len(idle)
        if left < self.low:
            self.low = left
        now = monotonic()
        stream = connection.stream
        if stream is None or stream.stirred or now >= connection.expires:
            raise RuntimeError("look closely")
        connection.loan.append(now)
        self.checkouts += 1
        return connection

    async def release(self, connection: Any) -> None:
        try:
            if connection.origin is not self.origin:
                return
            connection.loan.pop()
        except (IndexError, AttributeError):
            return
        home = connection.home
        if (
            connection.owed
            or connection.special
            or connection.stream is None
            or connection.draws.surplus > 0
            or self.listeners["released"] is not self.usual
            or self.metrics is not None
        ):
            raise RuntimeError("look closely")
        connection.since = monotonic()
        home.least.append(connection)
        if home.queue:
            raise RuntimeError("wake one")


class CarefulConnection(LeastConnection):
    """And counts what it is owed, gives each reply a time, ends when its task is cancelled, and knows that it has
    ended."""

    SECONDS = 5.0

    def __init__(self, pool: LeastPool) -> None:
        super().__init__(pool)
        self.owed, self.stirred, self.choked = 0, False, None
        self.error: Exception | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._deadline = self._fires_at = float("inf")

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except Exception as error:
            self.error = error
        waiter = self._waiter
        if waiter is None:
            self.stirred = True
        elif not waiter.done():
            waiter.set_result(True)

    async def send_command(self, *words: Any, **_: Any) -> None:
        packed = hiredis.pack_command(words)
        if words[0] not in STATELESS:
            raise RuntimeError("look closely")
        self.owed += 1
        if self.error is not None:
            raise self.error
        self.transport.write(packed)
        if self.choked is not None:
            raise RuntimeError("wait")

    async def read_response(self, **_: Any) -> Any:
        reader = self._reader
        try:
            while (reply := reader.gets()) is False:
                if self.error is not None:
                    raise self.error
                self._waiter = waiter = self._loop.create_future()
                self._deadline = deadline = monotonic() + self.SECONDS
                if deadline < self._fires_at:
                    self._fires_at = deadline
                    self._loop.call_later(self.SECONDS, self._fire)
                try:
                    came = await waiter
                finally:
                    self._waiter = None
                if not came:
                    raise TimeoutError
        except BaseException:
            self.transport.abort()
            raise
        self.owed -= 1
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _fire(self) -> None:
        self._fires_at = float("inf")
        waiter = self._waiter
        if waiter is None or waiter.done():
            return
        left = self._deadline - monotonic()
        if left <= 0:
            waiter.set_result(False)
        else:
            self._fires_at = self._deadline
            self._loop.call_later(left, self._fire)


STATELESS = frozenset(("GET",))


class _Careful(_Asking):
    kind = CarefulConnection


STEPS: dict[str, type[LeastPool]] = {
    "coroutines, deque, clock, loop": LeastPool,
    "and what is lent is known": _Counting,
    "and no dead or old one is handed out": _Looking,
    "and a release asks what it owes": _Asking,
}
"""What is added to the pool of the line before."""

STEPS_OF_GET: dict[str, type[LeastPool]] = {
    **STEPS,
    "and replies are counted, have a time, and may be cancelled": _Careful,
}
"""The same for a command through redis-py's client, and what is added to its connections."""
