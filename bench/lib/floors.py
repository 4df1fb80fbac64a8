"""The least that a pool and a client for asyncio can do: what stays of a figure when nothing is left to leave out.

:class:`LeastPool` and :class:`LeastConnection` check nothing and bound nothing. They stand beside the contestants of
:mod:`bench.parts.tasks`, so that a goal that is missed can be told from one that nobody can reach.
"""

from __future__ import annotations

import asyncio
from collections import deque
from threading import get_ident
from time import monotonic
from typing import Any

import hiredis
import redis.asyncio

_running = asyncio._get_running_loop


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

    async def fill(self, count: int) -> None:
        """Connect so many."""
        self._loop = loop = asyncio.get_running_loop()
        self._teller: Any = loop if hasattr(loop, "_thread_id") else None
        self._lent = self._since = 0.0
        where = self.connection_kwargs["host"], self.connection_kwargs["port"]
        self.least: deque[LeastConnection] = deque()
        for _ in range(count):
            _, connection = await loop.create_connection(lambda: LeastConnection(self), *where)
            self.least.append(connection)

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        if _running() is not self._loop if self._teller is None else self._teller._thread_id != get_ident():
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
