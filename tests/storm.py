"""What the callers of a storm do, with tasks and with threads, and what they count: every reply is known beforehand."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from typing import Any

import redis
import redis.asyncio

from poolmgr.member.permits import SocketPermit

CANCELLED = 0.2
"""The part of all tasks' commands that are cancelled, at any moment."""


def word() -> str:
    return f"{os.getpid()}-{random.random()}"


async def command(client: redis.asyncio.Redis, seen: Counter[str]) -> None:
    """One command of a task: an echo, a blocking one, a pipeline, a transaction with WATCH."""
    said = word()
    kind = random.random()
    work: Any
    if kind < 0.7:
        work, expected = client.echo(said), said.encode()
    elif kind < 0.8:
        work, expected = client.blpop("none", 0.01), None
    elif kind < 0.9:
        work, expected = _pipeline(client, said), said.encode()
    else:
        work, expected = _watch(client, said), said.encode()
    task = asyncio.ensure_future(work)
    if random.random() < CANCELLED:
        await asyncio.sleep(random.random() * 0.005)
        task.cancel()
    try:
        found: Any = await task
        seen["answered"] += 1
        seen["crossed"] += found != expected
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        current = asyncio.current_task()
        if current is not None and current.cancelling():
            raise
    except redis.RedisError as error:
        seen[f"{type(error).__name__}: {error}"] += 1


async def _pipeline(client: redis.asyncio.Redis, said: str) -> Any:
    async with client.pipeline(transaction=False) as pipe:
        pipe.echo("another")
        pipe.echo(said)
        return (await pipe.execute())[1]


async def _watch(client: redis.asyncio.Redis, said: str) -> Any:
    async with client.pipeline() as pipe:
        await pipe.watch(said)
        pipe.multi()
        pipe.echo(said)
        return (await pipe.execute())[0]


def command_of_thread(client: redis.Redis, seen: Counter[str]) -> None:
    """The same for a thread, which cannot be cancelled."""
    said = word()
    try:
        seen["crossed"] += client.echo(said) != said.encode()
        seen["answered"] += 1
    except redis.RedisError as error:
        seen[f"{type(error).__name__}: {error}"] += 1


def break_at(path: str) -> None:
    """From when this file is there, sockets outlive their permits: what the oracle must find. The check that it can
    fail."""
    kept, proper = [], SocketPermit.close

    def close(permit: SocketPermit, sock: Any) -> None:
        if not os.path.exists(path):
            proper(permit, sock)
            return
        kept.append(sock)
        permit.gone()

    SocketPermit.close = close  # type: ignore[method-assign, assignment]


if "STORM_BREAKS_AT" in os.environ:
    break_at(os.environ["STORM_BREAKS_AT"])
